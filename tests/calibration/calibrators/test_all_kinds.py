from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import math
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import calibrators
from calibration.calibrators import CALIBRATORS, Calibrator, calibrator_from_dict
from calibration.errors import ArtifactError, FitError
from calibration.metrics import ece, ece_under_calibration
from tests.calibration.calibrators.made import (
    ANY_PAIRS,
    KINDS,
    OF_ANY_SCORE,
    OF_PROBABILITIES,
    PROBABILITY_PAIRS,
    Pairs,
    answers_for,
    fit_either_way,
    overconfident,
)

EACH = pytest.mark.parametrize("kind", KINDS)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def pairs_for(kind: str, data: st.DataObject) -> Pairs:
    choice = PROBABILITY_PAIRS
    if kind in OF_ANY_SCORE:
        choice = data.draw(st.sampled_from([ANY_PAIRS, PROBABILITY_PAIRS]))
    return data.draw(choice)


def test_docstring_examples() -> None:
    names = [module.name for module in pkgutil.iter_modules(calibrators.__path__)]
    modules = [importlib.import_module(f"calibration.calibrators.{name}") for name in names]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 4


def test_to_predict_neither_scikit_learn_nor_optimisers_are_loaded() -> None:
    heavy = "[m for m in ('sklearn', 'scipy.optimize') if m in sys.modules]"
    run = f"import sys, calibration.calibrators, calibration.smooth_ece; print({heavy})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@EACH
def test_fit_returns_self_and_learns_only_there(kind: str) -> None:
    calibrator = CALIBRATORS[kind]()
    assert calibrator.kind == kind
    assert vars(calibrator) == {}
    assert calibrator.fit(*answers_for(kind, 100)) is calibrator
    assert all(name.endswith("_") for name in vars(calibrator))
    assert calibrator.n_ == 100


@EACH
def test_a_second_fit_forgets_the_first(kind: str) -> None:
    other = answers_for(kind, 80, seed=2)
    calibrator = CALIBRATORS[kind]().fit(*answers_for(kind, 100, seed=1)).fit(*other)
    assert calibrator.to_dict() == CALIBRATORS[kind]().fit(*other).to_dict()


@EACH
def test_before_fit_there_is_nothing_to_use(kind: str) -> None:
    with pytest.raises(FitError, match="is not fitted yet; call fit first"):
        CALIBRATORS[kind]().predict([0.5])
    with pytest.raises(FitError, match="is not fitted yet"):
        CALIBRATORS[kind]().to_dict()


@EACH
@pytest.mark.parametrize(
    ("uncertainty", "correct", "message"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], "all 3 answers are right"),
        ([0.1, 0.2, 0.3], [0, 0, 0], "all 3 answers are wrong"),
        ([0.1, math.nan, 0.3], [1, 0, 0], "1 of 3 values of uncertainty are not finite"),
        ([0.1, math.inf, 0.3], [1, 0, 0], "1 of 3 values of uncertainty are not finite"),
        ([], [], "is empty"),
        ([0.1, 0.2], [1], r"shape \(2,\) and correct \(1,\)"),
        ([0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1], "does not rank"),
        ([0.2, 0.2, 0.2, 0.2], [0, 1, 0, 1], "does not rank"),
        ([0.4, 0.4, 0.6, 0.6], [0, 1, 0, 1], "does not rank"),
    ],
)
def test_what_cannot_be_fitted_is_named(
    kind: str, uncertainty: list[float], correct: list[int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        CALIBRATORS[kind]().fit(uncertainty, correct)


@EACH
def test_unknown_stays_unknown(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers_for(kind, 100))
    p = calibrator.predict([math.nan, 0.4, math.inf, -math.inf])
    assert np.isnan(p).tolist() == [True, False, True, True]


@EACH
def test_the_shape_is_kept_and_one_is_as_many(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers_for(kind, 100))
    u = np.linspace(-1, 6, 12)
    p = calibrator.predict(u)
    assert calibrator.predict(u.reshape(3, 4)).shape == (3, 4)
    assert calibrator.predict([]).shape == (0,)
    assert [float(calibrator.predict(one)) for one in u] == pytest.approx(p.tolist(), rel=1e-14)


@EACH
@settings(deadline=None, max_examples=30)
@given(data=st.data(), at=st.lists(FINITE, min_size=1))
def test_never_rising_inside_0_to_1_and_the_same_from_json(
    kind: str, data: st.DataObject, at: list[float]
) -> None:
    pairs = pairs_for(kind, data)
    calibrator, _ = fit_either_way(kind, pairs)
    seen = np.array([u for u, _ in pairs])
    close = np.concatenate([np.nextafter(seen, -1.0), seen, np.nextafter(seen, 2.0)])
    grid = np.sort(np.concatenate([at, close, np.linspace(-1, 21, 50), np.linspace(0, 1, 50)]))
    p = calibrator.predict(grid)
    assert (np.diff(p) <= 0).all()
    assert ((p > 0) & (p < 1)).all()
    again = calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict(), allow_nan=False)))
    assert type(again) is type(calibrator)
    assert again.to_dict() == calibrator.to_dict()
    np.testing.assert_array_equal(again.predict(grid), p)


# weights


@EACH
def test_equal_weights_are_no_weights(kind: str) -> None:
    u, right = answers_for(kind, 150)
    unweighted = CALIBRATORS[kind]().fit(u, right).to_dict()
    for weight in (1.0, 0.3, 1e-200, 1e200):
        assert CALIBRATORS[kind]().fit(u, right, np.full(150, weight)).to_dict() == unweighted


@EACH
def test_only_ratios_of_weights_matter(kind: str) -> None:
    u, right = answers_for(kind, 200)
    weight = np.random.default_rng(1).uniform(0.2, 3.0, 200)
    a, b = (CALIBRATORS[kind]().fit(u, right, w).predict(u) for w in (weight, 4.0 * weight))
    np.testing.assert_array_equal(a, b)


@EACH
def test_what_weighs_next_to_nothing_says_next_to_nothing(kind: str) -> None:
    u, right = answers_for(kind, 300)
    # As many again from a world upside down, of no weight.
    weight = np.repeat([1.0, 1e-9], 300)
    both = CALIBRATORS[kind]().fit(np.tile(u, 2), np.concatenate([right, ~right]), weight)
    alone = CALIBRATORS[kind]().fit(u, right)
    assert both.n_ == alone.n_ == 300
    np.testing.assert_allclose(both.predict(u), alone.predict(u), atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "temperature"])  # no offset
def test_weights_undo_a_biased_sample(kind: str) -> None:
    """Right answers kept one in four and weighing four times as much: the whole again."""
    u, right = answers_for(kind, 40_000)
    kept = ~right | (np.random.default_rng(3).random(40_000) < 0.25)
    weight = np.where(right, 4.0, 1.0)[kept]
    p = CALIBRATORS[kind]().fit(u[kept], right[kept], weight).predict(u)
    biased = CALIBRATORS[kind]().fit(u[kept], right[kept]).predict(u)
    assert p.mean() == pytest.approx(right.mean(), abs=0.01)
    assert biased.mean() < right.mean() - 0.1


@EACH
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 1.0], r"sample_weight has shape \(2,\), but there are 4 answers"),
        (
            [1.0, 0.0, 1.0, 1.0],
            r"1 of 4 weights are not positive numbers, the first \(0.0\) at row",
        ),
        ([1.0, 1.0, -1.0, 1.0], "are not positive numbers"),
        ([1.0, 1.0, 1.0, math.nan], "are not positive numbers"),
        ([1.0, 1.0, 1.0, math.inf], "are not positive numbers"),
    ],
)
def test_what_is_no_weight_is_named(kind: str, weight: list[float], message: str) -> None:
    with pytest.raises(FitError, match=message):
        CALIBRATORS[kind]().fit([0.2, 0.4, 0.6, 0.8], [1, 1, 0, 0], weight)


# ties


@EACH
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_no_two_scores_tie(kind: str, data: st.DataObject) -> None:
    """Scores that differ by more than 1e-6 or so of their spread have p_correct that differ."""
    lattice = st.integers(1, 63).map(lambda i: i / 64)
    if kind in OF_ANY_SCORE:
        unit = data.draw(st.sampled_from([1.0, 1e-6, 1e6]))
        lattice = st.integers(-640, 640).map(lambda i: i * unit / 64)
    pairs = data.draw(st.lists(st.tuples(lattice, st.booleans()), min_size=4, max_size=40))
    calibrator, _ = fit_either_way(kind, pairs)
    seen = np.array([u for u, _ in pairs])
    reach = 10 * (seen.max() - seen.min())
    far = seen.mean() + reach * np.linspace(-1, 1, 2001)
    near = np.linspace(seen.min(), seen.max(), 2001)
    for grid in (far, near):
        assert (np.diff(calibrator.predict(grid)) < 0).all()


@pytest.mark.parametrize("kind", OF_ANY_SCORE)
@pytest.mark.parametrize("unit", [5e-324, 1e308])
def test_scores_of_an_extreme_size_are_calibrated_or_refused(kind: str, unit: float) -> None:
    u = unit * np.array([-1.0, 0.0, 0.0, 1.0])
    with contextlib.suppress(FitError):  # too narrow for isotonic, too wide for platt
        p = CALIBRATORS[kind]().fit(u, [1, 1, 0, 0]).predict(u)
        assert (np.diff(p) <= 0).all()
        assert p[0] > p[-1]


@EACH
def test_probabilities_near_0_and_1_are_told_apart(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*overconfident(300))
    tiny = np.geomspace(1e-15, 1e-3, 60)
    assert (np.diff(calibrator.predict(tiny)) < 0).all()
    assert (np.diff(calibrator.predict(1 - tiny[::-1])) < 0).all()
    assert (np.diff(calibrator.predict([-9.0, -1.0, 0.0, 1e-20, 0.5, 1.0, 2.0, 9.0])) < 0).all()


# quality


@EACH
def test_calibrated_on_answers_not_seen(kind: str) -> None:
    calibrator = CALIBRATORS[kind]().fit(*answers_for(kind, 4000, seed=1))
    u, right = answers_for(kind, 4000, seed=2)
    p = calibrator.predict(u)
    assert ece(p, right) < ece_under_calibration(p, n_sim=200) + 0.02


@EACH
def test_rows_may_come_in_any_order(kind: str) -> None:
    u, right = answers_for(kind, 200)
    order = np.random.default_rng(5).permutation(200)
    a, b = CALIBRATORS[kind]().fit(u, right), CALIBRATORS[kind]().fit(u[order], right[order])
    np.testing.assert_allclose(a.predict(u), b.predict(u), rtol=1e-6)


@pytest.mark.parametrize("kind", OF_PROBABILITIES)
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5])
def test_what_needs_probabilities_says_so(kind: str, bad: float) -> None:
    message = rf"between 0 and 1, .*1 of 4 are not, the first \({bad}\) at row 2. Use isotonic or"
    with pytest.raises(FitError, match=message):
        CALIBRATORS[kind]().fit([0.1, 0.2, bad, 0.9], [1, 1, 0, 0])


# artifacts


@pytest.mark.parametrize("kind", ["None", "magic"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    known = "beta, histogram, isotonic, platt, temperature, venn_abers"
    with pytest.raises(ArtifactError, match=f"unknown kind of calibrator '{kind}'; known.*{known}"):
        calibrator_from_dict({} if kind == "None" else {"kind": kind})


@EACH
@pytest.mark.parametrize("n", [1, True, None, 10.0, "10"])
def test_n_is_a_whole_number(kind: str, n: object) -> None:
    data = CALIBRATORS[kind]().fit(*answers_for(kind, 100)).to_dict()
    with pytest.raises(ArtifactError, match="'n' must be a whole number of at least 2, not "):
        calibrator_from_dict(data | {"n": n})


@EACH
def test_each_field_is_needed_and_must_be_of_finite_numbers(kind: str) -> None:
    data = CALIBRATORS[kind]().fit(*answers_for(kind, 100)).to_dict()
    for field in set(data) - {"kind", "n"}:
        without = {name: value for name, value in data.items() if name != field}
        with pytest.raises(ArtifactError, match=f"'{field}' is missing or not of numbers"):
            calibrator_from_dict(without)
        with pytest.raises(ArtifactError, match=f"'{field}' is missing or not of numbers"):
            calibrator_from_dict(data | {"n": 100, field: "abc"})
        nans = [math.nan] if isinstance(data[field], list) else math.nan
        with pytest.raises(ArtifactError, match=f"'{field}' is not finite"):
            calibrator_from_dict(data | {field: nans})


def test_a_subclass_is_one_of_the_calibrators() -> None:
    assert all(issubclass(cls, Calibrator) and cls.kind == k for k, cls in CALIBRATORS.items())
