"""/healthz: is the process alive? /readyz: should it get traffic?"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from service.routes.common import GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Response:
    """Return 200 whenever the process can answer at all."""
    return StrictJSONResponse({"status": "alive"})


@router.get("/readyz", summary="Should it get traffic?")
async def readyz(gateway: GatewayDep) -> Response:
    """Return 200 when requests are taken, else 503 and what is missing."""
    missing = []
    if not gateway.engine.alive:
        missing.append(gateway.engine.trouble)
    if gateway.draining:
        missing.append("the gateway is stopping")
    body = {"status": "not ready" if missing else "ready", "missing": missing}
    return StrictJSONResponse(body, 503 if missing else 200)
