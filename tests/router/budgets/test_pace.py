"""What pacing rests on: rates, shares, thresholds, guesses."""

from __future__ import annotations

import math

import pytest

from calibration.figures import Reference
from router.answer import Usage
from router.budgets.expected import FIRST_ANSWER, Expected
from router.budgets.pace import Pacer, Rate, allowed_ratio, cost_of_one
from tests.router.calibrations import calibration
from tests.router.traffic import held_out


def test_a_rate_follows_what_happens_now() -> None:
    rate = Rate(3600.0)
    for minute in range(600):
        rate.update(minute * 60.0, minute * 60.0, began=0.0)
    assert rate.per_second == pytest.approx(1.0, rel=0.05)
    total = 600 * 60.0
    for minute in range(600, 1200):
        total += 240.0
        rate.update(total, minute * 60.0, began=0.0)
    assert rate.per_second == pytest.approx(4.0, rel=0.05)


def test_a_rate_goes_on_where_others_counted_and_over_midnight() -> None:
    rate = Rate(3600.0)
    rate.update(7200.0, 36_000.0, began=0.0)  # this process has just started
    assert rate.per_second == pytest.approx(0.2, rel=0.05)
    before = rate.per_second
    rate.begin_anew()
    rate.update(2.0, 36_010.0, began=36_000.0)
    assert rate.per_second == pytest.approx(before, rel=0.02)


def test_a_few_queries_in_the_first_second_are_no_rate() -> None:
    rate = Rate(3600.0)
    assert rate.per_second == 0.0
    rate.update(0.0, 1.0, began=0.0)
    rate.update(6.0, 2.0, began=0.0)
    assert rate.per_second <= 0.1


def test_the_allowed_share() -> None:
    share = allowed_ratio(1.0, 1000.0, queries=0.1, forced=0.0, cost=0.02)
    assert share == pytest.approx(0.5)
    assert allowed_ratio(1.0, 1000.0, queries=0.1, forced=5e-4, cost=0.02) == pytest.approx(0.25)
    assert allowed_ratio(1.0, 1000.0, queries=0.1, forced=0.1, cost=0.02) == 0.0
    assert allowed_ratio(-1.0, 1000.0, queries=0.1, forced=0.0, cost=0.02) == 0.0
    assert allowed_ratio(1.0, 0.0, queries=0.1, forced=0.0, cost=0.02) == math.inf
    assert allowed_ratio(0.0, 10.0, queries=0.0, forced=0.0, cost=0.02) == math.inf


def test_what_one_costs_begins_with_a_guess() -> None:
    assert cost_of_one(0.0, 0, 3.0) == 3.0
    assert cost_of_one(100.0, 95, 3.0) == pytest.approx(1.15)


def test_the_threshold_lies_on_the_calibrated_curve() -> None:
    made = held_out()
    pacer, known = Pacer(made), made.reference.p_correct
    assert pacer.threshold(1.0) is pacer.threshold(math.inf) is None
    for ratio in (0.05, 0.3, 0.8):
        threshold = pacer.threshold(ratio)
        assert threshold is not None
        below = sum(p < threshold for p in known) / len(known)
        assert below == pytest.approx(ratio, abs=0.01)
    assert pacer.threshold(0.0) == known[0]


def test_the_curve_goes_over_to_the_queries_that_are_asked() -> None:
    pacer = Pacer(held_out())
    for n in range(500):
        pacer.saw(0.9 + 0.0001 * n if n % 10 else None)
    threshold = pacer.threshold(0.2)
    assert threshold is not None
    assert threshold > 0.9
    assert pacer.threshold(0.05) == 0.0  # unknown ones are more than that already


def test_a_calibration_without_held_out_answers_moves_nothing() -> None:
    assert Pacer(calibration(reference=Reference((), (), 0))).threshold(0.1) is None


def test_what_a_call_is_expected_to_take() -> None:
    expected = Expected()
    body = {"messages": [{"role": "user", "content": "four" * 100}]}
    assert expected.usage(body) == Usage(101, FIRST_ANSWER)
    assert expected.usage({**body, "max_tokens": 10, "n": 3}) == Usage(101, 30)
    image = {"type": "image_url", "image_url": {"url": "data:" + "A" * 100_000}}
    parts = [{"type": "text", "text": "four" * 100}, image]
    seen = expected.usage({"messages": [{"role": "user", "content": parts}, {"role": "user"}]})
    assert 1100 < seen.prompt_tokens < 1120
    for _ in range(200):
        expected.learn(Usage(10, 40))
    assert expected.usage(body).completion_tokens == 40
    tools = expected.usage({**body, "tools": [{"type": "function"}]})
    assert tools.prompt_tokens > 101
