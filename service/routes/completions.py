"""POST /v1/completions: OpenAI's legacy endpoint, a prompt in and its continuation out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.parse import check_chat_request, read_request
from service.routes.chat import respond
from service.routes.common import ANSWERS, OUTCOMES, PlainRoute, takes
from service.text_completions import CompletionRequest, TextForm, chat_body

router = APIRouter(tags=["chat"], responses=OUTCOMES, route_class=PlainRoute)


@router.post(
    "/v1/completions",
    summary="Answer a prompt",
    responses=ANSWERS,
    openapi_extra=takes(CompletionRequest, "OpenAI's legacy request, with an optional `router`"),
)
async def completions(request: Request) -> Response:
    """Answer a prompt as if it were one user message of a conversation."""
    said, raw = await read_request(request, CompletionRequest)
    chat = check_chat_request(chat_body(said, raw))
    form = TextForm(bool(said.stream_options and said.stream_options.include_usage))
    return await respond(request, chat, form)
