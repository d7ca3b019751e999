"""Temperature scaling: one parameter, for a score that is nearly a probability already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from calibration.calibrators.base import Calibrator, does_not_rank, number
from calibration.calibrators.beta import outside
from calibration.calibrators.logistic import (
    FLAT,
    OF_PROBABILITY,
    bounded_probability,
    fit_logistic,
    logit,
    platt_targets,
)
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError, FitError
from calibration.metrics import BoolArray, FloatArray


class TemperatureCalibrator(Calibrator):
    r"""Temperature scaling of c = 1 - u, for an uncertainty that is a probability of being wrong.

    .. math:: p = \sigma\left(\frac{1}{T} \log \frac{c}{1 - c}\right), \quad T > 0

    It makes c bolder (T < 1) or more modest (T > 1) and never moves it across one half. Fitted to
    Platt's targets; p is kept within [1 / (n + 2), (n + 1) / (n + 2)].

    Attributes
    ----------
    temperature_ : float
        T.
    n_ : int
        See `Calibrator`.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599.
    """

    kind: ClassVar[str] = "temperature"

    temperature_: float

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        x = -logit(u)[:, np.newaxis]
        if not np.isfinite(x).all():
            raise FitError(outside(u, "temperature"))
        target = platt_targets(right, weight)
        (slope,), _ = fit_logistic(x, target, weight, penalised=np.ones(1))
        if slope < FLAT:
            raise does_not_rank(
                "those surer than one half are not more often right than wrong, or those less sure "
                "not more often wrong than right"
            )
        self.temperature_ = float(1.0 / slope)

    def _level(self, u: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return bounded_probability(-logit(u) / self.temperature_, self.n_)

    def _tilt(self) -> Tilt:
        return OF_PROBABILITY

    def _fields(self) -> dict[str, Any]:
        return {"temperature": self.temperature_}

    def _read(self, data: Mapping[str, Any]) -> None:
        temperature = number(data, "temperature")
        if temperature <= 0.0:
            raise ArtifactError("temperature calibrator: temperature must be positive")
        self.temperature_ = temperature
