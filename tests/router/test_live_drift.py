"""Drift in live traffic: how it is noticed, and what is done then."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from calibration.figures import Reference
from calibration.thresholds import ESCALATE_ALL
from router.answer import Query
from router.ledger import SqliteLedger
from router.live import Live
from router.live_drift import tightened
from tests.router.test_pipeline import query
from tests.router.traffic import (
    SURER,
    USUAL,
    WORSE,
    held_out,
    perplexities,
    traffic,
)

FIXED = "threshold=0.5"


class TestDrift:
    async def test_of_scores_is_told_once_and_stays(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with traffic(tmp_path) as live:
            with caplog.at_level(logging.WARNING, "router.live"):
                await live.ask(perplexities(WORSE, 100))
                await live.ask(perplexities(USUAL, 200))
            assert live.report.scores.alarm
            assert not live.report.labels.alarm
        (line,) = caplog.records
        text = line.getMessage()
        assert text.startswith("drift: the uncertainties of live answers are not those")
        assert "router recalibrate" in text
        assert vars(line)["calibration"] == held_out().id

    async def test_none_on_traffic_like_the_hold_out(self, tmp_path: Path) -> None:
        async with traffic(tmp_path) as live:
            await live.ask(perplexities(USUAL, 400))
            report = live.report
        assert not report.scores.alarm
        assert report.scores.evidence < 10
        assert report.scores.log10_evidence == pytest.approx(math.log10(report.scores.evidence))

    async def test_needs_a_reference(self, tmp_path: Path) -> None:
        few = Reference((0.2, 0.7), (0.9, 1.1), 2)
        async with traffic(tmp_path, held_out(FIXED, reference=few)) as live:
            await live.ask(perplexities(WORSE, 50))
            assert live.report.scores is None
            assert live.report.to_dict()["drift"]["scores"] is None

    async def test_of_calibration_is_told_by_audited_labels(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with traffic(tmp_path) as live:
            shown = live.report.to_dict()["drift"]["calibration"]
            assert shown == {"evidence": 1.0, "alarm": False, "n": 0, "gap": None}
            for _ in range(20):
                live.live.labelled(held_out().id, 0.9, False)
            live.live.labelled(held_out().id, None, False)
            live.live.labelled("sha256:unknown", 0.9, False)
            live.live.labelled(None, 0.9, False)
            shown = live.report.to_dict()["drift"]["calibration"]
        assert (shown["alarm"], shown["n"]) == (True, 20)
        assert shown["gap"]["estimate"] == pytest.approx(0.9)
        assert shown["gap"]["low"] > 0
        assert "P(correct) is not what audited answers turn out to be" in caplog.text

    async def test_in_another_gateway_is_learned_with_the_next_query(self, tmp_path: Path) -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.db")
        async with (
            traffic(tmp_path, live=Live(ledger)) as one,
            traffic(tmp_path, live=Live(ledger)) as other,
        ):
            await one.ask(perplexities(WORSE, 100))
            await one.live.settled()
            assert not other.live.drifted(held_out().id)
            await other.ask([1.0])
            await other.live.settled()
            assert other.live.drifted(held_out().id)
        await ledger.close()


async def reasons(
    on_drift: Any, folder: Path, target: str, *asked: Query, alone: bool = False
) -> Any:
    """Route and reason for answers that are sure, middling and unsure, once drift was found."""
    async with traffic(folder, held_out(target), Live(on_drift=on_drift), alone=alone) as live:
        for _ in range(20):
            live.live.labelled(held_out(target).id, 0.9, False)
        found = [await live.ask([0.7, 0.98, 1.3], one) for one in asked]
        return [[(d.route, d.reason) for d in decisions] for decisions in found]


SURE, UNSURE = ("local", "confident"), ("remote", "uncertain")
DRIFT = ("remote", "drift")


class TestSafeMode:
    async def test_warn_changes_no_decision(self, tmp_path: Path) -> None:
        assert await reasons("warn", tmp_path, FIXED, query()) == [[SURE, SURE, UNSURE]]

    async def test_tighten_keeps_half_as_many(self, tmp_path: Path) -> None:
        made = held_out(FIXED)
        p = made.reference.p_correct
        kept = sum(x >= made.threshold for x in p)
        assert sum(x >= tightened(made) for x in p) == kept // 2
        assert await reasons("tighten", tmp_path, FIXED, query()) == [[SURE, DRIFT, UNSURE]]

    async def test_escalate_keeps_nothing_that_may_leave(self, tmp_path: Path) -> None:
        found = await reasons("escalate", tmp_path, FIXED, query(), query(threshold=0.1))
        assert found == [[DRIFT] * 3, [DRIFT] * 3]
        (alone,) = await reasons("escalate", tmp_path, FIXED, query(), alone=True)
        assert alone == [("local", "no_upstream")] * 3

    @pytest.mark.parametrize("on_drift", ["tighten", "escalate"])
    async def test_callers_own_policies_stand(self, tmp_path: Path, on_drift: str) -> None:
        local, stays = query(mode="local"), query(local_only=True)
        found = await reasons(on_drift, tmp_path, FIXED, local, stays)
        assert found[0] == [("local", "policy")] * 3
        assert found[1] == [SURE, SURE, ("local", "policy")]
        if on_drift == "tighten":
            own = await reasons(on_drift, tmp_path, FIXED, query(threshold=0.5))
            assert own == [[SURE, SURE, UNSURE]]

    async def test_tightening_wins_over_a_held_budget_which_waits(self, tmp_path: Path) -> None:
        async with traffic(tmp_path, live=Live(on_drift="tighten")) as live:
            await live.ask(perplexities(SURER, 200))  # every one is surer than the hold-out's
            assert live.report.scores.alarm
            stood = live.report.control
            decisions = await live.ask(perplexities(WORSE, 50))
            assert live.report.control == stood
        assert stood.n < 200
        assert {decision.route for decision in decisions} == {"remote"}

    def test_half_of_hardly_anything_is_nothing(self) -> None:
        for reference in [(), (0.2,), (0.2, 0.9)]:
            made = held_out(FIXED, reference=Reference(reference, (), len(reference)))
            assert tightened(made) == ESCALATE_ALL
        tied = held_out(FIXED, reference=Reference((0.6,) * 40, (), 40))
        assert tightened(tied) > 0.6
