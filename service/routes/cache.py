"""DELETE /v1/cache: forget kept answers."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request
from redis.exceptions import RedisError
from starlette.responses import Response

from router.errors import KeyStoreError
from router.keystore import KeyStore
from service.access import account_of, check_operator
from service.errors import ApiError, bad_request
from service.keys import tenant_of
from service.routes.common import OUTCOMES, GatewayDep
from service.strict_json import StrictJSONResponse

logger = logging.getLogger(__name__)

router = APIRouter(tags=["operations"], responses=OUTCOMES)

Calibration = Annotated[
    str | None,
    Query(pattern="^sha256:[0-9a-f]{12,64}$", description="only answers it decided on"),
]


Tenant = Annotated[
    str | None,
    Query(min_length=1, max_length=200, description="an API key's name or id; for the operator"),
]
All = Annotated[bool, Query(description="answers of everybody; for the operator")]


@router.delete("/v1/cache", summary="Forget kept answers")
async def purge(
    request: Request,
    gateway: GatewayDep,
    tenant: Tenant = None,
    everybodys: Annotated[All, Query(alias="all")] = False,
    calibration: Calibration = None,
) -> Response:
    """Forget what the cache keeps of the caller's answers; those of other keys stay.

    An operator may name another key, or all. 503 when Redis could not be asked: answers may still
    be there then.
    """
    if tenant is not None and everybodys:
        raise bad_request("'tenant' and 'all' contradict each other; send one.", "tenant")
    if tenant is None and not everybodys:
        whose: list[str | None] = [account_of(request).id or tenant_of(request.headers)]
    else:
        check_operator(request)
        whose = [None] if tenant is None else await _ids_of(tenant, gateway.settings.keys)
    try:
        n = sum([await gateway.purge(tenant=one, calibration=calibration) for one in whose])
    except (RedisError, OSError) as exc:
        logger.error("cache not purged", extra={"error": type(exc).__name__})
        message = "Redis can't be asked now, so answers may still be kept; try again."
        raise ApiError(503, message, code="cache_unavailable", kind="server_error") from exc
    return StrictJSONResponse({"object": "cache.purged", "purged": n})


async def _ids_of(name: str, keys: str) -> list[str | None]:
    """Return the ids of all keys that are or were called `name`; an id stands for itself."""
    try:
        known = await asyncio.to_thread(KeyStore(keys).all)
    except KeyStoreError as exc:
        raise ApiError(503, f"{exc}.", code="keys_unusable", kind="server_error") from exc
    ids = {key.account.id for key in known if name in (key.account.name, key.account.id)}
    if not ids:
        raise ApiError(
            404,
            f"No API key is called {name[:100]!r} here; `router keys list` shows all.",
            code="key_not_found",
            param="tenant",
        )
    return list(ids)
