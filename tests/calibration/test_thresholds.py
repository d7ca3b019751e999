"""Thresholds and the exact bound, against answers worked out by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from calibration.parts import FitPart, HeldOutPart
from calibration.thresholds import (
    ESCALATE_ALL,
    CostModel,
    OperatingPoint,
    Target,
    binomial_interval,
    candidate_thresholds,
    choose_operating_point,
    choose_threshold,
    measure,
    parse_targets,
    risk_upper_bound,
)

NAN = math.nan


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

        def meets(threshold: float) -> bool:
            kept = [good for one, good in zip(p, right, strict=True) if one >= threshold]
            return bool(kept) and kept.count(False) <= risk * len(kept) + 1e-9  # but for rounding

        feasible = [level for level in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if meets(level)]
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

    def test_other_kinds_need_more_than_these_answers(self) -> None:
        with pytest.raises(CalibrationError, match=r"loss=0\.1 can't be chosen on these answers"):
            choose_threshold(Target("loss", 0.1), [0.5], [True])

    def test_certifies_nothing(self) -> None:
        assert choose_threshold(Target("threshold", 0.0), [0.5], [True]).certificate is None


class TestMeasure:
    P = (0.9, 0.8, 0.7, 0.2)
    RIGHT = (True, False, False, False)

    def test_what_the_llm_would_have_done(self) -> None:
        point = measure("any", 0.5, self.P, self.RIGHT, [0.0, 1.0, 0.0, 1.0])
        assert point.loss == 0.25  # the second
        assert point.accuracy_overall == 0.5  # the first kept, the fourth escalated

    def test_counts_recorded_outcomes_only(self) -> None:
        point = measure("any", 0.5, self.P, self.RIGHT, [NAN, 1.0, NAN, 1.0])
        assert (point.loss, point.accuracy_overall, point.n) == (0.5, 0.5, 4)
        for none in (None, [NAN] * 4):
            unknown = measure("any", 0.5, self.P, self.RIGHT, none)
            assert (unknown.loss, unknown.accuracy_overall) == (None, None)

    def test_of_older_files_is_left_out_of_them(self) -> None:
        adapter = TypeAdapter(OperatingPoint)
        old = adapter.dump_python(measure("any", 0.5, self.P, self.RIGHT), mode="json")
        assert list(old) == [
            *["target", "threshold", "escalation_ratio", "accuracy_kept", "risk_upper"],
            *["n_kept", "n", "certificate"],
        ]
        assert adapter.validate_python(old) == measure("any", 0.5, self.P, self.RIGHT)
        new = measure("any", 0.5, self.P, self.RIGHT, [0.0, 1.0, 0.0, 1.0])
        assert adapter.validate_json(adapter.dump_json(new), strict=True) == new


N = 400


def parts(*, llm: bool = True, **more: Any) -> tuple[FitPart, HeldOutPart]:
    """Two parts of evenly spread p; of each ten neighbours 10 (1 - p) are wrong.

    The large model errs in one of twenty, never where the small one does. `more` changes the fit
    part.
    """
    p = (np.arange(N) + 0.5)[::-1] / N
    right = (np.arange(N) % 10 + 0.5) / 10 >= 1 - p
    outcome = (np.arange(N) % 20 != 9).astype(float) if llm else None
    fit: dict[str, Any] = {
        "keys": tuple(("fit", str(i)) for i in range(N)),
        "p_correct": p,
        "correct": right,
        "llm": outcome,
    }
    held_out = HeldOutPart(
        keys=tuple(("held-out", str(i)) for i in range(N)),
        p_correct=p,
        correct=right,
        llm=outcome,
        population="some rows",
    )
    return FitPart(**{**fit, **more}), held_out


def operate(*texts: str, **more: Any) -> OperatingPoint:
    settings = {name: more.pop(name) for name in ("cost", "confidence") if name in more}
    return choose_operating_point(parse_targets(texts), *parts(**more), **settings)


class TestBudgets:
    def test_a_single_ratio_is_met_as_nearly_as_ties_allow(self) -> None:
        fit, held_out = parts()
        point = choose_operating_point(parse_targets(["escalation=0.3"]), fit, held_out)
        old = choose_threshold(Target("escalation", 0.3), fit.p_correct, fit.correct)
        assert point.threshold == old.threshold
        assert point.escalation_ratio == pytest.approx(0.3)
        assert point.certificate is None
        assert point.target == "escalation=0.3"

    def test_is_set_on_what_is_served(self) -> None:
        point = operate("escalation=0.5", p_served=np.linspace(0.4, 0.8, 400))
        assert point.threshold == pytest.approx(0.6, abs=0.01)
        assert point.escalation_ratio == pytest.approx(0.6, abs=0.01)

    def test_money_is_used_in_full(self) -> None:
        cost = CostModel(escalated_usd=0.01, local_usd=0.001, queries_per_day=1000)
        point = operate("cost=4/day", cost=cost)
        assert point.escalation_ratio == pytest.approx(0.3)
        assert operate("cost=100/1k", cost=cost).threshold == ESCALATE_ALL

    def test_money_is_not_overspent_on_ties(self) -> None:
        tied = np.repeat([0.9, 0.5], 200)
        cost = CostModel(escalated_usd=0.01)
        assert operate("cost=4.9/1k", cost=cost, p_served=tied).threshold == 0.0
        assert operate("cost=5/1k", cost=cost, p_served=tied).threshold == pytest.approx(0.7)

    def test_the_strictest_holds(self) -> None:
        cost = CostModel(escalated_usd=0.01)
        for texts in (["cost=2/1k", "escalation=0.5"], ["cost=5/1k", "escalation=0.2"]):
            assert operate(*texts, cost=cost).escalation_ratio == pytest.approx(0.2)

    def test_of_money_needs_prices_that_fit(self) -> None:
        with pytest.raises(CalibrationError, match=r"cost=5\.0/day needs prices"):
            operate("cost=5/day")
        with pytest.raises(InfeasibleTarget, match="not pay for the small model alone") as caught:
            operate("cost=0.5/1k", cost=CostModel(0.01, local_usd=0.001))
        assert caught.value.feasible == ("cost=1/1k",)

    def test_of_unknown_scores_have_a_floor(self) -> None:
        unknown = np.where(np.arange(400) < 100, NAN, 0.5)
        with pytest.raises(InfeasibleTarget, match=r"unknown for 25\.0% .* escalation=0\.25"):
            operate("escalation=0.2", "cost=9/1k", cost=CostModel(0.01), p_served=unknown)


class TestQualities:
    def test_a_risk_is_certified_on_the_held_out_part(self) -> None:
        point = operate("risk=0.2")
        assert point.certificate is not None
        claim = point.certificate.claims[0]
        assert point.certificate.threshold == point.threshold
        assert (claim.n, claim.n_kept) == (400, point.n_kept)
        assert point.accuracy_kept == 1 - claim.n_errors / claim.n_kept
        assert point.accuracy_kept > 0.8
        assert point.risk_upper is not None
        assert point.risk_upper <= 0.2

    def test_savings_are_what_is_left(self) -> None:
        assert operate("savings=max", "risk=0.2").threshold == operate("risk=0.2").threshold

    def test_a_budget_beside_a_quality_is_a_limit(self) -> None:
        assert operate("risk=0.2", "escalation=0.9").threshold == operate("risk=0.2").threshold

    def test_a_loss_and_a_risk_hold_together(self) -> None:
        risk, loss = operate("risk=0.2"), operate("loss=0.05")
        both = operate("risk=0.2", "loss=0.05")
        assert both.threshold >= max(risk.threshold, loss.threshold)
        assert both.certificate is not None
        assert [claim.kind for claim in both.certificate.claims] == ["risk", "loss"]

    def test_an_accuracy_is_the_lowest_threshold_that_reaches_it(self) -> None:
        point = operate("accuracy=0.9")
        assert point.certificate is None
        assert point.accuracy_overall == pytest.approx(0.9, abs=0.01)
        assert operate("accuracy=0.8").threshold < point.threshold
        assert operate("accuracy=0").threshold == 0.0

    def test_an_accuracy_limits_where_a_risk_is_tested(self) -> None:
        strict, lax = operate("accuracy=0.94").threshold, operate("risk=0.3").threshold
        both = operate("accuracy=0.94", "risk=0.3")
        assert lax < strict <= both.threshold
        assert both.certificate is not None

    def test_contradictions_say_by_how_much(self) -> None:
        with pytest.raises(InfeasibleTarget) as caught:
            operate("risk=0.2", "escalation=0.3")
        risk, ratio = caught.value.feasible
        text = str(caught.value)
        assert text.startswith("risk=0.2 needs ")
        needed = caught.value.least_escalation
        assert needed is not None
        points = 100 * (needed - 0.3)
        assert f"{needed:.0%} escalated, escalation=0.3 allows 30%: {points:.0f} points" in text
        assert text.endswith(f"points apart; ask for {risk} or {ratio}")
        assert operate(risk, "escalation=0.3").escalation_ratio <= 0.3 + 1e-9
        assert operate("risk=0.2", ratio).certificate is not None
        lower = Target("risk", Target.parse(risk).value - 0.01)
        with pytest.raises(InfeasibleTarget):
            operate(str(lower), "escalation=0.3")

    def test_a_contradiction_with_money_is_told_in_money(self) -> None:
        cost = CostModel(escalated_usd=0.01)
        with pytest.raises(InfeasibleTarget, match=r"cost=3\.0/1k allows 30%") as caught:
            operate("risk=0.2", "cost=3/1k", "escalation=0.4", cost=cost)
        _, raised = caught.value.feasible
        assert operate("risk=0.2", *raised.split(", "), cost=cost).certificate is not None

    def test_an_accuracy_may_contradict_a_budget(self) -> None:
        with pytest.raises(InfeasibleTarget, match=r"accuracy=0\.9 needs") as caught:
            operate("accuracy=0.9", "escalation=0.2")
        accuracy, ratio = caught.value.feasible
        assert operate(accuracy, "escalation=0.2").escalation_ratio <= 0.2 + 1e-9
        assert operate("accuracy=0.9", ratio).accuracy_overall == pytest.approx(0.9, abs=0.01)

    def test_an_accuracy_out_of_reach_says_what_is_not(self) -> None:
        with pytest.raises(InfeasibleTarget, match=r"the large model alone has 0\.950") as caught:
            operate("accuracy=1")
        assert operate(caught.value.feasible[0]).accuracy_overall is not None

    def test_an_accuracy_that_falls_again_contradicts_a_risk(self) -> None:
        # The large model is right on little: keeping much is most accurate, keeping little surest.
        fit, held_out = parts(llm=False)
        poor = (np.arange(N) % 10 == 0).astype(float)
        fit = FitPart(keys=fit.keys, p_correct=fit.p_correct, correct=fit.correct, llm=poor)
        with pytest.raises(InfeasibleTarget, match="points apart; ask for accuracy=0"):
            choose_operating_point(parse_targets(["accuracy=0.5", "risk=0.2"]), fit, held_out)

    def test_where_all_is_escalated_nothing_is_certified(self) -> None:
        fit, held_out = parts()
        perfect = np.ones(N)
        fit = FitPart(keys=fit.keys, p_correct=fit.p_correct, correct=perfect == 0, llm=perfect)
        with pytest.raises(InfeasibleTarget, match=r"everything is escalated.* risk=0\.1"):
            choose_operating_point(parse_targets(["accuracy=1", "risk=0.1"]), fit, held_out)

    def test_what_was_not_recorded_is_asked_for(self) -> None:
        with pytest.raises(FitError, match="--labels llm"):
            operate("accuracy=0.9", llm=False)
        with pytest.raises(FitError, match="--llm NAME"):
            operate("loss=0.1", llm=False)


class TestOperatingPoint:
    def test_a_threshold_is_taken_as_given(self) -> None:
        assert operate("threshold=0.25").escalation_ratio == pytest.approx(0.25)

    def test_parts_are_not_to_be_swapped(self) -> None:
        fit, held_out = parts()
        with pytest.raises(FitError, match="not a HeldOutPart and a FitPart"):
            choose_operating_point(
                parse_targets(["escalation=0.3"]),
                cast(FitPart, held_out),
                cast(HeldOutPart, fit),
            )

    def test_targets_are_checked(self) -> None:
        with pytest.raises(CalibrationError, match="no target was given"):
            choose_operating_point((), *parts())


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
