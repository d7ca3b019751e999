"""POST /v1/responses: OpenAI's newer endpoint, for text; nothing is kept between requests."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.parse import check_chat_request, read_request
from service.response_objects import ResponseForm
from service.responses import ResponsesRequest, chat_body
from service.routes.chat import respond
from service.routes.common import ANSWERS, OUTCOMES, PlainRoute, takes

router = APIRouter(tags=["chat"], responses=OUTCOMES, route_class=PlainRoute)


@router.post(
    "/v1/responses",
    summary="Respond to a text or a conversation",
    responses=ANSWERS,
    openapi_extra=takes(ResponsesRequest, "OpenAI's request, with an optional `router` object"),
)
async def responses(request: Request) -> Response:
    """Respond to a text or a conversation, with a `router` object in the response."""
    said, raw = await read_request(request, ResponsesRequest)
    chat = check_chat_request(chat_body(said, raw))
    return await respond(request, chat, ResponseForm(said))
