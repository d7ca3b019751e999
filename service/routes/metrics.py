"""GET /metrics, for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from router.engine.messages import EngineStats
from router.errors import EngineError
from service.access import OperatorReads
from service.gateway import Gateway
from service.routes.common import OUTCOMES, GatewayDep, Responses

router = APIRouter(tags=["operations"], responses=OUTCOMES)

STATS_TIMEOUT = 1.0
"""Seconds to wait for the engine's load; who looks must not hang with an engine that does."""


_TEXT: Responses = {200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}}


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    dependencies=[OperatorReads],
    response_class=Response,
    responses=_TEXT,
)
async def metrics(gateway: GatewayDep) -> Response:
    """Return all metrics in Prometheus' text format."""
    gateway.metrics.observe_engine(gateway.engine.alive, await engine_load(gateway))
    gateway.metrics.observe_live(gateway.live)
    budgets = gateway.pipeline.budgets
    gateway.metrics.observe_budgets([] if budgets is None else budgets.gateway())
    return Response(gateway.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def engine_load(gateway: Gateway) -> EngineStats | None:
    """Return the engine's load; None when it does not tell in time."""
    try:
        async with asyncio.timeout(STATS_TIMEOUT):
            return await gateway.engine.stats()
    except (EngineError, TimeoutError):
        return None
