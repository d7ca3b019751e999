"""Platt scaling: a logistic curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from calibration.calibrators.base import Calibrator, does_not_rank, number
from calibration.calibrators.logistic import (
    FLAT,
    OF_PROBABILITY,
    bounded_probability,
    fit_logistic,
    logit,
    platt_targets,
)
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError
from calibration.metrics import BoolArray, FloatArray


class PlattCalibrator(Calibrator):
    r"""Logistic regression of correctness on the uncertainty: Platt scaling.

    .. math:: p = \sigma(b + a \, (x - \mathrm{mean}) / \mathrm{scale}), \quad a < 0

    x is log(u / (1 - u)) where every u fitted on lies strictly between 0 and 1 and the curve fits
    no worse so: a score that is a probability already is then left alone, while one that lies there
    by chance is not bent. Otherwise x is u itself. A score of exactly 0 or 1 has no logit, and one
    invented for it would pull the curve more than all others: it makes x = u. Later scores outside
    (0, 1) are on the logit the surest or the least sure there can be.

    Fitted to Platt's targets, (n+ + 1) / (n+ + 2) for right answers and 1 / (n- + 2) for wrong
    ones, which keep the slope finite where the score separates the two; the L2 penalty is next to
    nothing (1e-6). p is kept within [1 / (n + 2), (n + 1) / (n + 2)].

    Attributes
    ----------
    input_ : "logit" or "raw"
        What x is.
    mean_, scale_ : float
        Mean and standard deviation of the x fitted on.
    slope_, intercept_ : float
        a and b; a < 0.
    n_ : int
        See `Calibrator`.

    References
    ----------
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """

    kind: ClassVar[str] = "platt"

    input_: Literal["logit", "raw"]
    mean_: float
    scale_: float
    slope_: float
    intercept_: float

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        curve = _fit(u, right, weight)
        on: Literal["logit", "raw"] = "raw"
        x = logit(u)
        if np.isfinite(x).all() and x.min() < x.max():
            other = _fit(x, right, weight)
            if other.loss <= curve.loss:
                curve, on = other, "logit"
        if curve.slope > -FLAT:
            raise does_not_rank("the less sure ones are not more often wrong")
        self.input_, self.mean_, self.scale_ = on, curve.mean, curve.scale
        self.slope_, self.intercept_ = curve.slope, curve.intercept

    def _level(self, u: FloatArray) -> FloatArray:
        x = logit(u) if self.input_ == "logit" else u
        with np.errstate(over="ignore"):
            z = (x - self.mean_) / self.scale_
            return bounded_probability(self.intercept_ + self.slope_ * z, self.n_)

    def _tilt(self) -> Tilt:
        if self.input_ == "logit":
            return OF_PROBABILITY
        return Tilt(self.mean_, self.scale_, probability=False)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "slope": self.slope_,
            "intercept": self.intercept_,
            "mean": self.mean_,
            "scale": self.scale_,
        }
        # Without the field it is raw, as in artifacts from before there was a choice.
        return fields | ({"input": "logit"} if self.input_ == "logit" else {})

    def _read(self, data: Mapping[str, Any]) -> None:
        slope, intercept, mean, scale = (
            number(data, name) for name in ("slope", "intercept", "mean", "scale")
        )
        if slope >= 0.0 or scale <= 0.0:
            raise ArtifactError("platt calibrator: slope must be negative and scale positive")
        if data.get("input", "logit") != "logit":
            raise ArtifactError("platt calibrator: 'input' is \"logit\" or absent")
        self.input_ = "logit" if "input" in data else "raw"
        self.slope_, self.intercept_, self.mean_, self.scale_ = slope, intercept, mean, scale


class _Curve(NamedTuple):
    mean: float
    scale: float
    slope: float
    intercept: float
    loss: float


def _fit(x: FloatArray, right: BoolArray, weight: FloatArray) -> _Curve:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.average(x, weights=weight))
        scale = math.sqrt(float(np.average((x - mean) ** 2, weights=weight)))
    if not 0.0 < scale < math.inf:
        raise does_not_rank("it hardly varies, or too much to be standardised")
    z = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    target = platt_targets(right, weight)
    (slope, intercept), loss = fit_logistic(z, target, weight, penalised=np.array([1.0, 0.0]))
    return _Curve(mean, scale, float(slope), float(intercept), loss)
