"""Isotonic regression: no shape but the order is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from calibration.calibrators.base import Calibrator, does_not_rank, numbers
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError
from calibration.metrics import BoolArray, FloatArray


class IsotonicCalibrator(Calibrator):
    """Non-increasing regression of correctness on uncertainty: pool adjacent violators.

    The fit is piecewise linear between the levels it finds and constant, but for the tilt, beyond
    the first and the last. Its two outer levels are often pure, m answers all right or all wrong,
    which plain isotonic regression turns into certainty. Here a pure level takes Laplace's
    estimate, (m + 1) / (m + 2) or 1 / (m + 2), but never passes its neighbour's level.

    Attributes
    ----------
    x_ : float array of shape (k,)
        Uncertainties at the corners of the fit, strictly increasing.
    y_ : float array of shape (k,)
        p_correct there, non-increasing, in (0, 1).
    n_ : int
        See `Calibrator`.

    References
    ----------
    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates", KDD 2002. The fit is scikit-learn's `IsotonicRegression`.

    Examples
    --------
    >>> calibrator = IsotonicCalibrator().fit([1, 2, 3, 4], [True, True, False, False])
    >>> [round(float(p), 4) for p in calibrator.predict([0, 1.5, 2.5, 9])]
    [0.75, 0.75, 0.5, 0.25]
    """

    kind: ClassVar[str] = "isotonic"

    x_: FloatArray
    y_: FloatArray

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  see the package's docstring

        model = IsotonicRegression(increasing=False).fit(u, right.astype(np.float64), weight)
        x = np.asarray(model.X_thresholds_, dtype=np.float64)
        y = np.asarray(model.y_thresholds_, dtype=np.float64)
        if y[0] <= y[-1]:
            raise does_not_rank("the best non-increasing fit of correctness on it is constant")
        self.x_, self.y_ = x, _soften(x, y, u, weight)

    def _level(self, u: FloatArray) -> FloatArray:
        x, y = self.x_, self.y_
        # A rounding error of the interpolation must not pass the corner it leads to.
        after = np.clip(np.searchsorted(x, u, side="right"), 1, len(x) - 1)
        return np.asarray(np.clip(np.interp(u, x, y), y[after], y[after - 1]))

    def _tilt(self) -> Tilt:
        return Tilt.around(self.x_)

    def _fields(self) -> dict[str, Any]:
        return {"x": self.x_.tolist(), "y": self.y_.tolist()}

    def _read(self, data: Mapping[str, Any]) -> None:
        x, y = numbers(data, "x"), numbers(data, "y")
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or np.any(np.diff(x) <= 0):
            raise ArtifactError("isotonic calibrator: x and y are not the corners of a function")
        if np.any(np.diff(y) > 0) or y[0] >= 1 or y[-1] <= 0:
            raise ArtifactError("isotonic calibrator: y must not increase and lie inside (0, 1)")
        self.x_, self.y_ = x, y


def _soften(x: FloatArray, y: FloatArray, u: FloatArray, weight: FloatArray) -> FloatArray:
    """Keep each level where its mass m can vouch for it; then restore the order.

    Only a level that is pure, or with weights nearly so, leaves [1 / (m + 2), (m + 1) / (m + 2)].
    """
    first = np.append(True, np.diff(y) != 0.0)
    level = np.cumsum(first) - 1
    mass = np.bincount(np.searchsorted(x[first], u, side="right") - 1, weights=weight)[level]
    capped = np.minimum(y, (mass + 1) / (mass + 2))
    falling = np.maximum.accumulate(capped[::-1])[::-1]
    return np.minimum.accumulate(np.maximum(falling, 1 / (mass + 2)))
