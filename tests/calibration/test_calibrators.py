from __future__ import annotations

import doctest
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from calibration import calibrators
from calibration.calibrators import (
    CALIBRATORS,
    IsotonicCalibrator,
    PlattCalibrator,
    calibrator_from_dict,
    choose_calibrator,
)
from calibration.errors import ArtifactError, FitError
from calibration.metrics import FloatArray, ece, ece_under_calibration

KINDS = sorted(CALIBRATORS)
AnyCalibrator = IsotonicCalibrator | PlattCalibrator
Pairs = list[tuple[float, bool]]

LABELLED = st.lists(
    st.tuples(st.one_of(st.floats(0, 20), st.sampled_from([0.0, 1.0, 2.0])), st.booleans()),
    min_size=4,
    max_size=60,
)


def answers(n: int, seed: int = 0) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Uncertainties spread over [0, 4] whose P(correct) is a logistic curve, 0.88 to 0.12."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0, 4, n)
    return u, rng.random(n) < 1 / (1 + np.exp(u - 2))


def fit_or_discard(kind: str, pairs: Pairs) -> AnyCalibrator:
    try:
        return CALIBRATORS[kind]().fit([u for u, _ in pairs], [right for _, right in pairs])
    except FitError:
        assume(False)
        raise


def test_docstring_examples() -> None:
    assert doctest.testmod(calibrators).failed == 0


# both


@pytest.mark.parametrize("kind", KINDS)
def test_fit_returns_self_and_learns_only_there(kind: str) -> None:
    calibrator = CALIBRATORS[kind]()
    assert calibrator.kind == kind
    assert vars(calibrator) == {}
    assert calibrator.fit(*answers(100)) is calibrator
    assert all(name.endswith("_") for name in vars(calibrator))
    assert calibrator.n_ == 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_fit_forgets_the_first(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers(100, seed=1)).fit(*answers(80, seed=2))
    assert calibrator.to_dict() == CALIBRATORS[kind]().fit(*answers(80, seed=2)).to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_before_fit_there_is_nothing_to_use(kind: str) -> None:
    with pytest.raises(FitError, match="is not fitted yet; call fit first"):
        CALIBRATORS[kind]().predict([0.5])
    with pytest.raises(FitError, match="is not fitted yet"):
        CALIBRATORS[kind]().to_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("uncertainty", "correct", "message"),
    [
        ([1, 2, 3], [1, 1, 1], "all 3 answers are right"),
        ([1, 2, 3], [0, 0, 0], "all 3 answers are wrong"),
        ([1, math.nan, 3], [1, 0, 0], "1 of 3 values of uncertainty are not finite"),
        ([1, math.inf, 3], [1, 0, 0], "1 of 3 values of uncertainty are not finite"),
        ([], [], "is empty"),
        ([1, 2], [1], r"shape \(2,\) and correct \(1,\)"),
        ([1, 2, 3, 4], [0, 0, 1, 1], "does not rank"),
        ([2, 2, 2, 2], [0, 1, 0, 1], "does not rank"),
        ([1, 1, 2, 2], [0, 1, 0, 1], "does not rank"),
    ],
)
def test_what_cannot_be_fitted_is_named(
    kind: str, uncertainty: list[float], correct: list[int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        CALIBRATORS[kind]().fit(uncertainty, correct)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_stays_unknown(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers(100))
    p = calibrator.predict([math.nan, 1.0, math.inf, -math.inf])
    assert np.isnan(p).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_is_kept_and_one_is_as_many(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers(100))
    u = np.linspace(-1, 6, 12)
    p = calibrator.predict(u)
    assert calibrator.predict(u.reshape(3, 4)).shape == (3, 4)
    assert calibrator.predict([]).shape == (0,)
    assert [float(calibrator.predict(one)) for one in u] == pytest.approx(p.tolist(), rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(pairs=LABELLED, at=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_monotone_inside_0_to_1_and_the_same_from_json(
    kind: str, pairs: Pairs, at: list[float]
) -> None:
    calibrator = fit_or_discard(kind, pairs)
    grid = np.sort(np.concatenate([at, [u for u, _ in pairs], np.linspace(-1, 21, 50)]))
    p = calibrator.predict(grid)
    assert (np.diff(p) <= 1e-15).all()
    assert ((p > 0) & (p < 1)).all()
    again = calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict(), allow_nan=False)))
    assert type(again) is type(calibrator)
    assert again.to_dict() == calibrator.to_dict()
    np.testing.assert_array_equal(again.predict(grid), p)


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_on_answers_not_seen(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers(4000, seed=1))
    u, right = answers(4000, seed=2)
    p = calibrator.predict(u)
    assert ece(p, right) < ece_under_calibration(p) + 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_come_in_any_order(kind: str) -> None:
    u, right = answers(200)
    order = np.random.default_rng(5).permutation(200)
    a, b = CALIBRATORS[kind]().fit(u, right), CALIBRATORS[kind]().fit(u[order], right[order])
    np.testing.assert_allclose(a.predict(u), b.predict(u), rtol=1e-6)


# isotonic


def test_isotonic_pools_what_violates_the_order() -> None:
    # Shares right 3/4, 1/4, 2/4, 0/2 at u = 1, 2, 3, 4: the middle two pool to 3/8.
    u = np.repeat([1, 2, 3, 4], [4, 4, 4, 2])
    right = [1, 1, 1, 0, *[1, 0, 0, 0], *[1, 1, 0, 0], *[0, 0]]
    p = IsotonicCalibrator().fit(u, right).predict([1, 2, 3, 4])
    assert p.tolist() == pytest.approx([3 / 4, 3 / 8, 3 / 8, 1 / 4])  # the last: (0 + 1) / (2 + 2)


def test_isotonic_is_linear_between_its_corners_and_constant_beyond() -> None:
    u = np.repeat([1.0, 2.0], 4)
    calibrator = IsotonicCalibrator().fit(u, [1, 1, 1, 0, 1, 0, 0, 0])
    p = calibrator.predict([-5, 1, 1.25, 1.5, 2, 9])
    assert p.tolist() == pytest.approx([0.75, 0.75, 0.625, 0.5, 0.25, 0.25])


def test_isotonic_pure_ends_take_laplaces_estimate() -> None:
    u = np.arange(8.0)
    p = IsotonicCalibrator().fit(u, [1, 1, 1, 0, 1, 0, 0, 0]).predict(u)
    assert p.tolist() == pytest.approx([4 / 5] * 3 + [1 / 2] * 2 + [1 / 5] * 3)


def test_isotonic_pure_ends_never_pass_their_neighbours() -> None:
    # One right answer, then 9 of 10: 2/3 would fall below 9/10. The same upside down at the end.
    u = np.repeat([1.0, 2.0, 3.0, 4.0], [1, 10, 10, 1])
    right = [1] + [1] * 9 + [0] + [1] + [0] * 9 + [0]
    p = IsotonicCalibrator().fit(u, right).predict([1, 2, 3, 4])
    assert p.tolist() == pytest.approx([0.9, 0.9, 0.1, 0.1])


def test_isotonic_equals_scikit_learn_but_for_pure_ends() -> None:
    u, right = answers(500)
    expected = IsotonicRegression(increasing=False).fit(u, right).predict(u)
    impure = (expected > 0) & (expected < 1)
    assert impure.sum() > 400
    p = IsotonicCalibrator().fit(u, right).predict(u)
    np.testing.assert_allclose(p[impure], expected[impure], rtol=1e-12)


# platt


def test_platt_is_the_minimum_of_its_objective() -> None:
    u, right = answers(150)
    n_right = right.sum()
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (150 - n_right + 2))
    z = (u - u.mean()) / u.std()

    def loss(parameters: FloatArray) -> float:
        logit = parameters[0] + parameters[1] * z
        return float(np.sum(np.logaddexp(0, logit) - target * logit))

    intercept, slope = minimize(loss, [0.0, 0.0], options={"gtol": 1e-8}).x
    calibrator = PlattCalibrator().fit(u, right)
    assert calibrator.intercept_ == pytest.approx(intercept, abs=1e-4)
    assert calibrator.slope_ == pytest.approx(slope, abs=1e-4)
    assert calibrator.predict(u[0]) == pytest.approx(1 / (1 + math.exp(-intercept - slope * z[0])))


def test_platt_recovers_the_curve_that_made_the_answers() -> None:
    p = PlattCalibrator().fit(*answers(20_000)).predict([0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(p, 1 / (1 + np.exp(np.arange(-2.0, 3.0))), atol=0.015)


def test_platt_does_not_depend_on_the_unit_of_the_score() -> None:
    u, right = answers(300)
    a = PlattCalibrator().fit(u, right).predict(u)
    b = PlattCalibrator().fit(1000 * u - 7, right).predict(1000 * u - 7)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_platt_stays_finite_where_the_score_separates() -> None:
    u = np.concatenate([np.linspace(0, 1, 50), np.linspace(2, 3, 50)])
    calibrator = PlattCalibrator().fit(u, u < 1.5)
    assert math.isfinite(calibrator.slope_)
    assert calibrator.predict([0.0, 3.0]).tolist() == pytest.approx([51 / 52, 1 / 52], abs=0.015)


def test_platt_never_leaves_what_n_answers_can_say() -> None:
    calibrator = PlattCalibrator().fit(*answers(98))
    assert calibrator.predict([-1e300, 1e300]).tolist() == [99 / 100, 1 / 100]


def test_platt_refuses_scores_that_cannot_be_standardised() -> None:
    with pytest.raises(FitError, match="too much to be standardised"):
        PlattCalibrator().fit([-1e308, 1e308, 1e308, 0.0], [1, 0, 0, 1])


# artifacts

ISOTONIC = {"kind": "isotonic", "x": [1.0, 2.0], "y": [0.8, 0.2], "n": 10}
PLATT = {"kind": "platt", "slope": -1.0, "intercept": 0.5, "mean": 1.0, "scale": 2.0, "n": 10}


@pytest.mark.parametrize("data", [ISOTONIC, PLATT])
def test_from_dict_is_the_inverse_of_to_dict(data: dict[str, Any]) -> None:
    assert calibrator_from_dict(data).to_dict() == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "unknown kind of calibrator 'None'; known are isotonic, platt"),
        ({"kind": "beta"}, "unknown kind of calibrator 'beta'"),
        ({"kind": "isotonic", "n": 3}, "'x' is missing"),
        (ISOTONIC | {"x": "abc"}, "'x' is missing or not of numbers"),
        (ISOTONIC | {"x": [1.0, math.nan]}, "'x' is not finite"),
        (ISOTONIC | {"x": [2.0, 1.0]}, "not the corners of a function"),
        (ISOTONIC | {"x": [1.0]}, "not the corners of a function"),
        (ISOTONIC | {"x": [1.0], "y": [0.5]}, "not the corners of a function"),
        (ISOTONIC | {"y": [0.2, 0.8]}, "must not increase"),
        (ISOTONIC | {"y": [1.0, 0.2]}, "must not increase and lie inside"),
        (ISOTONIC | {"y": [0.8, 0.0]}, "must not increase and lie inside"),
        (ISOTONIC | {"n": 1}, "'n' must be a whole number of at least 2, not 1"),
        (ISOTONIC | {"n": True}, "'n' must be a whole number"),
        ({"kind": "platt", "n": 3}, "'slope' is missing"),
        (PLATT | {"slope": [1.0]}, "'slope' is not a single number"),
        (PLATT | {"slope": 0.0}, "slope must be negative"),
        (PLATT | {"scale": 0.0}, "scale positive"),
        (PLATT | {"mean": math.inf}, "'mean' is not finite"),
        (PLATT | {"n": None}, "'n' must be a whole number of at least 2, not None"),
    ],
)
def test_what_no_fit_leaves_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        calibrator_from_dict(data)


# choice


def test_few_answers_from_a_logistic_curve_choose_platt() -> None:
    assert choose_calibrator(*answers(150), seed=0) == "platt"


def test_many_answers_from_a_staircase_choose_isotonic() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 4, 3000)
    right = rng.random(3000) < np.where(u < 0.4, 0.98, np.where(u < 3.6, 0.6, 0.02))
    assert choose_calibrator(u, right, seed=0) == "isotonic"


def test_the_choice_is_seeded() -> None:
    u, right = answers(60)
    assert len({choose_calibrator(u, right, seed=7) for _ in range(3)}) == 1


def test_a_single_answer_of_a_class_chooses_platt() -> None:
    assert choose_calibrator([1, 2, 3, 4], [True, True, True, False], seed=0) == "platt"


def test_where_only_one_can_be_fitted_it_is_chosen() -> None:
    # Two sure and right answers, then the less sure the better: only steps see that as a ranking.
    u = np.arange(22.0)
    right = np.array([1, 1] + [0] * 10 + [1] * 10)
    with pytest.raises(FitError, match="does not rank"):
        PlattCalibrator().fit(u, right)
    assert choose_calibrator(u, right, seed=0) == "isotonic"


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
def test_where_neither_can_be_fitted_there_is_no_choice(
    uncertainty: list[float], correct: list[int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        choose_calibrator(uncertainty, correct, seed=0)
