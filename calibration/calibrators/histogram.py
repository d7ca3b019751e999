"""Histogram binning: a share of right answers for each bin of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from calibration.calibrators.base import Calibrator, does_not_rank, numbers
from calibration.calibrators.tilt import Tilt
from calibration.errors import ArtifactError
from calibration.metrics import BoolArray, FloatArray


class HistogramCalibrator(Calibrator):
    """Share of right answers in bins of equal mass, by Laplace's estimate, made monotone.

    There are n^(1/3) bins, rounded up: 5 of 100 answers, 10 of 1,000, 22 of 10,000, the rate at
    which the error within a bin and that of its share fall together. Answers of equal score share a
    bin. A bin of m answers, k of them right, gets (k + 1) / (m + 2); neighbours in the wrong order
    are pooled (pool adjacent violators).

    Attributes
    ----------
    edges_ : float array of shape (k + 1,)
        Lowest uncertainty, highest of each bin; bin i holds those above edge i up to edge i + 1.
        Beyond the outer ones lie the outer bins.
    levels_ : float array of shape (k,)
        p_correct of each bin, strictly decreasing, in (0, 1); at least two.
    n_ : int
        See `Calibrator`.

    References
    ----------
    Zadrozny and Elkan, "Obtaining Calibrated Probability Estimates from Decision Trees and Naive
    Bayesian Classifiers", ICML 2001.
    """

    kind: ClassVar[str] = "histogram"

    edges_: FloatArray
    levels_: FloatArray

    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        from scipy.optimize import isotonic_regression  # noqa: PLC0415  see the package's docstring

        values, row = np.unique(u, return_inverse=True)
        mass = np.bincount(row, weights=weight)
        right_mass = np.bincount(row, weights=weight * right)
        n_bins = math.ceil(round(mass.sum() ** (1 / 3), 6))
        middle = (np.cumsum(mass) - mass / 2) / mass.sum()
        starts = np.unique(np.floor(n_bins * middle), return_index=True)[1]
        m = np.add.reduceat(mass, starts)
        share = (np.add.reduceat(right_mass, starts) + 1) / (m + 2)
        pooled = isotonic_regression(share, weights=m + 2, increasing=False)
        first = pooled.blocks[:-1]
        if len(first) < 2:
            raise does_not_rank("no bins of it, made monotone, differ in their share of right ones")
        below = values[starts[first[1:]] - 1]
        self.edges_ = np.concatenate([values[:1], below, values[-1:]])
        self.levels_ = np.asarray(pooled.x[first], dtype=np.float64)

    def _level(self, u: FloatArray) -> FloatArray:
        bins = np.searchsorted(self.edges_[1:-1], u, side="left")
        return np.where(np.isnan(u), np.nan, self.levels_[bins])

    def _tilt(self) -> Tilt:
        return Tilt.around(self.edges_)

    def _fields(self) -> dict[str, Any]:
        return {"edges": self.edges_.tolist(), "levels": self.levels_.tolist()}

    def _read(self, data: Mapping[str, Any]) -> None:
        edges, levels = numbers(data, "edges"), numbers(data, "levels")
        if levels.ndim != 1 or len(levels) < 2 or edges.shape != (len(levels) + 1,):
            raise ArtifactError(
                "histogram calibrator: needs two levels or more and one edge more than levels"
            )
        if np.any(np.diff(edges) < 0) or np.any(np.diff(edges[1:]) <= 0):
            raise ArtifactError("histogram calibrator: edges must increase")
        if np.any(np.diff(levels) >= 0) or levels[0] >= 1 or levels[-1] <= 0:
            raise ArtifactError("histogram calibrator: levels must decrease and lie inside (0, 1)")
        self.edges_, self.levels_ = edges, levels
