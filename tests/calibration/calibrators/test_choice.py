from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.calibrators import CALIBRATORS, PlattCalibrator, choose_calibrator
from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray, ece, ece_under_calibration
from tests.calibration.calibrators.made import KINDS, answers, overconfident


def staircase(n: int) -> tuple[FloatArray, BoolArray]:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 4, n)
    return u, rng.random(n) < np.where(u < 0.4, 0.98, np.where(u < 3.6, 0.6, 0.02))


def two_slopes(n: int, seed: int = 0) -> tuple[FloatArray, BoolArray]:
    rng = np.random.default_rng(seed)
    u = rng.uniform(0.01, 0.99, n)
    odds = np.exp(0.5) * (1 - u) ** 0.1 / u**2.5
    return u, rng.random(n) < odds / (1 + odds)


@pytest.mark.parametrize("n", [60, 150, 400, 1500])
def test_answers_from_a_logistic_curve_choose_platt(n: int) -> None:
    assert choose_calibrator(*answers(n), seed=0) == "platt"
    assert choose_calibrator(*overconfident(n), seed=0) == "platt"


def test_answers_from_a_staircase_choose_what_knows_no_shape_once_there_are_many() -> None:
    assert choose_calibrator(*staircase(3000), seed=0) == "venn_abers"
    assert choose_calibrator(*staircase(150), seed=0) == "platt"


def test_a_slope_at_either_end_chooses_beta() -> None:
    assert choose_calibrator(*two_slopes(3000), seed=0) == "beta"


def test_what_is_chosen_for_a_score_that_is_no_probability_takes_one() -> None:
    u, right = two_slopes(3000)
    assert choose_calibrator(10 * u, right, seed=0) in ("platt", "venn_abers")


def test_the_choice_is_seeded_and_equal_weights_do_not_change_it() -> None:
    u, right = staircase(600)
    kinds = {choose_calibrator(u, right, 7, w) for w in (None, np.ones(600), np.full(600, 0.3))}
    assert len(kinds) == 1


def test_weights_decide_which_answers_count() -> None:
    """A staircase among as many answers from a curve: what weighs chooses."""
    u, right = (np.concatenate(pair) for pair in zip(answers(2000), staircase(2000), strict=True))
    first = np.repeat([1.0, 1e-6], 2000)
    assert choose_calibrator(u, right, 0, first) == "platt"
    assert choose_calibrator(u, right, 0, first[::-1]) == "venn_abers"


def test_a_single_answer_of_a_class_chooses_platt() -> None:
    assert choose_calibrator([1, 2, 3, 4], [True, True, True, False], seed=0) == "platt"


def test_where_platt_cannot_be_fitted_another_is_chosen_however_few_there_are() -> None:
    # Two sure and right answers, then the less sure the better: only steps see that as a ranking.
    u = np.arange(22.0)
    right = np.array([1, 1] + [0] * 10 + [1] * 10)
    with pytest.raises(FitError, match="does not rank"):
        PlattCalibrator().fit(u, right)
    assert choose_calibrator(u, right, seed=0) == "venn_abers"


@pytest.mark.parametrize("seed", range(5))
def test_a_fold_that_cannot_be_fitted_does_not_end_the_choice(seed: int) -> None:
    """Of the answers 2 and 3 alone, which one split leaves to learn from, neither is a ranking."""
    assert choose_calibrator([1, 2, 3, 4], [True, False, True, False], seed) in KINDS


@pytest.mark.parametrize(
    ("uncertainty", "correct", "message"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], "does not rank"),
        ([1, 2], [1, 1], "all 2 answers are right"),
        ([1, math.nan], [1, 0], "not finite"),
    ],
)
def test_where_none_can_be_fitted_there_is_no_choice(
    uncertainty: list[float], correct: list[int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        choose_calibrator(uncertainty, correct, seed=0)


@pytest.mark.parametrize("world", ["logistic", "overconfident", "two slopes"])
def test_ece_on_unseen_answers_is_near_its_value_under_calibration(world: str) -> None:
    make = {"logistic": answers, "overconfident": overconfident, "two slopes": two_slopes}[world]
    errors, expected = [], []
    for seed in range(12):
        u, right = make(1000, 2 * seed)
        p_of = CALIBRATORS[choose_calibrator(u, right, seed)]().fit(u, right)
        u, right = make(1000, 2 * seed + 1)
        p = p_of.predict(u)
        errors.append(ece(p, right))
        expected.append(ece_under_calibration(p, n_sim=40, seed=seed))
    assert np.mean(errors) <= 1.3 * np.mean(expected)
