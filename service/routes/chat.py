"""POST /v1/chat/completions: a routed answer, in one piece or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from router.answer import Decision
from service.access import account_of
from service.disconnect import until_disconnect
from service.forms import ChatForm, Form
from service.gateway import StreamHead, StreamItem
from service.keys import tenant_of
from service.openai import ChatRequest
from service.parse import Parsed, read_chat_request
from service.query import to_query, wants_logprobs
from service.replies import CacheStatus, Envelope, completion, router_headers
from service.routes.common import (
    ANSWERS,
    OUTCOMES,
    PlainRoute,
    gateway_of,
    log_facts,
    takes_chat_request,
)
from service.sse import ChunkWriter, EventStream
from service.strict_json import StrictJSONResponse, finite

router = APIRouter(tags=["chat"], responses=OUTCOMES, route_class=PlainRoute)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    responses=ANSWERS,
    openapi_extra=takes_chat_request("OpenAI's request, with an optional `router` object"),
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, locally where the small model is sure enough.

    The response is OpenAI's, with a `router` object that says where the answer comes from and why,
    and its short form in `X-Router-*` headers.
    """
    chat = await read_chat_request(request)
    options = chat.request.stream_options
    return await respond(request, chat, ChatForm(bool(options and options.include_usage)))


async def respond(request: Request, asked: Parsed[ChatRequest], form: Form) -> Response:
    """Answer what was asked, in the form of the endpoint where it was."""
    gateway = gateway_of(request)
    chat, raw = asked
    tenant = tenant_of(request.headers)
    query = to_query(
        chat,
        raw,
        n_vocab=gateway.info.n_vocab,
        tenant=tenant,
        account=account_of(request),
        stream_mode=gateway.settings.stream_mode,
        local_tools=gateway.settings.local_tools == "on",
    )
    query = await gateway.private(query)
    use = gateway.cache_use(query, request.headers)
    envelope = Envelope.new(gateway.info, form.new_id())
    if chat.stream:
        items = gateway.stream(query, use=use, id=envelope.id)
        writer = ChunkWriter(
            envelope,
            include_usage=form.include_usage,
            logprobs=wants_logprobs(query),
            n_top=query.top_logprobs,
        )
        return await _streamed(request, items, form, writer)
    served = await until_disconnect(request, gateway.answer(query, use=use, id=envelope.id))
    log_facts(request).update(_log_line(served.answer.decision, served.cache))
    body = completion(
        served.answer,
        served.cache,
        envelope,
        logprobs=wants_logprobs(query),
        n_top=query.top_logprobs,
    )
    headers = router_headers(served.answer.decision, served.cache, served.age)
    return StrictJSONResponse(form.whole(body), headers=headers)


async def _streamed(
    request: Request, items: AsyncGenerator[StreamItem, None], form: Form, writer: ChunkWriter
) -> Response:
    """Wait for the decision, which may still fail as an HTTP error, then stream."""
    head = await until_disconnect(request, anext(items))
    if not isinstance(head, StreamHead):
        raise TypeError(f"a stream begins with its head, not with {type(head).__name__}")
    facts = log_facts(request)
    facts.update(_log_line(head.decision, head.cache))
    headers = router_headers(head.decision, head.cache, head.age)
    return EventStream(form.events(items, writer, facts), items, headers)


def _log_line(decision: Decision, cache: CacheStatus) -> Mapping[str, Any]:
    return {
        "route": decision.route,
        "reason": decision.reason,
        "p_correct": finite(decision.p_correct),
        "threshold": finite(decision.threshold),
        "degraded": decision.degraded,
        "cache": cache,
    }
