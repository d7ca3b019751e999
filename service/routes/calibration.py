"""GET /v1/calibration: what the decisions rest on; POST .../reload: take a new one over."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from calibration.errors import ArtifactError
from service.access import OperatorActs
from service.errors import ApiError
from service.routes.common import OUTCOMES, GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"], responses=OUTCOMES)


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


@router.post(
    "/v1/calibration/reload",
    summary="Take over the calibration in the folder",
    dependencies=[OperatorActs],
)
async def reload(gateway: GatewayDep) -> Response:
    """Take over the calibration that is in its folder now, without a restart.

    Requests under way finish by the one they began with. One that can't be used is a 409 and leaves
    the old one in use. Only with an admin key, or from this
    machine where no key is needed.
    """
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
