"""GET /v1/calibration: what the decisions rest on; POST .../reload: take a new one over."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from calibration.errors import ArtifactError
from service.errors import ApiError
from service.routes.common import GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"])

_PASSED_ON = ("forwarded", "via", "x-real-ip", "x-forwarded-")
"""How the headers begin by which a proxy says that a request comes from elsewhere."""


@router.get("/v1/calibration", summary="Describe the calibration")
async def calibration(gateway: GatewayDep) -> Response:
    """Return the loaded calibration: what it was measured on, thresholds, error rates.

    `calibration` is null when none is loaded; `model` is the model it would have to fit; `live` is
    what traffic has made of it so far, null when nobody looks.
    """
    loaded = gateway.calibration
    live, info = gateway.live, gateway.info
    return StrictJSONResponse(
        {
            "object": "calibration",
            "id": None if loaded is None else loaded.id,
            "calibration": None if loaded is None else loaded.summary(),
            "live": None if live is None else live.to_dict(),
            "model": {
                "name": info.model_name,
                "sha256": info.model_sha256,
                "quantisation": info.quantisation,
                "template_sha256": info.template_sha256,
            },
        }
    )


@router.post("/v1/calibration/reload", summary="Take over the calibration in the folder")
async def reload(request: Request, gateway: GatewayDep) -> Response:
    """Take over the calibration that is in its folder now, without a restart.

    Requests under way finish by the one they began with. One that can't be used is a 409 and leaves
    the old one in use. Only for clients on this machine.
    """
    _refuse_strangers(request)
    try:
        told = await gateway.reload()
    except ArtifactError as exc:
        message = f"The calibration in use stays, because the new one can't be used: {exc}"
        raise ApiError(409, message, code="calibration_unusable") from exc
    return StrictJSONResponse(
        {
            "object": "calibration.reload",
            "id": told.new_id,
            "previous": told.old_id,
            "changed": told.changed,
            "warnings": list(told.warnings),
            "differences": list(told.differences),
        }
    )


def _refuse_strangers(request: Request) -> None:
    """Raise the 403 for a request that may come from another machine, or from a web page here."""
    passed_on = sorted({name for name in request.headers if name.startswith(_PASSED_ON)})
    if passed_on:
        why = f"this one came through a proxy (it has the header {passed_on[0]})"
    elif "origin" in request.headers:
        why = "this one came from a web page"
    elif not _is_local(request):
        why = "this one came from elsewhere"
    else:
        return
    raise ApiError(
        403,
        f"Only a client on the gateway's own machine may reload the calibration; {why}. Ask "
        "there, directly, or send the gateway's process the signal SIGHUP.",
        code="local_only",
    )


def _is_local(request: Request) -> bool:
    """Whether the other end of the connection is on this machine; false when that is unknown."""
    server = request.scope.get("server")
    if request.client is None:
        return server is not None and server[1] is None  # a Unix socket has a path and no port
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
