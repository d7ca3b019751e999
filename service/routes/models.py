"""GET /v1/models: who can be asked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service.errors import model_not_found
from service.gateway import Gateway
from service.routes.common import OUTCOMES, GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["models"], responses=OUTCOMES)


@router.get("/v1/models", summary="List the models")
async def list_models(gateway: GatewayDep) -> Response:
    """List `auto`, `local` and `remote`; `available` tells whether a request would be taken."""
    return StrictJSONResponse({"object": "list", "data": list(_models(gateway).values())})


@router.get("/v1/models/{model_id}", summary="Describe one model")
async def get_model(model_id: str, gateway: GatewayDep) -> Response:
    """Describe one of the three models."""
    model = _models(gateway).get(model_id)
    if model is None:
        raise model_not_found(model_id)
    return StrictJSONResponse(model)


def _models(gateway: Gateway) -> dict[str, dict[str, Any]]:
    upstream = gateway.pipeline.upstream is not None
    asked = ", ".join(
        entry.model or "the model that the request names there"
        for entry in gateway.settings.upstream_entries()
    )
    described = {
        "auto": (True, "the local model where it is sure enough, else the upstream"),
        "local": (True, f"{gateway.info.model_name}, on this machine"),
        "remote": (upstream, f"{asked}, upstream" if upstream else "no upstream is configured"),
    }
    return {
        name: {
            "id": name,
            "object": "model",
            "created": gateway.created,
            "owned_by": "seek-stronger",
            "available": available,
            "description": description,
        }
        for name, (available, description) in described.items()
    }
