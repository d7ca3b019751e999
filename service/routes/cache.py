"""DELETE /v1/cache: forget kept answers."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request
from redis.exceptions import RedisError
from starlette.responses import Response

from service.access import account_of
from service.errors import ApiError
from service.keys import tenant_of
from service.routes.common import GatewayDep
from service.strict_json import StrictJSONResponse

logger = logging.getLogger(__name__)

router = APIRouter(tags=["operations"])

Calibration = Annotated[
    str | None,
    Query(pattern="^sha256:[0-9a-f]{12,64}$", description="only answers it decided on"),
]


@router.delete("/v1/cache", summary="Forget the caller's kept answers")
async def purge(request: Request, gateway: GatewayDep, calibration: Calibration = None) -> Response:
    """Forget what the cache keeps of the caller's answers; those of other keys stay.

    503 when Redis could not be asked: answers may still be there then.
    """
    tenant = account_of(request).id or tenant_of(request.headers)
    try:
        n = await gateway.purge(tenant=tenant, calibration=calibration)
    except (RedisError, OSError) as exc:
        logger.error("cache not purged", extra={"error": type(exc).__name__})
        message = "Redis can't be asked now, so answers may still be kept; try again."
        raise ApiError(503, message, code="cache_unavailable", kind="server_error") from exc
    return StrictJSONResponse({"object": "cache.purged", "purged": n})
