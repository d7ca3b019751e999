"""GET /v1/budget: what the caller may still spend on the remote model."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from router.budget import Standing
from service.access import Caller
from service.routes.common import OUTCOMES, GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"], responses=OUTCOMES)


@router.get("/v1/budget", summary="What may still be spent on the remote model")
async def budget(request: Request, gateway: GatewayDep) -> Response:
    """Return where the caller's limits stand, by UTC day and month.

    Those of the whole gateway are the operator's to see: for an admin key, and where no key is
    needed.
    `stale` says that the store of budgets fails, and the figures are those seen last.
    """
    caller: Caller = request.state.caller
    budgets = gateway.pipeline.budgets
    standings = [] if budgets is None else await budgets.look(caller.account)
    operator = caller.admin or not caller.keyed
    return StrictJSONResponse(
        {
            "object": "budget",
            "limits": [
                _shown(each) for each in standings if operator or each.limit.startswith("key/")
            ],
            "stale": budgets is not None and budgets.broken,
        }
    )


def _shown(standing: Standing) -> dict[str, Any]:
    fields = asdict(standing)
    ends = datetime.fromtimestamp(fields.pop("ends"), UTC)
    return fields | {"ends": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
