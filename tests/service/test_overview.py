"""What is remembered for the operator: the last hour, bounded, nothing of any text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from service.overview import BINS, DECISIONS, SCORES, TIMES, Overview, binned, quantiles
from tests.service.scripted import CONFIDENT, LOCAL, REMOTE

NOON = 1_700_006_400.0
"""A full minute, twelve hours from midnight (UTC)."""


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def test_without_answers_there_are_sixty_empty_minutes() -> None:
    report = Overview(Clock()).report(None)
    assert [minute["at"] for minute in report["minutes"]] == [
        NOON - 60 * n for n in reversed(range(60))
    ]
    assert {minute["local"] + minute["remote"] for minute in report["minutes"]} == {0}
    assert report["latency_ms"]["total"] == {"n": 0, "p50": None, "p95": None}
    assert report["p_correct"] == {"n": 0, "counts": [0] * BINS}
    assert report["decisions"] == []
    assert report["reasons"] == {}


def test_each_answer_counts_once_in_its_minute() -> None:
    clock = Clock()
    overview = Overview(clock)
    overview.answered(LOCAL, "miss", fresh=True)
    overview.answered(LOCAL, "hit", fresh=False)
    clock.now += 120
    overview.answered(REMOTE, "miss", fresh=True)
    degraded = replace(LOCAL, decision=replace(CONFIDENT, reason="upstream_down", degraded=True))
    overview.answered(degraded, "bypass", fresh=True)
    report = overview.report(None)
    told = [(m["local"], m["remote"], m["degraded"]) for m in report["minutes"][-3:]]
    assert told == [(2, 0, 0), (0, 0, 0), (0, 1, 1)]
    assert report["reasons"] == {"confident": 2, "uncertain": 1, "upstream_down": 1}


def test_minutes_older_than_an_hour_go() -> None:
    clock = Clock()
    overview = Overview(clock)
    overview.answered(LOCAL, "miss", fresh=True)
    clock.now += 3600
    assert not any(minute["local"] for minute in overview.report(None)["minutes"])


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    clock = Clock()
    overview = Overview(clock)
    overview.answered(LOCAL, "miss", fresh=True)
    clock.now -= 600
    overview.answered(LOCAL, "miss", fresh=True)
    assert overview.report(None)["minutes"][-1]["local"] == 2


def test_what_is_remembered_is_bounded_and_holds_no_text() -> None:
    overview = Overview(Clock())
    for n in range(SCORES + 100):
        overview.answered(LOCAL, "miss", fresh=True, id=f"chatcmpl-{n}")
        overview.first_piece(0.1)
    report = overview.report("sha256:feed")
    assert report["p_correct"]["n"] == SCORES
    assert report["latency_ms"]["decode"]["n"] == TIMES
    assert report["latency_ms"]["first_piece"] == {"n": TIMES, "p50": 100.0, "p95": 100.0}
    assert [given["id"] for given in report["decisions"]] == [
        f"chatcmpl-{SCORES + 100 - n}" for n in range(DECISIONS, 0, -1)
    ]
    assert LOCAL.text not in json.dumps(report, ensure_ascii=False)


def test_a_decision_says_why() -> None:
    overview = Overview(Clock())
    overview.answered(REMOTE, "miss", fresh=True, id="chatcmpl-1")
    (given,) = overview.report(None)["decisions"]
    assert given == {
        "at": NOON,
        "id": "chatcmpl-1",
        "route": "remote",
        "reason": "uncertain",
        "degraded": False,
        "p_correct": 0.31,
        "threshold": 0.71,
        "cache": "miss",
        "total_ms": 160.0,
        "cost_usd": 0.004,
        "saved_usd": 0.0,
    }


def test_scores_of_another_calibration_and_of_answers_not_made_anew_are_left_out() -> None:
    overview = Overview(Clock())
    overview.worked(LOCAL)
    overview.answered(LOCAL, "hit", fresh=False)
    unknown = replace(CONFIDENT, p_correct=float("nan"))
    overview.worked(replace(LOCAL, decision=unknown))
    assert overview.report("sha256:feed")["p_correct"]["n"] == 1
    assert overview.report("sha256:other")["p_correct"]["n"] == 0


def test_stages_that_were_left_out_have_no_time() -> None:
    overview = Overview(Clock())
    overview.worked(LOCAL)
    times = overview.report(None)["latency_ms"]
    assert times["decode"] == {"n": 1, "p50": 30.0, "p95": 30.0}
    assert times["remote"]["n"] == 0


def test_a_days_money_ends_with_it() -> None:
    clock = Clock()
    overview = Overview(clock)
    overview.answered(REMOTE, "miss", fresh=True)
    overview.answered(LOCAL, "hit", fresh=False)
    money = overview.report(None)["money"]
    assert money["today"] == {"spent": 0.004, "saved": 0.002, "escalations": 1}
    assert money["since_start"] == money["today"]
    clock.now += 86400
    money = overview.report(None)["money"]
    assert money["today"] == {"spent": 0.0, "saved": 0.0, "escalations": 0}
    assert money["since_start"]["spent"] == 0.004


def test_bins_take_all_scores() -> None:
    counts = binned([0.0, 0.0249, 0.025, 1.0])
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)


@pytest.mark.parametrize(
    ("values", "p50", "p95"),
    [([3.0], 3.0, 3.0), ([4.0, 1.0, 2.0, 3.0], 2.0, 4.0), (range(1, 101), 50, 95)],
)
def test_quantiles_are_values_that_were_seen(values: list[float], p50: float, p95: float) -> None:
    told = quantiles(values)
    assert (told["p50"], told["p95"]) == (p50, p95)
