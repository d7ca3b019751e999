"""The controller's bound on every sequence, and its ratio and quality on real and ideal scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.controller import ControllerState, EscalationController
from calibration.errors import CalibrationError
from calibration.metrics import FloatArray
from calibration.thresholds import ESCALATE_ALL, Target, choose_threshold

NAN = math.nan
START = ControllerState()
FRESH = np.linspace(0.005, 0.995, 100).tolist()
ROUNDING = 1e-9

scores = st.floats(0.0, 1.0)
tied_scores = st.sampled_from([0.0, 0.3, 0.3, 0.7, 1.0])
ratios = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]) | st.floats(0.0, 1.0)


def run(
    controller: EscalationController, stream: Iterable[float], state: ControllerState = START
) -> tuple[list[bool], ControllerState]:
    """Decide each query of `stream`; an escalation spends 1."""
    escalated = []
    for score in stream:
        escalated.append(controller.escalates(state, score))
        state = controller.after(state, score, escalated[-1])
    return escalated, state


class TestBound:
    @settings(max_examples=150, deadline=None)
    @given(
        ratio=ratios,
        reference=st.lists(scores, min_size=1, max_size=20),
        stream=st.lists(scores | tied_scores, min_size=1, max_size=150),
        slack=st.floats(0.1, 20.0),
        window=st.integers(1, 40),
    )
    def test_holds_after_every_query_of_any_sequence(
        self, ratio: float, reference: list[float], stream: list[float], slack: float, window: int
    ) -> None:
        controller = EscalationController(ratio, reference, slack=slack, window=window)
        escalated, _ = run(controller, stream)
        for n in range(1, len(stream) + 1):
            gap = abs(sum(escalated[:n]) / n - ratio)
            assert gap <= controller.bound(n) + ROUNDING

    @pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.9])
    @pytest.mark.parametrize("side", ["just below", "just above", "lowest first, then highest"])
    def test_holds_against_one_who_sees_the_threshold(self, ratio: float, side: str) -> None:
        controller = EscalationController(ratio, FRESH)
        state = START
        for n in range(1, 400):
            threshold = controller.threshold(state)
            score = {
                "just below": max(math.nextafter(threshold, -1.0), 0.0),
                "just above": min(threshold, 1.0),
                "lowest first, then highest": float(n > 200),
            }[side]
            state = controller.after(state, score, controller.escalates(state, score))
            assert abs(state.spent / n - ratio) <= controller.bound(n) + ROUNDING
        assert state.n == 399

    @settings(max_examples=60, deadline=None)
    @given(ratio=ratios, stream=st.lists(scores, min_size=1, max_size=120), k=st.integers(0, 4))
    def test_holds_with_decisions_under_way(
        self, ratio: float, stream: list[float], k: int
    ) -> None:
        controller = EscalationController(ratio, FRESH)
        state, under_way = START, []
        for n, score in enumerate(stream, start=1):
            under_way.append((score, controller.escalates(state, score)))
            if len(under_way) > k:
                state = controller.after(state, *under_way.pop(0))
            total = state.spent + sum(escalated for _, escalated in under_way)
            assert abs(total / n - ratio) <= controller.bound(n, in_flight=k) + ROUNDING

    def test_is_three_points_after_200_queries_for_every_ratio(self) -> None:
        for ratio in np.linspace(0.0, 1.0, 21):
            assert EscalationController(float(ratio), FRESH).bound(200) <= 0.03

    @pytest.mark.parametrize(("n", "in_flight"), [(0, 0), (-1, 0), (10, -1)])
    def test_needs_queries(self, n: int, in_flight: int) -> None:
        with pytest.raises(CalibrationError, match="no bound"):
            EscalationController(0.3, FRESH).bound(n, in_flight=in_flight)


class TestThreshold:
    def test_starts_from_the_references_quantile(self) -> None:
        rng = np.random.default_rng(0)
        reference = rng.beta(2, 3, 1000)
        for ratio in (0.1, 0.3, 0.5, 0.9):
            calibrated = choose_threshold(Target("escalation", ratio), reference, reference > 0.5)
            started = EscalationController(ratio, reference).threshold(START)
            assert np.mean(reference < started) == pytest.approx(ratio, abs=0.012)
            assert started == pytest.approx(calibrated.threshold, abs=0.02)

    def test_forgets_the_reference_evenly(self) -> None:
        reference = np.linspace(0.0, 1.0, 501)
        controller = EscalationController(0.5, reference)
        for seen in range(0, 90, 10):
            half_below = [0.0, 1.0] * (seen // 2)
            state = ControllerState(scores=tuple(half_below))
            assert controller.threshold(state) == pytest.approx(0.5, abs=0.06)

    @given(st.lists(scores | st.just(NAN), min_size=1, max_size=30), st.floats(-9.0, 9.0), ratios)
    def test_is_one_that_decisions_can_use(
        self, live: list[float], deficit: float, ratio: float
    ) -> None:
        controller = EscalationController(ratio, live, window=7)
        threshold = controller.threshold(ControllerState(tuple(live), deficit, len(live)))
        assert 0.0 <= threshold <= ESCALATE_ALL

    def test_goes_to_both_ends_with_the_deficit(self) -> None:
        controller = EscalationController(0.3, FRESH)
        assert controller.threshold(ControllerState(deficit=4.0)) == ESCALATE_ALL
        assert controller.threshold(ControllerState(deficit=-4.0)) == 0.0
        between = [controller.threshold(ControllerState(deficit=d)) for d in np.linspace(-4, 4, 33)]
        assert between == sorted(between)

    def test_zero_and_one_need_no_control(self) -> None:
        stream = np.random.default_rng(1).random(50).tolist()
        assert not any(run(EscalationController(0.0, FRESH), [*stream, 0.0])[0])
        assert all(run(EscalationController(1.0, FRESH), [*stream, 1.0])[0])

    def test_a_constant_score_is_escalated_at_the_ratio_from_the_start(self) -> None:
        for ratio in (0.1, 0.3, 0.5, 0.9):
            controller = EscalationController(ratio, [0.5])
            escalated, _ = run(controller, [0.5] * 200)
            counts = np.cumsum(escalated) - ratio * np.arange(1, 201)
            assert np.abs(counts).max() <= 1.0

    def test_ties_of_few_values_keep_the_ratio_and_the_order(self) -> None:
        stream = np.random.default_rng(2).choice([0.2, 0.6, 0.9], 600, p=[0.3, 0.4, 0.3])
        escalated, _ = run(EscalationController(0.5, stream[:100]), stream)
        shares = [np.mean(np.asarray(escalated)[stream == value]) for value in (0.2, 0.6, 0.9)]
        assert np.mean(escalated) == pytest.approx(0.5, abs=0.01)
        assert shares[0] > 0.95
        assert shares[2] < 0.05


class TestUnknownScores:
    def test_always_escalate(self) -> None:
        controller = EscalationController(0.1, FRESH)
        for deficit in (-50.0, 0.0, 50.0):
            assert controller.escalates(ControllerState(deficit=deficit), NAN)

    def test_count_in_the_ratio_while_they_are_fewer(self) -> None:
        rng = np.random.default_rng(3)
        stream = np.where(rng.random(500) < 0.2, NAN, rng.random(500))
        escalated, _ = run(EscalationController(0.4, FRESH), stream)
        assert np.mean(escalated) == pytest.approx(0.4, abs=0.01)

    def test_a_spell_of_them_is_forgiven(self) -> None:
        controller = EscalationController(0.3, FRESH)
        _, state = run(controller, [NAN] * 300)
        assert state.spent == 300
        assert state.deficit >= -5.0
        stream = np.random.default_rng(4).random(200)
        escalated, _ = run(controller, stream, state)
        assert np.mean(escalated) == pytest.approx(0.3, abs=0.05)

    def test_known_answers_are_kept_while_most_are_unknown(self) -> None:
        rng = np.random.default_rng(5)
        stream = np.where(rng.random(400) < 0.6, NAN, rng.random(400))
        escalated, _ = run(EscalationController(0.3, FRESH), stream)
        assert not np.asarray(escalated)[100:][~np.isnan(stream[100:])].any()


class TestMoney:
    def test_spending_follows_what_escalations_really_cost(self) -> None:
        rng = np.random.default_rng(6)
        controller = EscalationController(0.002, FRESH, cost=0.01)
        state = START
        for score in rng.random(1000):
            usd = float(rng.gamma(2.0, 0.01)) if controller.escalates(state, score) else 0.0
            state = controller.after(state, score, usd)  # twice the expected 0.01
        assert state.spent / state.n == pytest.approx(0.002, rel=0.05)

    def test_never_spends_more_than_the_bound(self) -> None:
        controller = EscalationController(0.002, FRESH, cost=0.01)
        dearest, state = 0.05, START
        for n in range(1, 500):
            usd = dearest if controller.escalates(state, 0.5) else 0.0
            state = controller.after(state, 0.5, usd)
            assert state.spent <= n * 0.002 + 4 * 0.01 + dearest

    def test_allowance_that_can_not_be_spent_lapses(self) -> None:
        controller = EscalationController(1.0, FRESH, cost=0.01)
        state = START
        for _ in range(300):
            assert controller.threshold(state) == ESCALATE_ALL
            state = controller.after(state, 0.9, 0.01)
        assert state.deficit <= 2 * 4 * 0.01 + 1.0


class TestState:
    def test_survives_json(self) -> None:
        _, state = run(EscalationController(0.3, FRESH, window=5), [0.1, NAN, 0.9, 0.4])
        text = json.dumps(state.to_dict(), allow_nan=False)
        assert repr(ControllerState.from_dict(json.loads(text))) == repr(state)

    def test_keeps_no_more_than_the_window(self) -> None:
        _, state = run(EscalationController(0.3, FRESH, window=5), FRESH)
        assert state.scores == tuple(FRESH[-5:])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d | {"more": 1}, "has the fields"),
            (lambda d: {"n": d["n"]}, "has the fields"),
            (lambda d: d | {"n": -1}, "n must be a count"),
            (lambda d: d | {"n": True}, "n must be a count"),
            (lambda d: d | {"scores": [1.5]}, "1.5 is no P"),
            (lambda d: d | {"scores": "0.5"}, "scores must be a list"),
            (lambda d: d | {"deficit": math.inf}, "deficit must be finite"),
            (lambda d: d | {"deficit": "0"}, "deficit must be a number"),
            (lambda d: d | {"spent": -1.0}, "spent must be finite and at least 0"),
        ],
    )
    def test_refuses_what_it_never_wrote(
        self, change: Callable[[dict[str, object]], dict[str, object]], message: str
    ) -> None:
        with pytest.raises(CalibrationError, match=message):
            ControllerState.from_dict(change(ControllerState(n=3).to_dict()))

    def test_increments_may_be_added_in_any_order(self) -> None:
        controller = EscalationController(0.3, FRESH)
        stream = np.random.default_rng(7).random(60)
        escalated, state = run(controller, stream)
        steps = [
            controller.increment(START, score, x)
            for score, x in zip(stream, escalated, strict=True)
        ]
        assert math.fsum(reversed(steps)) == pytest.approx(state.deficit, abs=ROUNDING)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: EscalationController(-0.1, FRESH),
            lambda: EscalationController(NAN, FRESH),
            lambda: EscalationController(0.3, []),
            lambda: EscalationController(0.3, [2.0]),
            lambda: EscalationController(0.3, FRESH, cost=0.0),
            lambda: EscalationController(0.3, FRESH, slack=-1.0),
            lambda: EscalationController(0.3, FRESH, window=0),
            lambda: EscalationController(0.3, FRESH).after(START, 1.2, 0.0),
            lambda: EscalationController(0.3, FRESH).after(START, 0.2, -1.0),
        ],
    )
    def test_refuses_settings_and_queries_out_of_range(self, make: Callable[[], object]) -> None:
        with pytest.raises(CalibrationError):
            make()


@pytest.fixture(scope="module")
def sets() -> dict[str, FloatArray]:
    """A score in [0, 1] of each answer, higher = surer, for every data set."""
    path = Path(__file__).with_name("slm_scores.json")
    columns = json.loads(path.read_text())
    return {name: np.exp(-np.asarray(c["perplexity"])) for name, c in columns.items()}


@pytest.mark.no_cover  # thousands of queries over lines that other tests cover
class TestOnRealScores:
    """The reference is always the other data sets' scores, as for traffic no one has seen."""

    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.9])
    def test_within_three_points_after_200_queries_of_every_set(
        self, sets: dict[str, FloatArray], ratio: float
    ) -> None:
        rng = np.random.default_rng(8)
        for name, scores in sets.items():
            others = np.concatenate([sets[other] for other in sets if other != name])
            escalated, _ = run(EscalationController(ratio, others), rng.choice(scores, 400))
            shares = np.cumsum(escalated) / np.arange(1, 401)
            assert np.abs(shares[199:] - ratio).max() <= 0.03 + ROUNDING

    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7])
    def test_within_three_points_over_the_200_queries_after_a_switch(
        self, sets: dict[str, FloatArray], ratio: float
    ) -> None:
        rng = np.random.default_rng(9)
        names = list(sets)
        for shift in (1, 5, 9):
            for before, after in zip(names, names[shift:] + names[:shift], strict=True):
                controller = EscalationController(ratio, sets[before])
                _, state = run(controller, rng.choice(sets[before], 120))
                escalated, _ = run(controller, rng.choice(sets[after], 300), state)
                assert abs(np.mean(escalated[:200]) - ratio) <= 0.03 + ROUNDING
                assert abs(np.mean(escalated[100:]) - ratio) <= 0.03 + ROUNDING

    def test_a_fixed_threshold_would_not_have(self, sets: dict[str, FloatArray]) -> None:
        gaps = []
        for name, scores in sets.items():
            others = np.concatenate([sets[other] for other in sets if other != name])
            gaps.append(abs(np.mean(scores < np.quantile(others, 0.3)) - 0.3))
        assert np.mean(gaps) > 0.1


class TestQuality:
    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7])
    def test_the_wrong_answers_escalated_are_nearly_those_of_a_fixed_threshold(
        self, ratio: float
    ) -> None:
        """Scores that mean what they say: an answer of score p is wrong with probability 1 - p."""
        stream = np.random.default_rng(10).random(2500)
        escalated = np.asarray(run(EscalationController(ratio, FRESH), stream)[0])
        fixed = np.argsort(stream)[: escalated.sum()]
        lost = (1 - stream[fixed]).sum() - (1 - stream[escalated]).sum()
        assert lost / (1 - stream).sum() <= 0.015
