"""Venn-Abers prediction: two probabilities, one of which is calibrated whatever the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from calibration.calibrators.base import Calibrator, does_not_rank, known, number, numbers
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError
from calibration.metrics import BoolArray, FloatArray

Point = tuple[float, float]


class VennAbersCalibrator(Calibrator):
    r"""Inductive Venn-Abers predictor: isotonic regression with the new answer among the old ones.

    p0 is what isotonic regression gives a new answer when it is taken to be wrong, p1 when it is
    taken to be right. Where answers are exchangeable, the one of the two that turns out to belong
    to the truth is calibrated, at any n. Their distance tells how much n answers can say there. The
    one figure for decisions is that of least regret under log-loss,

    .. math:: p = p_1 / (1 - p_0 + p_1).

    As functions of the uncertainty both only step down, so few corners hold them exactly.

    Attributes
    ----------
    x0_, p0_ : float arrays of shape (j,)
        p0 is ``p0_[i]`` above ``x0_[i - 1]`` up to ``x0_[i]``, and 0 above the last.
    x1_, p1_ : float arrays of shape (k,)
        p1 is ``p1_[i]`` from ``x1_[i]`` up to before ``x1_[i + 1]``, and 1 before the first.
    mean_width_ : float
        Mean of p1 - p0 at the uncertainties fitted on.
    n_ : int
        See `Calibrator`.

    References
    ----------
    Vovk and Petej, "Venn-Abers Predictors", UAI 2014, arXiv:1211.0025; Vovk, Petej and Fedorova,
    "Large-scale probabilistic predictors with and without guarantees of validity", NeurIPS 2015,
    arXiv:1511.00213 (both step functions from hulls that are updated answer by answer).

    Examples
    --------
    >>> calibrator = VennAbersCalibrator().fit([1, 2, 3, 4], [True, True, False, False])
    >>> p0, p1 = calibrator.interval([1.5, 3.5])
    >>> [round(float(p), 4) for p in p0], [round(float(p), 4) for p in p1]
    ([0.5, 0.0], [1.0, 0.5])
    """

    kind: ClassVar[str] = "venn_abers"

    x0_: FloatArray
    p0_: FloatArray
    x1_: FloatArray
    p1_: FloatArray
    mean_width_: float

    def interval(self, uncertainty: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return p0 and p1, p0 < p1, of the shape of `uncertainty`; NaN where that is not finite.

        Raises
        ------
        FitError
            Before `fit`.
        """
        self._require_fit()
        return self._interval(known(uncertainty))

    def _interval(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        low = np.append(self.p0_, 0.0)[np.searchsorted(self.x0_, u, side="left")]
        high = np.append(1.0, self.p1_)[np.searchsorted(self.x1_, u, side="right")]
        unknown = np.isnan(u)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        x, row = np.unique(u, return_inverse=True)
        mass: FloatArray = np.bincount(row, weights=weight).astype(np.float64)
        right_mass: FloatArray = np.bincount(row, weights=weight * right).astype(np.float64)
        so_far = np.cumsum(right_mass) / np.cumsum(mass)
        if so_far.max() <= so_far[-1]:
            raise does_not_rank("the best non-increasing fit of correctness on it is constant")
        p1 = _as_if_right(mass[::-1], right_mass[::-1])[::-1]
        p0 = 1.0 - _as_if_right(mass, mass - right_mass)
        last = np.append(np.diff(p0) != 0.0, True)
        first = np.append(True, np.diff(p1) != 0.0)
        self.x0_, self.p0_ = x[last], p0[last]
        self.x1_, self.p1_ = x[first], p1[first]
        self.mean_width_ = float(np.average(p1 - p0, weights=mass))

    def _level(self, u: FloatArray) -> FloatArray:
        p0, p1 = self._interval(u)
        return np.asarray(1.0 / (1.0 + (1.0 - p0) / p1))  # so written, rounding keeps the order

    def _tilt(self) -> Tilt:
        return Tilt.around(np.concatenate([self.x0_, self.x1_]))

    def _fields(self) -> dict[str, Any]:
        return {
            "x0": self.x0_.tolist(),
            "p0": self.p0_.tolist(),
            "x1": self.x1_.tolist(),
            "p1": self.p1_.tolist(),
            "mean_width": self.mean_width_,
        }

    def _read(self, data: Mapping[str, Any]) -> None:
        x0, p0, x1, p1 = (numbers(data, name) for name in ("x0", "p0", "x1", "p1"))
        for x, p in ((x0, p0), (x1, p1)):
            if x.ndim != 1 or x.shape != p.shape or len(x) < 1 or np.any(np.diff(x) <= 0):
                raise ArtifactError("venn_abers calibrator: x and p are not those of two functions")
            if np.any(np.diff(p) > 0) or p[0] > 1 or p[-1] < 0:
                raise ArtifactError("venn_abers calibrator: p must not increase and lie in [0, 1]")
        if p0[0] >= 1 or p1[-1] <= 0 or x1[0] >= x0[-1]:
            raise ArtifactError("venn_abers calibrator: p0 must be below 1, p1 above 0")
        width = number(data, "mean_width")
        if not 0.0 < width <= 1.0:
            raise ArtifactError("venn_abers calibrator: mean_width must lie in (0, 1]")
        self.x0_, self.p0_, self.x1_, self.p1_, self.mean_width_ = x0, p0, x1, p1, width


def _as_if_right(mass: FloatArray, right_mass: FloatArray) -> FloatArray:
    """Return the isotonic fit at each group of answers with one more right answer there.

    Groups go from the least sure to the surest. The fit is the slope of the greatest convex
    minorant of cumulative right mass over cumulative mass. One more right answer at group i pulls
    all points before i down and left by (1, 1), and its fit is the slope of the edge that bridges
    the two halves: from group to group a single point changes sides.
    """
    xs = [-1.0, *np.cumsum(mass).tolist()]
    ys = [-1.0, *np.cumsum(right_mass).tolist()]
    hull: list[Point] = []  # what can still be the bridge, its left end last
    for point in zip(reversed(xs), reversed(ys), strict=True):
        _push(hull, *point)
    fit = []
    for x, y in zip(xs[1:], ys[1:], strict=True):
        (x_left, y_left), (x_right, y_right) = hull[-1], hull[-2]
        slope = (y_right - y_left) / (x_right - x_left)
        fit.append(slope)
        if y - 1.0 < y_left + slope * (x - 1.0 - x_left) and len(fit) < len(mass):
            hull.pop()
            _push(hull, x - 1.0, y - 1.0)
    return np.maximum.accumulate(fit)


def _push(hull: list[Point], x: float, y: float) -> None:
    """Add a point to the left of all others, and drop those that are no longer corners."""
    while len(hull) > 1:
        (x_first, y_first), (x_next, y_next) = hull[-1], hull[-2]
        if (x_first - x) * (y_next - y) > (x_next - x) * (y_first - y):
            break
        hull.pop()
    hull.append((x, y))
