"""Live labels: what they weigh, and that P(correct) follows them no further than that."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.calibrators import CALIBRATORS, PlattCalibrator
from calibration.errors import FitError
from calibration.feedback import HALF_LIFE_DAYS, MOST_WEIGHT, Feedback, LabelledAnswer
from calibration.metrics import FloatArray
from tests.calibration.test_fit import Made, make, make_records, perplexity_of, true_p_correct

GRID = np.linspace(0.05, 0.95, 19)


def answer(
    age_days: float = 0.0,
    inclusion: float | None = 1.0,
    *,
    correct: bool = True,
    **scores: float,
) -> LabelledAnswer:
    return LabelledAnswer(scores or {"perplexity": 0.5}, correct, age_days, inclusion)


ANSWERS = st.lists(
    st.builds(
        answer,
        age_days=st.floats(-1.0, 20_000.0),
        inclusion=st.none() | st.floats(0.0, 1.0, exclude_min=True),
    ),
    min_size=1,
    max_size=30,
)
HALF_LIVES = st.floats(0.01, 1000.0)


class TestWeights:
    def test_by_hand(self) -> None:
        feedback = Feedback.of(
            [
                answer(0.0, 1.0),
                answer(HALF_LIFE_DAYS, 0.5),  # counts for two, and half of that
                answer(2 * HALF_LIFE_DAYS, None),
                answer(0.0, 0.001),  # for no more than 20
            ]
        )
        # Kish: (sum w)^2 / sum w^2 = 24^2 / 406 for w = 1, 2, 1, 20: each is w 24 / 406 when new.
        assert feedback.weight == pytest.approx(np.array([1.0, 1.0, 0.25, 20.0]) * 24 / 406)
        assert MOST_WEIGHT == 20.0

    def test_alike_each_counts_as_one(self) -> None:
        for same in (answer(), answer(0.0, None), answer(0.0, 0.01)):
            assert Feedback.of([same] * 7).weight == pytest.approx(np.ones(7))
        old = answer(HALF_LIFE_DAYS, 0.01)
        assert Feedback.of([old] * 7).weight == pytest.approx(np.full(7, 0.5))

    def test_the_half_life_can_be_given(self) -> None:
        weight = Feedback.of([answer(0.0), answer(3.0)], half_life_days=1.0).weight
        assert weight[0] / weight[1] == pytest.approx(8.0)

    def test_one_from_the_future_is_new(self) -> None:
        assert Feedback.of([answer(-5.0), answer(0.0)]).weight == pytest.approx([1.0, 1.0])

    @given(ANSWERS, HALF_LIVES)
    def test_new_ones_sum_to_the_effective_number(
        self, answers: list[LabelledAnswer], half_life: float
    ) -> None:
        new = [replace(each, age_days=0.0) for each in answers]
        weight = Feedback.of(new, half_life_days=half_life).weight
        assert weight.shape == (len(answers),)
        assert weight.sum() == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
        assert 1.0 - 1e-9 <= weight.sum() <= len(answers) + 1e-9
        aged = Feedback.of(answers, half_life_days=half_life).weight
        assert np.isfinite(aged).all()
        assert (aged > 0.0).all()
        assert (aged <= weight * (1 + 1e-9)).all()

    @given(ANSWERS, HALF_LIVES)
    def test_newer_and_rarer_ones_weigh_no_less(
        self, answers: list[LabelledAnswer], half_life: float
    ) -> None:
        weight = Feedback.of(answers, half_life_days=half_life).weight
        for one, heavier in zip(answers, weight, strict=True):
            for other, lighter in zip(answers, weight, strict=True):
                newer = max(one.age_days, 0.0) <= max(other.age_days, 0.0)
                if newer and (one.inclusion or 1.0) <= (other.inclusion or 1.0):
                    assert heavier >= lighter * (1 - 1e-9)

    @given(ANSWERS, st.randoms(use_true_random=False))
    def test_the_order_does_not_matter(self, answers: list[LabelledAnswer], random: Random) -> None:
        order = list(range(len(answers)))
        random.shuffle(order)
        shuffled = Feedback.of([answers[i] for i in order]).weight
        assert shuffled == pytest.approx(Feedback.of(answers).weight[order])

    def test_answers_of_long_ago_count_next_to_nothing_and_break_nothing(self) -> None:
        weight = Feedback.of([answer(5000.0), answer(5001.0)], half_life_days=1.0).weight
        assert (weight > 0.0).all()
        assert (weight < 1e-300).all()

    def test_the_inclusion_makes_a_biased_sample_count_as_all_traffic(self) -> None:
        rng = np.random.default_rng(0)
        right = rng.random(40_000) < 0.7
        inclusion = np.where(right, 0.1, 0.5)  # wrong answers are sent in five times as often
        labelled = rng.random(len(right)) < inclusion
        feedback = Feedback.of(
            [
                answer(0.0, float(pi), correct=bool(ok))
                for ok, pi in zip(right[labelled], inclusion[labelled], strict=True)
            ]
        )
        assert feedback.correct.mean() < 0.4
        share = np.average(feedback.correct, weights=feedback.weight)
        assert share == pytest.approx(0.7, abs=0.02)


class TestColumns:
    def test_a_score_that_an_answer_lacks_is_unknown(self) -> None:
        feedback = Feedback.of(
            [
                answer(margin=0.5, correct=True),
                answer(perplexity=0.25, correct=False),
                answer(margin=math.inf, perplexity=math.nan),
            ]
        )
        assert len(feedback) == 3
        assert list(feedback.scores) == ["margin", "perplexity"]
        u, right, weight = feedback.known("perplexity")
        assert (u.tolist(), right.tolist(), weight.tolist()) == ([0.25], [False], [1.0])
        u, right, weight = feedback.known("margin")
        assert (u.tolist(), right.tolist(), weight.tolist()) == ([0.5], [True], [1.0])
        assert [len(column) for column in feedback.known("magic")] == [0, 0, 0]


class TestErrors:
    def test_nothing_to_learn_from(self) -> None:
        with pytest.raises(FitError, match="no feedback"):
            Feedback.of([])

    @pytest.mark.parametrize("inclusion", [0.0, -0.1, 1.5, math.nan])
    def test_an_impossible_inclusion(self, inclusion: float) -> None:
        with pytest.raises(FitError, match=r"in \(0, 1\]"):
            Feedback.of([answer(), answer(inclusion=inclusion)])

    @pytest.mark.parametrize("half_life", [0.0, -1.0, math.nan])
    def test_an_impossible_half_life(self, half_life: float) -> None:
        with pytest.raises(FitError, match="must be positive"):
            Feedback.of([answer()], half_life_days=half_life)

    @pytest.mark.parametrize("age", [math.nan, math.inf])
    def test_an_impossible_age(self, age: float) -> None:
        with pytest.raises(FitError, match="age of an answer"):
            Feedback.of([answer(age)])


N = 300


@cache
def without() -> Made:
    return make(make_records(N), calibrator="platt")


@cache
def fresh() -> tuple[FloatArray, FloatArray]:
    """Scores of 300 live answers, and how likely each is right in truth."""
    u = np.random.default_rng(7).uniform(0.02, 1.0, N)
    return u, np.array([true_p_correct(x) for x in u])


def live(p_right: FloatArray, weight: float = 1.0, *, seed: int = 0) -> Feedback:
    """Live answers, each right with probability `p_right`."""
    right = np.random.default_rng(seed).random(N) < p_right
    return Feedback({"perplexity": fresh()[0]}, right, np.full(N, weight))


def p_correct(made: Made) -> FloatArray:
    return made.calibration.calibrator.predict(GRID)


class TestFit:
    """Through `fit_calibration`."""

    def test_counts_as_rows_of_the_fit_part_would(self) -> None:
        feedback = live(fresh()[1] / 2, 0.5)
        made = make(make_records(N), calibrator="platt", feedback=feedback)
        by_key = {record.key: record for record in make_records(N)}
        fitted_on = [by_key[key] for key in made.fit_part.keys]
        expected = PlattCalibrator().fit(
            np.concatenate([perplexity_of(fitted_on), fresh()[0]]),
            np.concatenate([[record.correct for record in fitted_on], feedback.correct]),
            np.concatenate([np.ones(len(fitted_on)), feedback.weight]),
        )
        assert p_correct(made) == pytest.approx(expected.predict(GRID), abs=1e-6)
        assert made.report.n_feedback == N
        assert without().report.n_feedback == 0

    @pytest.mark.parametrize("kind", sorted(CALIBRATORS))
    def test_what_contradicts_the_hold_out_moves_p_correct_towards_it(self, kind: str) -> None:
        p = fresh()[1]
        before = make(make_records(N), calibrator=kind)
        worse, better = (
            make(make_records(N), calibrator=kind, feedback=live(level))
            for level in (p * 0.5, 1.0 - (1.0 - p) * 0.5)
        )
        # A temperature is one slope: its P(correct) is 1/2 where the score says so, whatever comes.
        low, high = p_correct(worse), p_correct(better)
        if kind == "temperature":
            sure, unsure = GRID < 0.45, GRID > 0.55
            assert (low < p_correct(before))[sure].all()
            assert (high > p_correct(before))[unsure].all()
        else:
            assert low.mean() < p_correct(before).mean() - 0.05
            assert high.mean() > p_correct(before).mean() + 0.05
            assert (low < high).all()

    def test_more_weight_moves_it_further(self) -> None:
        means = [
            p_correct(make(make_records(N), calibrator="platt", feedback=it)).mean()
            for it in (live(fresh()[1] * 0.5, weight) for weight in (0.01, 0.1, 1.0, 10.0))
        ]
        assert means == sorted(means, reverse=True)
        assert means[-1] < np.mean([true_p_correct(u) for u in GRID]) * 0.5 + 0.08

    def test_of_next_to_no_weight_changes_next_to_nothing(self) -> None:
        made = make(
            make_records(N), calibrator="platt", feedback=live(fresh()[1] * 0.0, weight=1e-9)
        )
        assert p_correct(made) == pytest.approx(p_correct(without()), abs=1e-6)
        mine, theirs = (it.calibration.operating_points for it in (made, without()))
        assert [point.n_kept for point in mine] == [point.n_kept for point in theirs]

    def test_without_the_score_that_decides_changes_nothing(self) -> None:
        feedback = replace(live(fresh()[1] * 0.5), scores={"margin": fresh()[0]})
        made = make(make_records(N), calibrator="platt", feedback=feedback)
        assert made.calibration.id == without().calibration.id
        unknown = replace(feedback, scores={"perplexity": np.full(N, np.nan)})
        made = make(make_records(N), calibrator="platt", feedback=unknown)
        assert made.calibration.id == without().calibration.id

    def test_measures_nothing_and_certifies_nothing(self) -> None:
        before = make(make_records(N), "risk=0.4")
        made = make(make_records(N), "risk=0.4", feedback=live(fresh()[1] * 0.5))
        assert made.held_out.keys == before.held_out.keys
        assert made.fit_part.keys == before.fit_part.keys
        assert made.held_out.correct.tolist() == before.held_out.correct.tolist()
        assert made.report.accuracy_test == before.report.accuracy_test
        assert (made.report.n, made.report.n_test) == (N, before.report.n_test)
        certificate = made.calibration.operating_point.certificate
        assert certificate is not None
        assert certificate.claims[0].n == before.report.n_test

    def test_of_certainties_alone_is_learned_from_too(self) -> None:
        for right in (0.0, 1.0):
            feedback = live(np.full(N, right))
            p = p_correct(make(make_records(N), calibrator="platt", feedback=feedback))
            assert (p < p_correct(without())).all() == (right == 0.0)
            assert (p > p_correct(without())).all() == (right == 1.0)
