"""POST /v1/route: where a conversation would be answered, and the scores behind it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.access import account_of
from service.disconnect import until_disconnect
from service.errors import bad_request
from service.keys import tenant_of
from service.parse import read_chat_request
from service.query import to_query
from service.replies import Envelope, route_decision, router_headers
from service.routes.common import OUTCOMES, GatewayDep, takes_chat_request
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"], responses=OUTCOMES)


@router.post(
    "/v1/route",
    summary="Decide, without escalating",
    openapi_extra=takes_chat_request("The request to decide on; it can't be streamed"),
)
async def route(request: Request, gateway: GatewayDep) -> Response:
    """Return the local answer and what would become of it. Nothing leaves the machine."""
    chat, raw = await read_chat_request(request)
    if chat.stream:
        raise bad_request("A decision can't be streamed; leave 'stream' out.", "stream")
    tenant = tenant_of(request.headers)
    account = account_of(request)
    query = to_query(
        chat,
        raw,
        n_vocab=gateway.info.n_vocab,
        tenant=tenant,
        account=account,
        local_tools=gateway.settings.local_tools == "on",
    )
    query = await gateway.private(query)
    served = await until_disconnect(request, gateway.route(query))
    body = route_decision(served.answer, Envelope.new(gateway.info), served.cache)
    return StrictJSONResponse(body, headers=router_headers(served.answer.decision, served.cache))
