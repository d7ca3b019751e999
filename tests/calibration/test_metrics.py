from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from calibration import metrics
from calibration.errors import FitError
from calibration.metrics import (
    FloatArray,
    auroc,
    bootstrap_ci,
    brier,
    check_pairs,
    ece,
    ece_under_calibration,
    routing_curve,
)

Pairs = list[tuple[float, bool]]

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0.0, 1.0))
PAIRS = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=40)
BOTH = PAIRS.filter(lambda pairs: len({right for _, right in pairs}) == 2)


def split(pairs: Pairs) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    return np.array([p for p, _ in pairs]), np.array([right for _, right in pairs])


def test_docstring_examples() -> None:
    assert doctest.testmod(metrics).failed == 0


@pytest.mark.parametrize("fn", [auroc, ece, brier, routing_curve])
@pytest.mark.parametrize(
    ("scores", "correct", "message"),
    [
        ([], [], "is empty"),
        ([0.5, 0.5], [True], r"shape \(2,\) and correct \(1,\)"),
        ([[0.5]], [[True]], "one-dimensional"),
        ([0.5, 0.5], [0, 2], "only True and False"),
        ([0.5, 0.5], [0, math.nan], "only True and False"),
        ([0.5, math.inf, 0.1], [0, 1, 1], r"1 of 3 values .* the first \(inf\) at row 1"),
    ],
)
def test_what_cannot_be_measured_is_named(
    fn: Callable[[ArrayLike, ArrayLike], object], scores: Any, correct: Any, message: str
) -> None:
    with pytest.raises(FitError, match=message):
        fn(scores, correct)


@pytest.mark.parametrize("fn", [auroc, ece, brier])
def test_nan_is_an_error_never_a_default(fn: Callable[[ArrayLike, ArrayLike], float]) -> None:
    with pytest.raises(FitError, match=r"2 of 3 values .* the first \(nan\) at row 0"):
        fn([math.nan, 0.5, math.nan], [True, False, True])


@pytest.mark.parametrize("fn", [ece, brier])
def test_a_probability_outside_0_to_1_is_refused(
    fn: Callable[[ArrayLike, ArrayLike], float],
) -> None:
    with pytest.raises(FitError, match=r"spans -0\.1 to 1\.5"):
        fn([0.5, 1.5, -0.1], [True, False, True])


def test_check_pairs_accepts_zeros_and_ones() -> None:
    scores, right = check_pairs([1, 2], [0, 1], both=True)
    assert scores.dtype == np.float64
    assert right.tolist() == [False, True]


# auroc


@pytest.mark.parametrize(
    ("uncertainty", "correct", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5], [1, 0, 1], 0.5),
        # wrong ones at 2 and 5: right ones below them 1 and 3, one tie, of 2 x 4 pairs
        ([1, 2, 2, 4, 5, 6], [1, 0, 1, 1, 0, 1], (1 + 0.5 + 3) / 8),
    ],
)
def test_auroc_by_hand(uncertainty: list[float], correct: list[int], expected: float) -> None:
    assert auroc(uncertainty, correct) == pytest.approx(expected)


@pytest.mark.parametrize(("correct", "word"), [([1, 1], "right"), ([0, 0], "wrong")])
def test_auroc_of_one_class_is_an_error(correct: list[int], word: str) -> None:
    with pytest.raises(FitError, match=f"all 2 answers are {word}"):
        auroc([0.1, 0.2], correct)


@settings(deadline=None)
@given(BOTH)
def test_auroc_equals_scikit_learn(pairs: Pairs) -> None:
    scores, right = split(pairs)
    assert auroc(scores, right) == pytest.approx(roc_auc_score(~right, scores), abs=1e-12)


@settings(deadline=None)
@given(BOTH)
def test_auroc_depends_on_the_order_of_scores_alone(pairs: Pairs) -> None:
    scores, right = split(pairs)
    ranks = np.unique(scores, return_inverse=True)[1]
    assert auroc(ranks**3, right) == auroc(scores, right)
    assert auroc(-scores, right) == pytest.approx(1 - auroc(scores, right))


# bootstrap_ci


def normal_scores(seed: int, n: int = 200) -> tuple[FloatArray, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.5
    return rng.normal(size=n) + np.where(right, 0.0, 1.0), right


def test_bootstrap_is_seeded() -> None:
    u, right = normal_scores(0)
    assert bootstrap_ci(auroc, u, right, seed=1) == bootstrap_ci(auroc, u, right, seed=1)
    assert bootstrap_ci(auroc, u, right, seed=1) != bootstrap_ci(auroc, u, right, seed=2)


def test_bootstrap_resamples_whole_rows() -> None:
    x = np.arange(50.0)
    assert bootstrap_ci(lambda a, b: float(np.abs(a - b).max()), x, x) == (0.0, 0.0)


def test_bootstrap_level_widens_the_interval() -> None:
    u, right = normal_scores(0)
    low, high = bootstrap_ci(auroc, u, right, level=0.99)
    inner_low, inner_high = bootstrap_ci(auroc, u, right, level=0.8)
    assert low < inner_low < auroc(u, right) < inner_high < high


def test_bootstrap_of_a_mean_has_the_known_width() -> None:
    right = np.repeat([0.0, 1.0], 200)
    low, high = bootstrap_ci(lambda a: float(a.mean()), right, n_boot=4000)
    standard_error = 0.5 / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.06)


def test_bootstrap_interval_covers_the_truth() -> None:
    """Two normals one apart have AUROC Phi(1/sqrt 2) = 0.7602; nominal 95% over 60 data sets."""
    truth = 0.5 * (1 + math.erf(0.5))
    hits = 0
    for seed in range(60):
        low, high = bootstrap_ci(auroc, *normal_scores(seed), n_boot=150, seed=seed)
        hits += low <= truth <= high
    assert 53 <= hits <= 60


def test_bootstrap_draws_one_class_resamples_again() -> None:
    low, high = bootstrap_ci(auroc, [0.1, 0.2, 0.9], [True, True, False], n_boot=50)
    assert low == high == 1.0


def test_bootstrap_of_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(FitError, match="all 3 answers are right"):
        bootstrap_ci(auroc, [0.1, 0.2, 0.3], [True, True, True])


def test_bootstrap_gives_up_when_most_resamples_fail() -> None:
    def only_whole(rows: FloatArray) -> float:
        if len(np.unique(rows)) < 5:
            raise FitError("not all")
        return 1.0

    with pytest.raises(FitError, match="resamples of 5 answers could be measured"):
        bootstrap_ci(only_whole, np.arange(5.0), n_boot=50)


# ece


def test_ece_by_hand() -> None:
    # Two bins of two: means 0.15 and 0.85, shares right 0.5 and 1.
    value = ece([0.1, 0.9, 0.2, 0.8], [False, True, True, True], n_bins=2)
    assert value == pytest.approx(0.5 * 0.35 + 0.5 * 0.15)


def test_ece_of_one_bin_is_the_gap_of_the_means() -> None:
    assert ece([0.2, 0.4, 0.9], [1, 0, 0], n_bins=1) == pytest.approx(0.5 - 1 / 3)


def test_ece_of_a_right_constant_is_zero_and_of_a_sure_lie_one() -> None:
    assert ece([0.25] * 8, [1, 0, 0, 0, 1, 0, 0, 0]) == pytest.approx(0.0)
    assert ece([1.0] * 5 + [0.0] * 5, [0] * 5 + [1] * 5) == 1.0


def test_ece_with_more_bins_than_answers_takes_each_alone() -> None:
    assert ece([0.3, 0.6], [False, True], n_bins=10) == pytest.approx((0.3 + 0.4) / 2)


def test_ece_refuses_no_bins() -> None:
    with pytest.raises(FitError, match="n_bins must be at least 1, not 0"):
        ece([0.5], [True], n_bins=0)


def test_ece_bins_are_those_of_scikit_learn_when_they_are_even() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(400)
    right = rng.random(400) < p**2
    share, mean = calibration_curve(right, p, n_bins=10, strategy="quantile")
    assert ece(p, right, n_bins=10) == pytest.approx(np.abs(share - mean).mean())


@settings(deadline=None)
@given(PAIRS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_ece_is_a_share_and_does_not_depend_on_the_order_of_rows(
    pairs: Pairs, n_bins: int, random: Any
) -> None:
    value = ece(*split(pairs), n_bins=n_bins)
    assert 0.0 <= value <= 1.0 + 1e-12
    shuffled = random.sample(pairs, len(pairs))
    assert ece(*split(shuffled), n_bins=n_bins) == pytest.approx(value, abs=1e-12)
    # No binning shows less than the gap of the overall means.
    assert value >= ece(*split(pairs), n_bins=1) - 1e-12


@pytest.mark.parametrize(
    ("n", "expected"),
    # The closed form for many answers a bin, (pi / 8) sqrt(2 / pi) sqrt(10 / n).
    [(100, 0.099), (300, 0.057), (1000, 0.032), (3000, 0.018)],
)
def test_ece_under_calibration_has_the_known_size(n: int, expected: float) -> None:
    p = (np.arange(n) + 0.5) / n
    assert ece_under_calibration(p, n_sim=300) == pytest.approx(expected, rel=0.06)


def test_ece_under_calibration_by_hand() -> None:
    assert ece_under_calibration([0.5]) == 0.5
    assert ece_under_calibration([0.0, 1.0, 1.0]) == 0.0
    # Two fair answers in one bin: off by 1/2 with probability 1/2, else right.
    assert ece_under_calibration([0.5, 0.5], n_sim=4000) == pytest.approx(0.25, abs=0.02)


def test_ece_under_calibration_is_seeded_and_is_what_calibrated_answers_show() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    expected = ece_under_calibration(p, seed=1)
    assert ece_under_calibration(p, seed=1) == expected
    shown = np.mean([ece(p, rng.random(500) < p) for _ in range(200)])
    assert shown == pytest.approx(expected, rel=0.1)


# brier


def test_brier_by_hand_and_of_a_constant() -> None:
    assert brier([1.0, 0.5, 0.2], [1, 0, 0]) == pytest.approx((0 + 0.25 + 0.04) / 3)
    assert brier([0.25] * 4, [1, 0, 0, 0]) == pytest.approx(0.25 * 0.75)


@settings(deadline=None)
@given(BOTH)
def test_brier_equals_scikit_learn(pairs: Pairs) -> None:
    p, right = split(pairs)
    assert brier(p, right) == pytest.approx(brier_score_loss(right, p), abs=1e-12)


# routing_curve


def test_routing_curve_by_hand() -> None:
    curve = routing_curve([0.2, 0.9, 0.4, 0.7], [False, True, False, True])
    np.testing.assert_array_equal(curve.threshold, [0.2, 0.4, 0.7, 0.9])
    np.testing.assert_array_equal(curve.escalation_ratio, [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(curve.accuracy_kept, [1 / 2, 2 / 3, 1, 1])
    np.testing.assert_array_equal(curve.n_kept, [4, 3, 2, 1])
    assert curve.n == len(curve) == 4


def test_ties_move_together() -> None:
    curve = routing_curve([0.5, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    np.testing.assert_array_equal(curve.threshold, [0.1, 0.5])
    np.testing.assert_array_equal(curve.escalation_ratio, [0.0, 0.25])
    np.testing.assert_allclose(curve.accuracy_kept, [1 / 2, 2 / 3])


def test_unknown_scores_are_escalated_and_counted() -> None:
    curve = routing_curve([0.5, math.nan, 0.9, math.nan], [0, 1, 1, 1])
    np.testing.assert_array_equal(curve.escalation_ratio, [0.5, 0.75])
    np.testing.assert_array_equal(curve.accuracy_kept, [0.5, 1.0])
    assert curve.n == 4


def test_nothing_known_is_an_error() -> None:
    with pytest.raises(FitError, match="all 2 values of p_correct are NaN"):
        routing_curve([math.nan, math.nan], [True, False])


def test_a_raw_uncertainty_is_passed_with_its_sign_turned() -> None:
    u = np.array([0.1, 2.0, 3.0])
    curve = routing_curve(-u, [True, True, False])
    np.testing.assert_allclose(curve.accuracy_kept, [2 / 3, 1, 1])


def test_a_curve_is_frozen() -> None:
    curve = routing_curve([0.1, 0.2], [True, False])
    with pytest.raises(ValueError, match="read-only"):
        curve.threshold[0] = 0.0
    with pytest.raises(FrozenInstanceError):
        curve.__setattr__("n", 3)


MAYBE = st.lists(st.tuples(st.one_of(st.just(math.nan), SCORES), st.booleans()), min_size=1)


@settings(deadline=None)
@given(MAYBE.filter(lambda pairs: not all(math.isnan(p) for p, _ in pairs)))
def test_every_point_is_what_its_threshold_does(pairs: Pairs) -> None:
    p, right = split(pairs)
    curve = routing_curve(p, right)
    assert (np.diff(curve.threshold) > 0).all()
    assert (np.diff(curve.escalation_ratio) > 0).all()
    for i, threshold in enumerate(curve.threshold):
        kept = p >= threshold
        assert curve.n_kept[i] == kept.sum() > 0
        assert curve.escalation_ratio[i] == pytest.approx(1 - kept.mean())
        assert curve.accuracy_kept[i] == pytest.approx(right[kept].mean())
