"""GET /dashboard: a page for the operator; GET /v1/dashboard: what it shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from prometheus_client import Counter
from starlette.responses import HTMLResponse, Response

from service.access import OperatorReads
from service.dashboard import page
from service.gateway import Gateway
from service.routes.common import OUTCOMES, GatewayDep
from service.routes.metrics import engine_load
from service.strict_json import StrictJSONResponse
from service.upstream_metrics import reports_of

router = APIRouter(tags=["operations"], responses=OUTCOMES)


@router.get("/dashboard", summary="The operator's page", response_class=HTMLResponse)
async def dashboard() -> Response:
    """Return the page, which holds no data: it asks for it, with a key where one is needed."""
    return page.response()


@router.get("/v1/dashboard", summary="What the operator's page shows", dependencies=[OperatorReads])
async def overview(gateway: GatewayDep) -> Response:
    """Return what this process answered lately, and how it is.

    Of several workers each tells of itself. There is nothing of any prompt or answer in it.
    """
    calibration, live = gateway.calibration, gateway.live
    used = None if calibration is None else calibration.id
    return StrictJSONResponse(
        {
            "object": "dashboard",
            "calibration": used,
            **gateway.overview.report(used),
            "budgets": _budgets(gateway),
            "live": None if live is None else live.to_dict(),
            "alarm_at": 1 / gateway.settings.drift_alpha,
            "engine": await _engine(gateway),
            "upstream": _upstream(gateway),
            "cache": _cache(gateway),
            "ledger": {
                "on": gateway.books.ledger is not None,
                "faults": _counts(gateway.metrics.ledger_errors),
            },
            "draining": gateway.draining,
        }
    )


async def _engine(gateway: Gateway) -> dict[str, Any]:
    engine, load = gateway.engine, await engine_load(gateway)
    told = {
        "model": gateway.info.model_name,
        "alive": engine.alive,
        "trouble": None if engine.alive else engine.trouble,
    }
    if load is None:
        return told | dict.fromkeys(("active", "waiting", "slots", "restarts", "breaker_open"))
    return told | {
        "active": load.active,
        "waiting": load.waiting,
        "slots": load.n_slots,
        "restarts": load.restarts,
        "breaker_open": bool(load.extra.get("breaker_open", 0)),
    }


def _upstream(gateway: Gateway) -> dict[str, Any]:
    return {
        "configured": gateway.pipeline.upstream is not None,
        "members": [asdict(report) for report in reports_of(gateway.pipeline.upstream)],
        "audit_usd": sum(_counts(gateway.metrics.audit_cost_usd).values()),
    }


def _budgets(gateway: Gateway) -> dict[str, Any]:
    budgets = gateway.pipeline.budgets
    standings = () if budgets is None else budgets.gateway()
    return {
        "limits": [asdict(standing) for standing in standings],
        "stale": budgets is not None and budgets.broken,
    }


def _cache(gateway: Gateway) -> dict[str, Any]:
    return {
        "kind": "memory" if gateway.settings.redis_url is None else "redis",
        "lookups": _counts(gateway.metrics.cache_lookups),
        "faults": _counts(gateway.metrics.cache_errors),
    }


def _counts(counter: Counter) -> dict[str, float]:
    """Return the values of a counter of one label or none, by that label."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return {
        "".join(sample.labels.values()): sample.value
        for sample in samples
        if sample.name.endswith("_total")
    }
