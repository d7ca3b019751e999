"""What an artifact says of itself: how good its scores are, and what live ones look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from calibration.metrics import FloatArray

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class EstimatorQuality:
    """How well an estimator's raw score tells wrong answers from right ones, on all records.

    `auroc` is the ROC AUC of uncertainty against incorrectness (0.5 = chance), `auroc_ci` its 95%
    bootstrap interval, `n` the number of records whose score is known. Both are None when
    there are too few known scores of either class to tell.
    """

    __pydantic_config__ = _STRICT

    auroc: float | None
    auroc_ci: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class EceScores:
    """Expected calibration error (equal-mass bins, 0 = perfect) on the test part.

    `before` is that of the naive confidence exp(mean log p), None when the traces hold no
    log-probabilities; `after` that of p_correct, `after_ci` its 95% interval (bootstrap, widened
    downwards by the bias of a finite sample); `expected` is what a perfectly calibrated p_correct
    would show on as many answers by chance alone, which is that bias. `smooth` is the error of
    p_correct without bins (smECE), `smooth_expected` again what chance alone would show.
    """

    __pydantic_config__ = _STRICT

    before: float | None
    after: float
    after_ci: tuple[float, float]
    expected: float
    smooth: float
    smooth_expected: float


@dataclass(frozen=True)
class BrierScores:
    """Mean squared distance of the confidence from the outcome, on the test part (0 = perfect).

    `before` and `after` as in `EceScores`.
    """

    __pydantic_config__ = _STRICT

    before: float | None
    after: float


@dataclass(frozen=True)
class Histogram:
    """Distribution of the chosen uncertainty over the fit part: the reference for drift.

    `edges` (bins + 1) are quantiles of the fit part, strictly rising, so its `counts` (bins) are
    near equal; later scores outside the edges belong to the first or the last bin. `n_unknown`
    counts the NaN scores, which are in no bin.
    """

    __pydantic_config__ = _STRICT

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n_unknown: int


@dataclass(frozen=True)
class Reference:
    """The held-out part's answers: what live ones are compared with.

    `p_correct` and `uncertainty`, those of `Calibration.first_look`, rise; each holds the known
    ones of `n` answers.
    """

    __pydantic_config__ = _STRICT

    p_correct: tuple[float, ...]
    uncertainty: tuple[float, ...]
    n: int

    @classmethod
    def of(cls, p_correct: FloatArray, uncertainty: FloatArray) -> Reference:
        """Take both of the same answers, of shape (n,); NaN = unknown."""
        known = (np.sort(values[np.isfinite(values)]) for values in (p_correct, uncertainty))
        p, u = (tuple(values.tolist()) for values in known)
        return cls(p, u, len(p_correct))


@dataclass(frozen=True)
class CurvePoint:
    """One point of the routing curve, measured on the test part.

    `threshold` keeps `n_kept` answers, escalates the share `escalation_ratio`, and a share
    `accuracy_kept` of the kept ones is right (None when none is kept).
    """

    __pydantic_config__ = _STRICT

    threshold: float
    escalation_ratio: float
    accuracy_kept: float | None
    n_kept: int
