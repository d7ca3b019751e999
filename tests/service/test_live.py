"""What a gateway tells of its live traffic, and what audits and the cache have to do with it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.config import Settings
from router.errors import LedgerError
from router.ledger import SqliteLedger
from router.live import Live
from router.pipeline import Pipeline
from router.prices import Prices
from service.app import create_app
from tests.router.traffic import LLM, WORSE, Engine, held_out, perplexities
from tests.service.scripted import QUESTION, client_of, running


@dataclass
class Running:
    """A gateway around a scripted engine."""

    client: httpx.AsyncClient
    engine: Engine
    inside: Any

    async def ask(self, *perplexities: float) -> list[Any]:
        """Ask a question of its own for each perplexity; what the answers say of their routing."""
        return [await self.ask_again(p, seed) for seed, p in enumerate(perplexities)]

    async def ask_again(self, perplexity: float, seed: int) -> Any:
        self.engine.coming = [perplexity]
        body = {**QUESTION, "seed": seed}
        return (await self.client.post("/v1/chat/completions", json=body)).json()["router"]

    async def live(self) -> Any:
        return (await self.client.get("/v1/calibration")).json()["live"]

    async def samples(self) -> dict[str, float]:
        text = (await self.client.get("/metrics")).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}


@asynccontextmanager
async def gateway(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str = "escalation=0.3", **settings: Any
) -> AsyncIterator[Running]:
    """As `create_app` makes it, but for engine and upstream."""
    held_out(target).save(folder / "calibration")
    engine, upstream = Engine(), LLM()

    def build_pipeline(_: Settings, *, live: Live) -> Pipeline:
        llm: Any = upstream
        made = str(folder / "calibration")
        return Pipeline(
            engine, calibration_folder=made, upstream=llm, prices=Prices(1.0, 1.0), live=live
        )

    monkeypatch.setattr("service.app.build_pipeline", build_pipeline)
    app = create_app(Settings(**{"ledger": str(folder / "ledger.db"), "audit_rate": 0, **settings}))
    async with running(app) as client:
        yield Running(client, engine, app.state.gateway)


async def test_a_budget_is_held_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(tmp_path, monkeypatch) as made:
        before = await made.live()
        told = await made.ask(*perplexities(WORSE, 100))
        live, samples = await made.live(), await made.samples()
    n = sum(router["route"] == "remote" for router in told)
    assert abs(n - 30) <= 5
    assert before["control"]["n"] == 0
    assert before["control"]["ratio"] is before["control"]["bound"] is None
    control = live["control"]
    assert (control["target"], control["unit"], control["n"]) == (
        "escalation=0.3",
        "escalations",
        100,
    )
    assert control["ratio"] == pytest.approx(n / 100)
    assert abs(control["ratio"] - control["allowed"]) <= control["bound"]
    assert samples["router_controller_ratio"] == pytest.approx(n / 100)
    assert samples["router_controller_threshold"] == control["threshold"]
    assert len({router["threshold"] for router in told}) > 10


async def test_drift_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(tmp_path, monkeypatch, "threshold=0.5") as made:
        calm, quiet = await made.live(), await made.samples()
        await made.ask(*perplexities(WORSE, 100))
        live, samples = await made.live(), await made.samples()
    assert calm["control"] is None
    assert calm["drift"] == {
        "on_drift": "warn",
        "scores": {"evidence": 1.0, "alarm": False, "n": 0},
        "calibration": {"evidence": 1.0, "alarm": False, "n": 0, "gap": None},
    }
    assert quiet['router_drift_alarm{test="scores"}'] == 0
    assert math.isnan(quiet["router_controller_threshold"])
    assert math.isnan(quiet["router_controller_ratio"])
    scores = live["drift"]["scores"]
    assert (scores["alarm"], scores["n"]) == (True, 100)
    assert samples['router_drift_alarm{test="scores"}'] == 1
    assert samples['router_drift_alarm{test="calibration"}'] == 0
    evidence = samples['router_drift_evidence{test="scores"}']
    assert evidence == pytest.approx(math.log10(scores["evidence"]))


async def test_nothing_is_told_where_nobody_looks() -> None:
    async with client_of() as client:
        assert (await client.get("/v1/calibration")).json()["live"] is None
        assert "router_controller_ratio NaN" in (await client.get("/metrics")).text


async def test_audits_show_that_p_correct_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local answer is Paris, and so is the LLM's; later the LLM knows better."""
    async with gateway(tmp_path, monkeypatch, "threshold=0.5", audit_rate=1.0) as made:
        (kept,) = await made.ask(0.8)
        await made.inside.auditor.settled()
        assert (await made.live())["drift"]["calibration"]["n"] == 1

        async def differs(_: Any) -> Any:
            answer = await LLM().chat({})
            return type(answer)({}, "London", "stop", answer.usage)

        monkeypatch.setattr(made.inside.pipeline.upstream, "chat", differs)
        for seed in range(100, 115):
            await made.ask_again(0.8, seed)
            await made.inside.auditor.settled()
        drift = (await made.live())["drift"]["calibration"]
        after = await made.ask_again(0.8, 200)
        await made.inside.auditor.settled()
    assert kept["reason"] == after["reason"] == "confident"
    assert (drift["alarm"], drift["n"]) == (True, 16)
    assert drift["gap"]["low"] > 0.2


async def test_what_was_cached_before_an_alarm_is_not_served_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, monkeypatch, "threshold=0.5", on_drift="escalate") as made:
        assert (await made.ask_again(0.8, 7))["reason"] == "confident"
        assert (await made.ask_again(0.8, 7))["cache"] == "hit"
        for _ in range(20):
            made.inside.pipeline.live.labelled(held_out("threshold=0.5").id, 0.9, False)
        again = await made.ask_again(0.8, 7)
        assert (again["cache"], again["reason"], again["route"]) == ("miss", "drift", "remote")
        assert (await made.ask_again(0.8, 7))["cache"] == "hit"


async def test_one_decided_before_an_alarm_is_not_kept_as_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, monkeypatch, "threshold=0.5", on_drift="escalate") as made:
        answer = made.inside.pipeline.answer

        async def alarm_meanwhile(query: Any) -> Any:
            given = await answer(query)
            for _ in range(20):
                made.inside.pipeline.live.labelled(held_out("threshold=0.5").id, 0.9, False)
            return given

        monkeypatch.setattr(made.inside.pipeline, "answer", alarm_meanwhile)
        assert (await made.ask_again(0.8, 7))["reason"] == "confident"
        assert (await made.ask_again(0.8, 7))["reason"] == "drift"


async def test_goes_on_after_a_restart_and_with_the_ledger_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (20, 40):
        async with gateway(tmp_path, monkeypatch) as made:
            await made.ask(*perplexities(WORSE, 20))
            assert (await made.live())["control"]["n"] == n
    async with gateway(tmp_path, monkeypatch, ledger="off") as made:
        await made.ask(*perplexities(WORSE, 20))
        assert (await made.live())["control"]["n"] == 20


async def test_faults_of_the_ledger_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LedgerError("no space left")

    async with gateway(tmp_path, monkeypatch) as made:
        monkeypatch.setattr(SqliteLedger, "update_state", fail)
        await made.ask(1.0, 1.1)
        await made.inside.pipeline.live.settled()
        samples = await made.samples()
        assert (await made.live())["control"]["n"] == 2
    assert samples['router_ledger_errors_total{operation="live"}'] >= 1
