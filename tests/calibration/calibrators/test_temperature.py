from __future__ import annotations

import numpy as np
import pytest

from calibration.calibrators import TemperatureCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError, FitError
from tests.calibration.calibrators.made import overconfident

TEMPERATURE = {"kind": "temperature", "temperature": 2.0, "n": 10_000}


def test_p_is_that_of_the_formula() -> None:
    c = np.array([0.2, 0.5, 0.8, 0.9])
    odds = np.sqrt(c / (1 - c))
    p = calibrator_from_dict(TEMPERATURE).predict(1 - c)
    np.testing.assert_allclose(p, odds / (1 + odds), atol=2e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_it_recovers_the_temperature(temperature: float) -> None:
    fitted = TemperatureCalibrator().fit(*overconfident(40_000, temperature=temperature))
    assert fitted.temperature_ == pytest.approx(temperature, rel=0.03)


def test_it_never_moves_across_one_half() -> None:
    fitted = TemperatureCalibrator().fit(*overconfident(300))
    p = fitted.predict([0.2, 0.499, 0.5, 0.501, 0.8])
    assert (p[:2] > 0.5).all()
    assert p[2] == pytest.approx(0.5, abs=1e-6)
    assert (p[3:] < 0.5).all()


def test_where_a_temperature_would_turn_the_order_round_there_is_none() -> None:
    # They rank, but all are surer than one half and nearly all are wrong.
    u = np.linspace(0.05, 0.45, 100)
    right = u < 0.1
    with pytest.raises(FitError, match=r"does not rank.*surer than one half"):
        TemperatureCalibrator().fit(u, right)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_what_no_fit_leaves_is_refused(temperature: float) -> None:
    assert calibrator_from_dict(TEMPERATURE).to_dict() == TEMPERATURE
    with pytest.raises(ArtifactError, match="temperature must be positive"):
        calibrator_from_dict(TEMPERATURE | {"temperature": temperature})
