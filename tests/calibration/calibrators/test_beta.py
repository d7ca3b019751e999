from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from calibration.calibrators import BetaCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError
from calibration.metrics import FloatArray
from tests.calibration.calibrators.made import overconfident

BETA = {"kind": "beta", "a": 0.5, "b": 2.0, "m": -0.1, "n": 10}


def test_p_is_that_of_the_formula() -> None:
    c = np.array([0.2, 0.5, 0.7])
    odds = np.exp(-0.1) * c**0.5 / (1 - c) ** 2
    p = BetaCalibrator.from_dict(BETA | {"n": 10_000}).predict(1 - c)
    np.testing.assert_allclose(p, odds / (1 + odds), atol=2e-6)


@pytest.mark.parametrize("world", range(4))
def test_it_is_the_minimum_of_its_objective_among_slopes_not_negative(world: int) -> None:
    rng = np.random.default_rng(world)
    u = rng.beta(1.5, 1.5, 300)
    truth = [1 - u, 0.9 - 0.5 * u**4, 0.9 - 0.6 * u**0.2, 0.1 + 0.8 * (u < 0.5)][world]
    right = rng.random(300) < truth
    n_right = right.sum()
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (300 - n_right + 2))

    def loss(coefficients: FloatArray) -> float:
        a, b, m = coefficients
        eta = a * np.log1p(-u) - b * np.log(u) + m
        return float(np.sum(np.logaddexp(0, eta) - target * eta))

    bounds = [(0, None), (0, None), (None, None)]
    best = minimize(loss, [1.0, 1.0, 0.0], bounds=bounds, options={"ftol": 1e-14})
    fitted = BetaCalibrator().fit(u, right)
    assert min(fitted.a_, fitted.b_) >= 0
    assert loss(np.array([fitted.a_, fitted.b_, fitted.m_])) == pytest.approx(best.fun, abs=1e-5)


def test_a_slope_that_would_be_negative_is_0() -> None:
    # Flat towards u = 1, steep towards 0, and rather rising than flat there.
    rng = np.random.default_rng(0)
    u = rng.beta(1.5, 1.5, 2000)
    fitted = BetaCalibrator().fit(u, rng.random(2000) < 0.9 - 0.6 * u**0.2 + 0.15 * u**8)
    assert fitted.a_ == 0.0
    assert fitted.b_ > 0.0
    assert np.isfinite(fitted.predict([0.0, 1.0, 2.0, -1.0])).all()


def test_it_recovers_two_slopes() -> None:
    rng = np.random.default_rng(0)
    u = rng.uniform(0, 1, 40_000)
    odds = np.exp(0.3) * (1 - u) ** 0.4 / u**1.6
    fitted = BetaCalibrator().fit(u, rng.random(40_000) < odds / (1 + odds))
    assert (fitted.a_, fitted.b_, fitted.m_) == pytest.approx((0.4, 1.6, 0.3), abs=0.06)


def test_what_is_calibrated_is_left_alone() -> None:
    u, right = overconfident(40_000, temperature=1.0)
    np.testing.assert_allclose(BetaCalibrator().fit(u, right).predict(u), 1 - u, atol=0.015)


@pytest.mark.parametrize(
    "change", [{"a": -0.1}, {"b": -0.1}, {"a": 0.0, "b": 0.0}], ids=["a", "b", "both"]
)
def test_what_no_fit_leaves_is_refused(change: dict[str, float]) -> None:
    assert calibrator_from_dict(BETA).to_dict() == BETA
    with pytest.raises(ArtifactError, match="a and b must not be negative, nor both 0"):
        calibrator_from_dict(BETA | change)
