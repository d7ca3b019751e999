"""Beta calibration: a logistic curve with a slope of its own at either end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from calibration.calibrators.base import Calibrator, does_not_rank, number
from calibration.calibrators.logistic import (
    FLAT,
    OF_PROBABILITY,
    bounded_probability,
    fit_logistic,
    logs,
    platt_targets,
)
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError, FitError
from calibration.metrics import BoolArray, FloatArray


class BetaCalibrator(Calibrator):
    r"""Beta calibration of c = 1 - u, for an uncertainty that is a probability of being wrong.

    .. math:: p = \sigma(a \ln c - b \ln(1 - c) + m), \quad a, b \ge 0, \; a + b > 0

    With a = b it is Platt's curve on the logit of c, with a = b = 1 and m = 0 it leaves c alone.
    Fitted to Platt's targets; p is kept within [1 / (n + 2), (n + 1) / (n + 2)]. The package of the
    paper's authors (PyPI `betacal` 1.1.0) is not used: it moves scores of 0 and 1 to 2e-16 from
    there, where they outweigh all others, it can end with a falling slope where both come out
    negative, and its fit turns off every warning of the process.

    Attributes
    ----------
    a_, b_, m_ : float
        See the formula.
    n_ : int
        See `Calibrator`.

    References
    ----------
    Kull, Silva Filho and Flach, "Beyond sigmoids: How to obtain well-calibrated probabilities from
    binary classifiers with beta calibration", Electronic Journal of Statistics 11(2), 2017.
    """

    kind: ClassVar[str] = "beta"

    a_: float
    b_: float
    m_: float

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        columns = _columns(u)
        if not np.isfinite(columns).all():
            raise FitError(outside(u, "beta"))
        target = platt_targets(right, weight)

        def fit_on(slopes: list[int]) -> tuple[float, FloatArray]:
            used = [*slopes, 2]
            penalised = np.array([*[1.0] * len(slopes), 0.0])
            found, loss = fit_logistic(columns[:, used], target, weight, penalised)
            coefficients = np.zeros(3)
            coefficients[used] = found
            return loss, coefficients

        _, best = fit_on([0, 1])
        if best[:2].min() < 0.0:  # then the best with none below 0 has one at 0: it is convex
            edges = [(loss, c) for loss, c in (fit_on([0]), fit_on([1])) if c[:2].min() >= 0.0]
            if not edges:
                raise does_not_rank("the less sure ones are not more often wrong")
            best = min(edges, key=lambda edge: edge[0])[1]
        if best[0] + best[1] < FLAT:
            raise does_not_rank("the less sure ones are not more often wrong")
        self.a_, self.b_, self.m_ = (float(value) for value in best)

    def _level(self, u: FloatArray) -> FloatArray:
        # Term by term: where a slope is 0, the infinite logarithm of a bound must not make it NaN.
        of_u, of_rest = logs(u)
        total = np.where(np.isnan(u), np.nan, self.m_)
        for slope, term in ((self.a_, of_rest), (-self.b_, of_u)):
            if slope != 0.0:
                total = total + slope * term
        return bounded_probability(total, self.n_)

    def _tilt(self) -> Tilt:
        return OF_PROBABILITY

    def _fields(self) -> dict[str, Any]:
        return {"a": self.a_, "b": self.b_, "m": self.m_}

    def _read(self, data: Mapping[str, Any]) -> None:
        a, b, m = (number(data, name) for name in ("a", "b", "m"))
        if min(a, b) < 0.0 or a + b <= 0.0:
            raise ArtifactError("beta calibrator: a and b must not be negative, nor both 0")
        self.a_, self.b_, self.m_ = a, b, m


def outside(u: FloatArray, kind: str) -> str:
    """Say which score is no probability strictly between 0 and 1."""
    out = np.flatnonzero((u <= 0.0) | (u >= 1.0))
    first = (
        f"{len(out)} of {len(u)} are not, the first ({u[out[0]]}) at row {out[0]}"
        if len(out)
        else f"{u.min()} is too near 0"
    )
    return (
        f"{kind} calibration needs scores strictly between 0 and 1, a probability of being wrong; "
        f"{first}. Use isotonic or platt, which take any score"
    )


def _columns(u: FloatArray) -> FloatArray:
    of_u, of_rest = logs(u)
    return np.column_stack([of_rest, -of_u, np.ones(len(u))])
