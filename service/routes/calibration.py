"""GET /v1/calibration: what the decisions rest on."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from service.routes.common import GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"])


@router.get("/v1/calibration", summary="Describe the calibration")
async def calibration(gateway: GatewayDep) -> Response:
    """Return the loaded calibration: what it was measured on, thresholds, error rates.

    `calibration` is null when none is loaded; `model` is the model it would have to fit.
    """
    loaded = gateway.calibration
    info = gateway.info
    return StrictJSONResponse(
        {
            "object": "calibration",
            "id": None if loaded is None else loaded.id,
            "calibration": None if loaded is None else loaded.summary(),
            "model": {
                "name": info.model_name,
                "sha256": info.model_sha256,
                "quantisation": info.quantisation,
                "template_sha256": info.template_sha256,
            },
        }
    )
