"""Targets, thresholds and the exact bound, against answers worked out by hand."""

from __future__ import annotations

import itertools
import math
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from calibration.thresholds import (
    ESCALATE_ALL,
    OperatingPoint,
    Target,
    TargetKind,
    binomial_interval,
    candidate_thresholds,
    choose_threshold,
    measure,
    risk_upper_bound,
)

NAN = math.nan


class TestTarget:
    @pytest.mark.parametrize(
        ("text", "kind", "value"),
        [
            ("escalation=0.3", "escalation", 0.3),
            ("risk=0.1", "risk", 0.1),
            ("threshold=0.6", "threshold", 0.6),
            (" Risk = 1e-1 ", "risk", 0.1),
            ("escalation=0", "escalation", 0.0),
            ("escalation=1", "escalation", 1.0),
        ],
    )
    def test_reads_the_three_kinds(self, text: str, kind: TargetKind, value: float) -> None:
        assert Target.parse(text) == Target(kind, value)

    @pytest.mark.parametrize(
        "text",
        [
            *["", "0.3", "risk", "risk=", "risk=low", "risk=0.1=2", "budget=0.3", "risk=10%"],
            *["risk=1.5", "escalation=-0.1", "threshold=nan", "risk=inf", "risk=.1 risk=.2"],
        ],
    )
    def test_refuses_anything_else_and_names_what_is_allowed(self, text: str) -> None:
        with pytest.raises(CalibrationError, match="escalation=R, risk=R and threshold=R"):
            Target.parse(text)

    def test_can_not_be_built_wrong(self) -> None:
        with pytest.raises(CalibrationError, match="unknown target 'cost'"):
            Target(cast(TargetKind, "cost"), 0.5)
        with pytest.raises(CalibrationError, match=r"risk=2\.0 is outside 0 to 1"):
            Target("risk", 2.0)

    @given(
        st.sampled_from(["escalation", "risk", "threshold"]),
        st.floats(min_value=0.0, max_value=1.0),
    )
    def test_prints_as_it_is_read(self, kind: TargetKind, value: float) -> None:
        target = Target(kind, value)
        assert Target.parse(str(target)) == target


class TestEscalation:
    @pytest.mark.parametrize(
        ("ratio", "threshold", "reached"),
        [
            (0.0, 0.0, 0.0),
            (0.25, 0.65, 0.25),
            (0.3, 0.65, 0.25),
            (0.5, 0.75, 0.5),
            (0.7, 0.85, 0.75),
        ],
    )
    def test_takes_the_nearest_ratio(self, ratio: float, threshold: float, reached: float) -> None:
        point = choose_threshold(
            Target("escalation", ratio), [0.9, 0.6, 0.8, 0.7], [True, False, True, False]
        )
        assert point.threshold == pytest.approx(threshold)
        assert point.escalation_ratio == reached

    def test_ties_move_together(self) -> None:
        point = choose_threshold(
            Target("escalation", 0.5), [0.9, 0.5, 0.5, 0.5], [True, True, False, False]
        )
        assert point.escalation_ratio == 0.75
        assert point.threshold == pytest.approx(0.7)

    def test_of_two_equally_near_it_escalates_more(self) -> None:
        point = choose_threshold(Target("escalation", 0.25), [0.9, 0.1], [True, False])
        assert point.escalation_ratio == 0.5

    def test_unknown_is_always_escalated_and_counted(self) -> None:
        p, correct = [NAN, 0.9, NAN, 0.8], [True, True, True, False]
        none_asked = choose_threshold(Target("escalation", 0.0), p, correct)
        assert none_asked.escalation_ratio == 0.5
        assert (none_asked.n_kept, none_asked.n) == (2, 4)
        three_quarters = choose_threshold(Target("escalation", 0.75), p, correct)
        assert three_quarters.threshold == pytest.approx(0.85)
        assert three_quarters.accuracy_kept == 1.0

    def test_everything_escalates_even_certainty(self) -> None:
        point = choose_threshold(Target("escalation", 1.0), [1.0, 0.5], [True, True])
        assert point == OperatingPoint("escalation=1.0", ESCALATE_ALL, 1.0, None, None, 0, 2)

    def test_only_unknown_scores_leave_nothing_to_keep(self) -> None:
        point = choose_threshold(Target("escalation", 0.2), [NAN, NAN], [True, False])
        assert point.escalation_ratio == 1.0
        assert point.accuracy_kept is None

    @settings(max_examples=40)
    @given(
        st.lists(st.sampled_from([NAN, 0.0, 0.1, 0.5, 0.50000001, 0.9, 1.0]), min_size=1),
        st.floats(0, 1),
    )
    def test_no_threshold_comes_nearer(self, p: list[float], ratio: float) -> None:
        right = [True] * len(p)
        chosen = choose_threshold(Target("escalation", ratio), p, right).escalation_ratio
        for threshold in [0.0, 0.05, 0.1, 0.3, 0.5, 0.50000001, 0.7, 0.9, 0.95, 1.0, ESCALATE_ALL]:
            other = measure("any", threshold, p, right).escalation_ratio
            assert abs(chosen - ratio) <= abs(other - ratio) + 1e-9


class TestRisk:
    # Kept from the top: errors 0/1, 1/2, 1/3, 1/4, 2/5, 2/6, 2/7, 2/8, 3/9, 4/10.
    P = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
    RIGHT = (True, False, True, True, False, True, True, True, False, False)

    @pytest.mark.parametrize(
        ("risk", "n_kept", "threshold"),
        [(0.4, 10, 0.0), (0.39, 9, 0.525), (0.25, 8, 0.575), (0.3, 8, 0.575), (0.0, 1, 0.925)],
    )
    def test_takes_the_most_permissive_threshold(
        self, risk: float, n_kept: int, threshold: float
    ) -> None:
        point = choose_threshold(Target("risk", risk), self.P, self.RIGHT, min_kept=1)
        assert point.n_kept == n_kept
        assert point.threshold == pytest.approx(threshold)
        assert point.accuracy_kept is not None
        assert 1 - point.accuracy_kept <= risk + 1e-12

    def test_judges_no_risk_on_fewer_than_min_kept(self) -> None:
        with pytest.raises(InfeasibleTarget, match="at least 5 of these 10 answers") as caught:
            choose_threshold(Target("risk", 0.2), self.P, self.RIGHT, min_kept=5)
        # 2 wrong of 8 is the lowest error among at least 5 kept.
        assert "0.250, is that of threshold 0.575, which keeps 8 (80%)" in str(caught.value)
        assert "risk=0.25 or more" in str(caught.value)

    def test_what_the_message_offers_is_feasible(self) -> None:
        right = [i % 3 > 0 for i in range(31)]
        with pytest.raises(InfeasibleTarget, match=r"risk=0\.3") as caught:
            choose_threshold(Target("risk", 0.1), np.linspace(0.1, 0.9, 31), right)
        offered = str(caught.value).split("Ask for ")[1].split(" or more")[0]
        choose_threshold(Target.parse(offered), np.linspace(0.1, 0.9, 31), right)

    def test_says_when_too_few_are_known(self) -> None:
        with pytest.raises(InfeasibleTarget, match="2 of 4 answers have a known p_correct"):
            choose_threshold(Target("risk", 0.5), [NAN, 0.5, 0.6, NAN], [True] * 4)

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1), st.floats(0, 1))
    def test_no_lower_threshold_meets_it(self, rows: list[tuple[int, bool]], risk: float) -> None:
        p, right = [i / 5 for i, _ in rows], [good for _, good in rows]

        def error(threshold: float) -> float:
            accuracy = measure("any", threshold, p, right).accuracy_kept
            return math.inf if accuracy is None else 1 - accuracy

        levels = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        feasible = [level for level in levels if error(level) <= risk]
        try:
            point = choose_threshold(Target("risk", risk), p, right, min_kept=1)
        except InfeasibleTarget:
            assert not feasible
        else:
            assert point.n_kept == measure("any", min(feasible), p, right).n_kept


class TestThreshold:
    def test_is_used_as_given_and_keeps_its_own_value(self) -> None:
        point = choose_threshold(Target("threshold", 0.6), [0.6, 0.59, 0.61], [True, True, False])
        assert point.threshold == 0.6
        assert point.n_kept == 2
        assert point.accuracy_kept == 0.5
        assert point.target == "threshold=0.6"

    def test_certifies_nothing(self) -> None:
        assert choose_threshold(Target("threshold", 0.0), [0.5], [True]).certificate is None


class TestCandidates:
    def test_lie_between_neighbours(self) -> None:
        thresholds = candidate_thresholds([0.2, 0.8, NAN, 0.2])
        assert thresholds.tolist() == [0.0, 0.5, ESCALATE_ALL]

    def test_part_neighbours_with_nothing_between(self) -> None:
        low = 0.3
        high = math.nextafter(low, 1)
        middle = candidate_thresholds([low, high])[1]
        assert low < middle <= high

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
    def test_each_keeps_another_set(self, p: list[float]) -> None:
        kept = [int((np.array(p) >= t).sum()) for t in candidate_thresholds(p)]
        assert all(more > fewer for more, fewer in itertools.pairwise(kept))
        assert kept[0] == len(p)
        assert kept[-1] == 0
        assert len(kept) == len(set(p)) + 1


class TestBounds:
    def test_no_errors_seen(self) -> None:
        # (1 - r)^n = 0.05: the classic sample sizes for 5%, 10% and 20% at 95% confidence.
        for n, risk in ((59, 0.05), (29, 0.10), (14, 0.20)):
            assert risk_upper_bound(0, n) < risk < risk_upper_bound(0, n - 1)
            assert risk_upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n))

    def test_only_errors_seen(self) -> None:
        assert risk_upper_bound(7, 7) == 1.0

    @pytest.mark.parametrize(("wrong", "kept"), [(0, 20), (3, 20), (19, 20), (40, 300)])
    def test_seeing_so_few_errors_would_be_a_5_percent_surprise(
        self, wrong: int, kept: int
    ) -> None:
        bound = risk_upper_bound(wrong, kept)
        assert stats.binom.cdf(wrong, kept, bound) == pytest.approx(0.05)

    @pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 9), (77, 100)])
    def test_interval_is_scipys(self, right: int, n: int) -> None:
        expected = stats.binomtest(right, n).proportion_ci(0.95, method="exact")
        assert binomial_interval(right, n) == pytest.approx((expected.low, expected.high))

    def test_reported_with_every_point(self) -> None:
        point = measure("any", 0.5, [0.9, 0.8, 0.7, 0.1], [True, True, False, False])
        assert point.risk_upper == risk_upper_bound(1, 3)


@pytest.mark.parametrize(
    ("p", "correct", "message"),
    [
        ([], [], "no answers"),
        ([0.5], [True, False], "one value each per answer"),
        ([[0.5]], [[True]], "one value each per answer"),
        ([0.5, 1.2], [True, False], "holds 1.2;"),
        ([-0.1], [True], "a probability is from 0 to 1"),
        ([0.5], [2], "only true and false"),
        ([0.5], [NAN], "only true and false"),
    ],
)
def test_impossible_input_is_an_error(p: list[float], correct: list[float], message: str) -> None:
    with pytest.raises(FitError, match=message):
        choose_threshold(Target("escalation", 0.5), p, correct)
    with pytest.raises(FitError, match=message):
        measure("any", 0.5, p, correct)
