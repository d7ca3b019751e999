from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from calibration.calibrators import VennAbersCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError, FitError
from tests.calibration.calibrators.made import Pairs, answers, fit_either_way, pairs_of

# Scores at one thirds tie, and new ones fall on them and between.
THIRDS = st.integers(0, 12).map(lambda i: i / 3)
VENN_ABERS = VennAbersCalibrator().fit([1, 2, 3, 4], [True, True, False, False]).to_dict()


@settings(deadline=None, max_examples=40)
@given(pairs=pairs_of(THIRDS), at=st.integers(-1, 25).map(lambda i: i / 6), weighted=st.booleans())
def test_the_interval_is_that_of_two_isotonic_regressions(
    pairs: Pairs, at: float, weighted: bool
) -> None:
    calibrator, pairs = fit_either_way("venn_abers", pairs)
    assert isinstance(calibrator, VennAbersCalibrator)
    u, right = np.array([u for u, _ in pairs]), np.array([right for _, right in pairs])
    weight = np.ones(len(u))
    if weighted:
        weight = np.random.default_rng(len(u)).uniform(0.2, 2.0, len(u))
        weight *= weight.sum() / (weight**2).sum()  # to Kish's effective number
        try:
            calibrator = VennAbersCalibrator().fit(u, right, weight)
        except FitError:  # so weighted it does not rank
            return
    for label, value in zip((False, True), calibrator.interval(at), strict=True):
        model = IsotonicRegression(increasing=False)
        model.fit(np.append(u, at), np.append(right, label), np.append(weight, 1.0))
        assert float(value) == pytest.approx(float(model.predict([at])[0]), abs=1e-9)


def test_it_equals_another_implementation() -> None:
    """Frozen from PyPI venn-abers 1.5.4: calc_p0p1 and calc_probs on 1 - u of the same answers."""
    i = np.arange(40)
    u = (i * 17 % 40) / 40 + 0.0125
    right = ((i * i * 7 + 3 * i) % 40 + 0.5) / 40 < 1 - u
    fitted = VennAbersCalibrator().fit(u, right)
    at = [0.001, 0.05, 0.2, 0.333, 0.5, 0.61, 0.8, 0.99]
    p0, p1 = fitted.interval(at)
    low = [0.9, 0.875, 0.666667, 0.625, 0.416667, 0.416667, 0.25, 0.0]
    high = [1.0, 1.0, 1.0, 0.75, 0.5, 0.5, 0.4, 0.2]
    one = [0.909091, 0.888889, 0.75, 0.666667, 0.461538, 0.461538, 0.347826, 0.166667]
    assert p0.tolist() == pytest.approx(low, abs=1e-6)
    assert p1.tolist() == pytest.approx(high, abs=1e-6)
    assert fitted.predict(at).tolist() == pytest.approx(one, abs=2e-6)


def test_the_interval_narrows_as_n_grows() -> None:
    widths = [VennAbersCalibrator().fit(*answers(n)).mean_width_ for n in (50, 500, 5000)]
    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0
    small = VennAbersCalibrator().fit(*answers(50))
    p0, p1 = small.interval(answers(50)[0])
    assert small.mean_width_ == pytest.approx((p1 - p0).mean())


def test_the_one_figure_lies_between_the_two() -> None:
    fitted = VennAbersCalibrator().fit(*answers(100))
    u = np.linspace(-1, 5, 500)
    p0, p1 = fitted.interval(u)
    p = fitted.predict(u)
    assert ((p0 < p) & (p < p1)).all()
    assert fitted.interval(u.reshape(5, 100))[0].shape == (5, 100)


def test_one_of_the_two_is_calibrated_at_any_n() -> None:
    """Of 15 answers, the p that the truth picks is right on average for each value it takes."""
    rng = np.random.default_rng(0)
    picked, outcome = [], []
    for _ in range(2000):
        u = rng.uniform(0, 1, 16)
        right = rng.random(16) < 0.9 - 0.8 * u
        try:
            p0, p1 = VennAbersCalibrator().fit(u[:15], right[:15]).interval(u[15])
        except FitError:
            continue
        picked.append(float(p1 if right[15] else p0))
        outcome.append(right[15])
    p, y = np.array(picked), np.array(outcome)
    assert p.mean() == pytest.approx(y.mean(), abs=0.03)
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (p >= low) & (p < low + 0.25 if low < 0.75 else p <= 1)
        assert p[inside].mean() == pytest.approx(y[inside].mean(), abs=0.06)


def test_unknown_has_no_interval() -> None:
    fitted = VennAbersCalibrator().fit(*answers(50))
    p0, p1 = fitted.interval([math.nan, math.inf, 1.0])
    assert np.isnan(p0).tolist() == np.isnan(p1).tolist() == [True, True, False]
    with pytest.raises(FitError, match="is not fitted yet"):
        VennAbersCalibrator().interval([1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": [1.0]}, "not those of two functions"),
        ({"x1": [], "p1": []}, "not those of two functions"),
        ({"x0": VENN_ABERS["x0"][::-1]}, "not those of two functions"),
        ({"p1": VENN_ABERS["p1"][::-1]}, "must not increase"),
        ({"x0": [5.0], "p0": [1.0]}, "p0 must be below 1"),
        ({"x1": [1.0], "p1": [0.0]}, "p1 above 0"),
        ({"x1": [1.0], "p1": [1.5]}, "lie in"),
        ({"mean_width": 0.0}, "mean_width must lie in"),
        ({"mean_width": [0.1]}, "not a single number"),
    ],
)
def test_what_no_fit_leaves_is_refused(change: dict[str, Any], message: str) -> None:
    assert calibrator_from_dict(VENN_ABERS).to_dict() == VENN_ABERS
    with pytest.raises(ArtifactError, match=message):
        calibrator_from_dict(VENN_ABERS | change)
