"""/healthz: is the process alive? /readyz: should it get traffic?"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service.routes.common import OUTCOMES, GatewayDep, Responses
from service.strict_json import StrictJSONResponse
from service.upstream_metrics import reports_of

router = APIRouter(tags=["operations"], responses=OUTCOMES)

_STATUS = {"application/json": {"schema": {"type": "object", "required": ["status"]}}}


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Response:
    """Return 200 whenever the process can answer at all."""
    return StrictJSONResponse({"status": "alive"})


_NOT_READY: Responses = {503: {"description": "not now", "content": _STATUS}}


@router.get("/readyz", summary="Should it get traffic?", responses=_NOT_READY)
async def readyz(gateway: GatewayDep) -> Response:
    """Return 200 when requests are taken, else 503 and what is missing; and how upstreams do."""
    missing = []
    if not gateway.engine.alive:
        missing.append(gateway.engine.trouble)
    if gateway.draining:
        missing.append("the gateway is stopping")
    body: dict[str, Any] = {"status": "not ready" if missing else "ready", "missing": missing}
    # They make nobody unready: what they don't answer the local model does.
    upstreams = {told.name: told.standing for told in reports_of(gateway.pipeline.upstream)}
    if upstreams:
        body["upstreams"] = upstreams
    return StrictJSONResponse(body, 503 if missing else 200)
