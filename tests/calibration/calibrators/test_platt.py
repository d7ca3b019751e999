from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from calibration.calibrators import TILT, PlattCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError, FitError
from calibration.metrics import FloatArray
from tests.calibration.calibrators.made import answers, overconfident

PLATT = {"kind": "platt", "slope": -1.0, "intercept": 0.5, "mean": 1.0, "scale": 2.0, "n": 10}


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_minimum_of_its_objective(weighted: bool) -> None:
    u, right = answers(150)
    weight = np.random.default_rng(2).uniform(0.2, 2.0, 150) if weighted else np.ones(150)
    weight *= weight.sum() / (weight**2).sum()  # to Kish's effective number
    n_right, n_wrong = weight[right].sum(), weight[~right].sum()
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    mean = np.average(u, weights=weight)
    z = (u - mean) / np.sqrt(np.average((u - mean) ** 2, weights=weight))

    def loss(parameters: FloatArray) -> float:
        logit = parameters[0] + parameters[1] * z
        return float(np.sum(weight * (np.logaddexp(0, logit) - target * logit)))

    intercept, slope = minimize(loss, [0.0, 0.0], options={"gtol": 1e-8}).x
    calibrator = PlattCalibrator().fit(u, right, weight)
    assert calibrator.intercept_ == pytest.approx(intercept, abs=1e-5)
    assert calibrator.slope_ == pytest.approx(slope, abs=1e-5)
    expected = 1 / (1 + math.exp(-intercept - slope * z[0]))
    assert calibrator.predict(u[0]) == pytest.approx(expected, abs=1e-5)


def test_it_recovers_the_curve_that_made_the_answers() -> None:
    p = PlattCalibrator().fit(*answers(20_000)).predict([0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(p, 1 / (1 + np.exp(np.arange(-2.0, 3.0))), atol=0.015)


def test_it_recovers_a_temperature_on_the_logit() -> None:
    calibrator = PlattCalibrator().fit(*overconfident(20_000, temperature=3.0))
    assert calibrator.input_ == "logit"
    u = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    expected = 1 / (1 + (u / (1 - u)) ** (1 / 3))
    np.testing.assert_allclose(calibrator.predict(u), expected, atol=0.015)


def test_it_does_not_depend_on_the_unit_of_the_score() -> None:
    u, right = answers(300)
    a = PlattCalibrator().fit(u, right).predict(u)
    b = PlattCalibrator().fit(1000 * u - 7, right).predict(1000 * u - 7)
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("beyond", [0.0, 1.0, -0.5, 3.0])
def test_one_score_that_has_no_logit_makes_it_raw(beyond: float) -> None:
    u, right = overconfident(300)
    assert PlattCalibrator().fit(u, right).input_ == "logit"
    u[0] = beyond
    calibrator = PlattCalibrator().fit(u, right)
    assert calibrator.input_ == "raw"
    assert calibrator.mean_ == pytest.approx(u.mean())


def test_a_score_that_lies_between_0_and_1_by_chance_is_not_bent() -> None:
    u, right = answers(2000)
    calibrator = PlattCalibrator().fit(0.02 + 0.24 * u, right)
    assert calibrator.input_ == "raw"
    assert calibrator.predict(0.5) == pytest.approx(0.5, abs=0.03)


def test_scores_outside_0_to_1_are_the_surest_or_least_sure_on_the_logit() -> None:
    calibrator = PlattCalibrator().fit(*overconfident(98))
    p = calibrator.predict([-1.0, 0.0, 1e-30, 1 - 1e-15, 1.0, 2.0])
    assert p.tolist() == pytest.approx([99 / 100] * 3 + [1 / 100] * 3, abs=2 * TILT)


def test_it_stays_finite_where_the_score_separates() -> None:
    u = np.concatenate([np.linspace(0, 1, 50), np.linspace(2, 3, 50)])
    calibrator = PlattCalibrator().fit(u, u < 1.5)
    assert math.isfinite(calibrator.slope_)
    assert calibrator.predict([0.0, 3.0]).tolist() == pytest.approx([51 / 52, 1 / 52], abs=0.015)


def test_it_never_leaves_what_n_answers_can_say() -> None:
    p = PlattCalibrator().fit(*answers(98)).predict([-1e300, 1e300])
    assert p.tolist() == pytest.approx([99 / 100, 1 / 100], abs=TILT)


def test_scores_that_cannot_be_standardised_are_refused() -> None:
    with pytest.raises(FitError, match="too much to be standardised"):
        PlattCalibrator().fit([-1e308, 1e308, 1e308, 0.0], [1, 0, 0, 1])


@pytest.mark.parametrize("data", [PLATT, PLATT | {"input": "logit"}])
def test_what_is_read_is_what_was_written(data: dict[str, Any]) -> None:
    assert calibrator_from_dict(data).to_dict() == data


def test_calibrators_from_before_there_was_a_choice_of_input_are_raw() -> None:
    old = {name: value for name, value in PLATT.items() if name != "input"}
    calibrator = calibrator_from_dict(old)
    assert isinstance(calibrator, PlattCalibrator)
    assert calibrator.to_dict() == old
    u = np.linspace(0.0, 1.5, 40)
    z = (u - calibrator.mean_) / calibrator.scale_
    expected = 1 / (1 + np.exp(-calibrator.intercept_ - calibrator.slope_ * z))
    np.testing.assert_allclose(calibrator.predict(u), expected, atol=2 * TILT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": [1.0]}, "'slope' is not a single number"),
        ({"slope": 0.0}, "slope must be negative"),
        ({"scale": 0.0}, "scale positive"),
        ({"mean": math.inf}, "'mean' is not finite"),
        ({"input": "raw"}, "'input' is \"logit\" or absent"),
    ],
)
def test_what_no_fit_leaves_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        calibrator_from_dict(PLATT | change)
