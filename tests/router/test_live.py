"""Live traffic through the pipeline: budgets hold on it, and its state outlives the process."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.figures import Reference
from calibration.learned import Learned
from calibration.targets import CostModel
from router.answer import Decision, Need, Usage
from router.config import Settings
from router.engine.messages import Sampler
from router.errors import EngineBusy, LedgerError
from router.ledger import Ledger, RedisLedger, SqliteLedger
from router.live import Live
from router.live_control import control_of
from router.live_watch import MOST_WAITING, SPOT_CHECKS, LiveState
from router.prices import Prices
from tests.redis_server import RedisServer
from tests.router.calibrations import EARLY_STOP, GATE, PROBES
from tests.router.test_pipeline import events_of, query
from tests.router.traffic import (
    LLM,
    SURER,
    USUAL,
    WORSE,
    held_out,
    perplexities,
    ratio,
    traffic,
)

USAGE = Usage(100, 10)
PRICES = Prices(1.0, 10.0)
EACH = PRICES.cost(USAGE)  # 0.0002 USD


class TestTheRatio:
    @pytest.mark.parametrize("wanted", [0.1, 0.3, 0.6])
    @pytest.mark.parametrize(("first", "then"), [(WORSE, SURER), (SURER, WORSE), (USUAL, WORSE)])
    async def test_holds_on_questions_of_another_kind_and_after_a_switch(
        self, tmp_path: Path, wanted: float, first: tuple[float, float], then: tuple[float, float]
    ) -> None:
        async with traffic(tmp_path, held_out(f"escalation={wanted}")) as live:
            before = await live.ask(perplexities(first, 200, seed=1))
            after = await live.ask(perplexities(then, 200, seed=2))
            control = live.report.control
        assert abs(ratio(before) - wanted) <= 0.03
        assert abs(ratio(after) - wanted) <= 0.03
        assert control.target == f"escalation={wanted}"
        assert (control.unit, control.n) == ("escalations", 400)
        assert control.ratio == pytest.approx(ratio([*before, *after]))
        assert abs(control.ratio - wanted) <= control.bound

    async def test_is_lost_with_control_switched_off(self, tmp_path: Path) -> None:
        async with traffic(tmp_path, live=Live(control=False)) as live:
            decisions = await live.ask(perplexities(WORSE, 50))
            assert live.report.control is None
        assert ratio(decisions) > 0.9
        assert {decision.threshold for decision in decisions} == {held_out().threshold}

    async def test_begins_near_the_calibrated_threshold(self, tmp_path: Path) -> None:
        made = held_out("escalation=0.5")
        async with traffic(tmp_path, made) as live:
            (first,) = await live.ask([0.8])
        assert first.threshold == pytest.approx(np.median(made.reference.p_correct), abs=0.02)

    async def test_holds_for_queries_at_the_same_time_and_for_streams(self, tmp_path: Path) -> None:
        async with traffic(tmp_path) as live:
            live.engine.coming = perplexities(WORSE, 200)
            decided = []
            for _ in range(10):
                answers = await asyncio.gather(*(live.pipeline.answer(query()) for _ in range(15)))
                decided += [answer.decision for answer in answers]
                for _ in range(5):
                    first = (await events_of(live.pipeline, query()))[0]
                    assert isinstance(first, Decision)
                    decided.append(first)
        assert abs(ratio(decided) - 0.3) <= 0.03

    async def test_counts_what_is_wanted_where_no_upstream_answers(self, tmp_path: Path) -> None:
        async with traffic(tmp_path, alone=True) as alone:
            decisions = await alone.ask(perplexities(WORSE, 100))
            assert alone.report.control.ratio == ratio(decisions) > 0.2
        async with traffic(tmp_path) as live:
            assert live.llm is not None
            live.llm.down = True
            decisions = await live.ask(perplexities(WORSE, 100))
            assert live.report.control.ratio == ratio(decisions) > 0.2

    @pytest.mark.parametrize(
        "options",
        [
            {"threshold": 0.5},
            {"max_risk": 0.2},
            {"local_only": True},
            {"mode": "local"},
            {"mode": "remote"},
            {"needs": (Need("tools", "tool calls"),)},
        ],
    )
    async def test_does_not_count_what_the_threshold_does_not_route(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        async with traffic(tmp_path, alone=options.get("mode") == "local") as live:
            await live.ask([1.3], query(**options))
            assert live.report.control.n == live.report.scores.n == 0

    async def test_does_not_count_what_is_only_asked_about_nor_what_the_engine_refuses(
        self, tmp_path: Path
    ) -> None:
        async with traffic(tmp_path) as live:
            live.engine.coming = [1.3, 1.3]
            asked = await live.pipeline.route(query())
            live.engine.reply = EngineBusy(9, 2.0)
            busy = await live.pipeline.answer(query())
            assert live.report.control.n == live.report.scores.n == 0
        assert asked.decision.reason == "uncertain"
        assert busy.decision.reason == "busy"

    async def test_another_sampler_counts_but_says_nothing_of_drift(self, tmp_path: Path) -> None:
        async with traffic(tmp_path) as live:
            await live.ask([1.3, 1.3], query(sampler=Sampler(temperature=1.0)))
            assert (live.report.control.n, live.report.scores.n) == (2, 0)

    async def test_an_unknown_score_is_escalated_and_is_the_least_sure(
        self, tmp_path: Path
    ) -> None:
        async with traffic(tmp_path) as live:
            decisions = await live.ask([math.nan] * 30)
            report = live.report
        assert {decision.route for decision in decisions} == {"remote"}
        assert (report.control.ratio, report.scores.n, report.scores.alarm) == (1.0, 30, True)


class TestMoney:
    def model(self, usd: float = EACH) -> CostModel:
        return CostModel(escalated_usd=usd)

    @pytest.mark.parametrize("dearer", [1.0, 2.0, 0.5])
    async def test_is_held_at_what_answers_cost_indeed(self, tmp_path: Path, dearer: float) -> None:
        allowed = 0.3 * EACH
        made = held_out(f"cost={1000 * allowed}/1k", cost=self.model(EACH / dearer))
        async with traffic(tmp_path, made, prices=PRICES) as live:
            decisions = await live.ask(perplexities(WORSE, 400))
            control = live.report.control
        assert (control.unit, control.allowed) == ("usd", pytest.approx(allowed))
        assert control.ratio == pytest.approx(ratio(decisions) * EACH)
        assert control.ratio == pytest.approx(allowed, rel=0.1)

    async def test_an_answer_of_unknown_price_costs_what_was_expected(self, tmp_path: Path) -> None:
        made = held_out(f"cost={300 * EACH}/1k", cost=self.model())
        for llm, prices in [(LLM(USAGE), Prices()), (LLM(None), PRICES)]:
            async with traffic(tmp_path, made, llm=llm, prices=prices) as live:
                decisions = await live.ask(perplexities(WORSE, 100))
                assert live.report.control.ratio == pytest.approx(ratio(decisions) * EACH)

    async def test_what_nobody_answered_costs_nothing(self, tmp_path: Path) -> None:
        made = held_out(f"cost={300 * EACH}/1k", cost=self.model())
        async with traffic(tmp_path, made, prices=PRICES) as live:
            assert live.llm is not None
            live.llm.down = True
            await live.ask(perplexities(WORSE, 300))
            assert live.report.control.ratio == pytest.approx(0.0, abs=1e-12)
            live.llm.down = False
            decisions = await live.ask(perplexities(WORSE, 200, seed=5))
        assert ratio(decisions) == pytest.approx(0.3, abs=0.07)  # saved up: a little, not all


class TestWhatIsHeld:
    @pytest.mark.parametrize(
        ("target", "held"),
        [
            ("escalation=0.3", "escalation=0.3"),
            ("cost=0.1/1k", "cost=0.1/1k"),
            ("escalation=0.3, cost=0.1/1k", "cost=0.1/1k"),
            ("escalation=0.05, cost=0.1/1k", "escalation=0.05"),
            ("risk=0.1", None),
            ("risk=0.1, escalation=0.3", None),
            ("accuracy=0.8, cost=0.1/1k", None),
            ("threshold=0.4", None),
        ],
    )
    def test_budgets_alone(self, target: str, held: str | None) -> None:
        control = control_of(held_out(target, cost=CostModel(0.001)))
        assert (None if control is None else str(control.target)) == held

    @pytest.mark.parametrize(
        ("target", "cost", "allowed"),
        [
            ("cost=5/day", CostModel(0.01, queries_per_day=1000.0), 0.005),
            ("cost=5/day", CostModel(0.01, 0.001, queries_per_day=1000.0), 0.004),
            ("cost=5/1k", CostModel(1.0), 0.005),
            ("cost=5000/1k", CostModel(1.0), 5.0),
            ("cost=1/1k", CostModel(0.01, 0.01), 0.0),
        ],
    )
    def test_dollars_a_query(self, target: str, cost: CostModel, allowed: float) -> None:
        control = control_of(held_out(target, cost=cost))
        assert control is not None
        assert control.controller.allowance == pytest.approx(allowed)
        assert control.controller.cost == pytest.approx(cost.escalated_usd)

    def test_not_what_costs_nothing_or_has_no_reference(self) -> None:
        assert control_of(held_out("cost=5/1k", cost=CostModel(0.0))) is None
        assert control_of(held_out("cost=5/1k")) is None
        assert control_of(held_out(reference=Reference((), (), 0))) is None
        both = control_of(held_out("escalation=0.3, cost=5/1k", cost=CostModel(0.0)))
        assert both is not None
        assert str(both.target) == "escalation=0.3"


EXITING: dict[str, Any] = {"learned": Learned(PROBES), "gate": GATE, "early_stop": EARLY_STOP}


class TestExits:
    async def test_none_where_a_threshold_is_held(self, tmp_path: Path) -> None:
        async with traffic(tmp_path, held_out(**EXITING)) as live:
            await live.ask([1.0] * 20)
            assert {request.exits for request in live.engine.asked} == {None}
            assert live.report.scores.n == 20

    async def test_some_answers_are_made_whole_to_be_compared(self, tmp_path: Path) -> None:
        live = Live(rng=random.Random(3))
        async with traffic(tmp_path, held_out("threshold=0.5", **EXITING), live) as busy:
            await busy.ask([1.0] * 300)
            whole = sum(request.exits is None for request in busy.engine.asked)
            assert busy.report.scores.n == whole
        assert abs(whole / 300 - SPOT_CHECKS) < 4 * math.sqrt(0.2 * 0.8 / 300)


class Broken:
    """A ledger that fails while it is told to."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self.ledger = ledger
        self.down = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)

    async def state(self, name: str) -> Any:
        self._check()
        return await self.ledger.state(name)

    async def update_state(self, name: str, change: Any) -> Any:
        self._check()
        return await self.ledger.update_state(name, change)

    def _check(self) -> None:
        if self.down:
            raise LedgerError("no space left")


class TestTheLedger:
    async def test_is_gone_on_with_after_a_restart(self, tmp_path: Path) -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        async with traffic(tmp_path, live=Live(ledger)) as before:
            await before.ask(perplexities(WORSE, 60))
            seen = before.report
        async with traffic(tmp_path, live=Live(ledger)) as after:
            assert after.report == seen
            (decision,) = await after.ask([0.9])
        assert decision.threshold == seen.control.threshold
        await ledger.close()

    @pytest.mark.parametrize("kind", ["sqlite", "redis"])
    async def test_is_shared(self, tmp_path: Path, kind: str) -> None:
        async with AsyncExitStack() as stack:
            if kind == "sqlite":
                ledgers: list[Ledger] = [
                    await SqliteLedger.open(tmp_path / "ledger.db") for _ in range(2)
                ]
            else:
                server = RedisServer(tmp_path)
                server.start()
                stack.callback(server.stop)
                ledgers = [RedisLedger(server.url, days=1, timeout=10) for _ in range(2)]
            for ledger in ledgers:
                stack.push_async_callback(ledger.close)
            await self.share(tmp_path, *ledgers)

    async def share(self, tmp_path: Path, ledger: Ledger, other_connection: Ledger) -> None:
        """Ask two gateways at once; both hold one ratio, over the traffic of both."""
        async with (
            traffic(tmp_path, live=Live(ledger)) as one,
            traffic(tmp_path, live=Live(other_connection)) as other,
        ):
            decided = []
            for chunk in range(20):
                both = await asyncio.gather(
                    one.ask(perplexities(WORSE, 6, seed=chunk)),
                    other.ask(perplexities(SURER, 6, seed=chunk)),
                )
                decided += [*both[0], *both[1]]
            for live in (one.live, other.live):
                await live.settled()
            await one.ask([0.75])
            await one.live.settled()
            await other.ask([0.75])
            await other.live.settled()
            assert other.report.control.n == other.report.scores.n == 242
            assert ratio(decided) == pytest.approx(0.3, abs=0.05)

    async def test_another_calibration_begins_afresh_and_the_first_goes_on(
        self, tmp_path: Path
    ) -> None:
        async with traffic(tmp_path) as live:
            await live.ask(perplexities(WORSE, 100))
            assert live.report.scores.alarm
            held_out("escalation=0.4").save(tmp_path)
            await live.pipeline.reload()
            assert (live.report.control.n, live.report.scores.alarm) == (0, False)
            held_out().save(tmp_path)
            await live.pipeline.reload()
            assert (live.report.control.n, live.report.scores.alarm) == (100, True)

    async def test_may_fail(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        broken = Broken(ledger)
        faults: list[LedgerError] = []
        async with traffic(tmp_path, live=Live(broken, on_fault=faults.append)) as live:
            decisions = await live.ask(perplexities(WORSE, 200))
            assert abs(ratio(decisions) - 0.3) <= 0.03
            assert live.report.control.n == 200
            await live.live.settled()
            assert "no space left" in str(faults[0])
            broken.down = False
            await live.ask([1.0])
            await live.live.settled()
            stored = await ledger.state(f"live:{held_out().id}")
        assert stored is not None
        assert LiveState.from_dict(stored).control.n == 201
        async with traffic(tmp_path, live=Live(Broken(ledger))) as live:
            assert live.report.control.n == 0
            assert "the live state could not be kept: no space left" in caplog.text
        await ledger.close()

    async def test_may_fail_for_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert MOST_WAITING > 100
        monkeypatch.setattr("router.live_watch.MOST_WAITING", 5)
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        broken = Broken(ledger)
        async with traffic(tmp_path, live=Live(broken)) as live:
            await live.ask([1.0] * 9)
            assert live.report.control.n == 9
            await live.live.settled()
            broken.down = False
            await live.ask([1.0])
            await live.live.settled()
            assert live.report.control.n == 10
        stored = await ledger.state(f"live:{held_out().id}")
        assert stored is not None
        assert stored["control"]["n"] == 10  # memory knew them all
        await ledger.close()

    @pytest.mark.parametrize("stored", [{}, {"control": {}, "scores": None, "labels": {}}])
    async def test_may_hold_nonsense(
        self, tmp_path: Path, stored: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        await ledger.update_state(f"live:{held_out().id}", lambda _: stored)
        async with traffic(tmp_path, live=Live(ledger)) as live:
            await live.ask([1.0])
            assert live.report.control.n == 1
        assert "begins anew" in caplog.text
        await ledger.close()

    async def test_may_hold_scores_of_other_bins(self, tmp_path: Path) -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        async with traffic(tmp_path, live=Live(ledger)) as live:
            await live.ask([1.0])
        stored = await ledger.state(f"live:{held_out().id}")
        assert stored is not None
        stored["scores"] = None
        await ledger.update_state(f"live:{held_out().id}", lambda _: stored)
        async with traffic(tmp_path, live=Live(ledger)) as live:
            assert (live.report.control.n, live.report.scores.n) == (1, 0)
        await ledger.close()

    async def test_a_bug_is_logged_and_answers_go_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def bug(*_: object) -> None:
            raise ZeroDivisionError

        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        monkeypatch.setattr(ledger, "update_state", bug)
        async with traffic(tmp_path, live=Live(ledger)) as live:
            await live.ask([1.0, 1.0])
            assert live.report.control.n == 2
        assert "internal error while writing the live state" in caplog.text
        await ledger.close()


def test_settings_say_what_is_done() -> None:
    chosen = Settings(control="off", on_drift="tighten", drift_alpha=0.2)
    live = Live.from_settings(chosen, None)
    assert live.report(None) is None
    assert not live.drifted(None)
    assert (live._control, live._on_drift, live._alpha) == (False, "tighten", 0.2)
