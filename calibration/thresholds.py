"""A target for the router -> the threshold on P(correct) that meets it on labelled answers.

The rule everywhere: an answer is kept iff ``p_correct >= threshold``. An unknown p_correct (NaN)
is always escalated, and counted. Decisions rest on p_correct alone, so answers that a calibrator
gave the same p_correct (isotonic ones tie many) are kept or escalated together.

What is measured here is measured: no figure of this module is a guarantee for answers to come.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from calibration.errors import CalibrationError, FitError, InfeasibleTarget

TargetKind = Literal["escalation", "risk", "threshold"]

ESCALATE_ALL = math.nextafter(1.0, 2.0)
"""The threshold that keeps nothing: just above 1, so that even p_correct = 1 escalates."""

MIN_KEPT = 20
"""Fewest kept answers on which a measured error counts: with 20 kept and none of them wrong, the
true error may still be 14% (one-sided 95% bound)."""

BOUND_CONFIDENCE = 0.95

_TARGET = re.compile(r"\s*([a-z]+)\s*=\s*([^\s=]+)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """What the threshold should achieve; `value` is in [0, 1].

    ========== =====================================================================================
    kind       meaning of `value`
    ========== =====================================================================================
    escalation share of all queries to send to the large model
    risk       highest measured share of wrong answers among those kept
    threshold  the threshold itself
    ========== =====================================================================================

    Raises
    ------
    CalibrationError
        When `kind` is none of these or `value` is not a number in [0, 1].
    """

    kind: TargetKind
    value: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind):
            raise CalibrationError(f"unknown target {self.kind!r}; {_ALLOWED}")
        if not 0.0 <= self.value <= 1.0:  # also refuses NaN
            raise CalibrationError(f"target {self} is outside 0 to 1; {_ALLOWED}")

    def __str__(self) -> str:
        return f"{self.kind}={self.value!r}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``escalation=0.3``, ``risk=0.1`` or ``threshold=0.6``; `str` is the inverse.

        Raises
        ------
        CalibrationError
            On anything else; the message names what is allowed.
        """
        match = _TARGET.fullmatch(text)
        if match is None:
            raise CalibrationError(f"can't read the target {text!r}; {_ALLOWED}")
        name, number = match.group(1).lower(), match.group(2)
        try:
            value = float(number)
        except ValueError:
            raise CalibrationError(
                f"{number!r} in the target {text!r} is not a number; {_ALLOWED}"
            ) from None
        for kind in get_args(TargetKind):
            if name == kind:
                return cls(kind, value)
        raise CalibrationError(f"unknown target {name!r} in {text!r}; {_ALLOWED}")


_ALLOWED = (
    "allowed are escalation=R, risk=R and threshold=R with R a number from 0 to 1, "
    "for example escalation=0.3"
)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and what it did on a set of labelled answers.

    Attributes
    ----------
    target : the target it was chosen for, as `Target.parse` reads it.
    threshold : keep iff p_correct >= threshold; in [0, 1], or `ESCALATE_ALL`.
    escalation_ratio : share of all `n` answers not kept, those of unknown p_correct included.
    accuracy_kept : measured share of right answers among those kept; None when none was kept.
    risk_upper : exact one-sided 95% binomial (Clopper-Pearson) upper bound on the error among kept
        answers, for a threshold fixed before these answers were looked at; None when none was kept.
        A reported figure, not a certificate: it is optimistic for a threshold chosen on the same
        answers, and says nothing about queries of another kind.
    n_kept, n : answers kept, and answers in all.
    certificate : always None; this version certifies nothing.
    """

    target: str
    threshold: float
    escalation_ratio: float
    accuracy_kept: float | None
    risk_upper: float | None
    n_kept: int
    n: int
    certificate: None = None


def choose_threshold(
    target: Target, p_correct: ArrayLike, correct: ArrayLike, *, min_kept: int = MIN_KEPT
) -> OperatingPoint:
    """Return the threshold that meets `target` on these answers, with what it measures on them.

    The candidates are 0 (keep all that is known), the middle of every gap between neighbouring
    distinct values of `p_correct`, and `ESCALATE_ALL`; any other threshold keeps the same answers
    as one of these.

    - ``escalation``: the candidate whose escalation ratio is nearest to the target; of two equally
      near, the one that escalates more. Tied p_correct move together, so the ratio can miss the
      target by up to half the largest tied group; it can't go below the share of unknown p_correct.
    - ``risk``: the lowest candidate, hence the one that keeps most, that keeps at least `min_kept`
      answers of which a share of at most the target is wrong. That share is measured on the very
      answers that the choice was made on; measure again elsewhere for an honest figure.
    - ``threshold``: the value as given.

    Parameters
    ----------
    target : Target
    p_correct : array-like of shape (n,)
        In [0, 1]; NaN = unknown.
    correct : array-like of shape (n,)
        Whether each answer is right (bool or 0/1).
    min_kept : int
        Fewest kept answers on which a risk may be judged.

    Raises
    ------
    InfeasibleTarget
        When no threshold reaches the risk asked for; the message says what can be reached.
    FitError
        When the arrays are empty, of different lengths, or hold impossible values.
    """
    p, right = _validated(p_correct, correct)
    if target.kind == "threshold":
        threshold = target.value
    elif target.kind == "escalation":
        threshold = _nearest_ratio(target.value, p)
    else:
        threshold = _lowest_at_risk(target.value, p, right, min_kept)
    return measure(str(target), threshold, p, right)


def measure(
    target: str, threshold: float, p_correct: ArrayLike, correct: ArrayLike
) -> OperatingPoint:
    """Return what `threshold` does on these answers (arrays as in `choose_threshold`).

    Raises
    ------
    FitError
        When the arrays are empty, of different lengths, or hold impossible values.
    """
    p, right = _validated(p_correct, correct)
    kept = p >= threshold  # NaN compares false: unknown is never kept
    n, n_kept = len(p), int(kept.sum())
    n_wrong = int((kept & ~right).sum())
    return OperatingPoint(
        target=target,
        threshold=float(threshold),
        escalation_ratio=(n - n_kept) / n,
        accuracy_kept=(n_kept - n_wrong) / n_kept if n_kept else None,
        risk_upper=risk_upper_bound(n_wrong, n_kept) if n_kept else None,
        n_kept=n_kept,
        n=n,
    )


def candidate_thresholds(p_correct: ArrayLike) -> NDArray[np.float64]:
    """Return one threshold for every set of answers that some threshold keeps, lowest first.

    `p_correct` has shape (n,), NaN = unknown. The result starts with 0, ends with `ESCALATE_ALL`,
    and holds between them the middle of each gap between neighbouring distinct values: a p_correct
    that another machine computes a rounding error away falls on the same side.
    """
    values = np.unique(np.asarray(p_correct, dtype=np.float64))
    values = values[~np.isnan(values)]
    low, high = values[:-1], values[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle > low, middle, high)  # neighbours so close that nothing lies between
    return np.concatenate([[0.0], middle, [ESCALATE_ALL]])


def risk_upper_bound(n_wrong: int, n_kept: int, confidence: float = BOUND_CONFIDENCE) -> float:
    """Return the exact one-sided upper confidence bound on an error rate: `n_wrong` of `n_kept`.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26 (1934): the rate at which seeing `n_wrong` or fewer has probability
    1 - `confidence`. 1 when all were wrong.
    """
    if n_wrong == n_kept:
        return 1.0
    return float(betaincinv(n_wrong + 1, n_kept - n_wrong, confidence))


def binomial_interval(
    n_success: int, n: int, confidence: float = BOUND_CONFIDENCE
) -> tuple[float, float]:
    """Return the exact two-sided (Clopper-Pearson) interval of a share, `n_success` of `n` seen."""
    tail = (1.0 + confidence) / 2.0
    low = 1.0 - risk_upper_bound(n - n_success, n, tail)
    return low, risk_upper_bound(n_success, n, tail)


def _nearest_ratio(ratio: float, p: NDArray[np.float64]) -> float:
    thresholds = candidate_thresholds(p)
    distance = np.abs(1.0 - _counts_kept(thresholds, p) / len(p) - ratio)
    nearest = np.flatnonzero(distance <= distance.min() + 1e-12)
    return float(thresholds[nearest[-1]])


def _lowest_at_risk(
    risk: float, p: NDArray[np.float64], right: NDArray[np.bool_], min_kept: int
) -> float:
    thresholds = candidate_thresholds(p)
    kept = _counts_kept(thresholds, p)
    wrong = _counts_kept(thresholds, p[~right])
    enough = kept >= max(min_kept, 1)
    meets = enough & (wrong <= risk * kept + 1e-9)
    if meets.any():
        return float(thresholds[np.argmax(meets)])
    n, n_known = len(p), int(kept[0])
    if not enough.any():
        raise InfeasibleTarget(
            f"risk={risk!r} can't be judged: {n_known} of {n} answers have a known p_correct, and "
            f"at least {min_kept} must be kept to measure an error; use more records, or a target "
            "escalation=R or threshold=R"
        )
    measured = np.where(enough, wrong / np.maximum(kept, 1), np.inf)
    best = int(np.argmin(measured))
    raise InfeasibleTarget(
        f"no threshold that keeps at least {min_kept} of these {n} answers has a measured error "
        f"of at most {risk!r}; the lowest there is, {measured[best]:.3f}, is that of threshold "
        f"{thresholds[best]:.3f}, which keeps {kept[best]} ({kept[best] / n:.0%}). Ask for "
        f"risk={math.ceil(measured[best] * 1000) / 1000} or more, or for an escalation=R"
    )


def _counts_kept(thresholds: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.int64]:
    known = np.sort(p[~np.isnan(p)])
    return len(known) - np.searchsorted(known, thresholds, side="left").astype(np.int64)


def _validated(
    p_correct: ArrayLike, correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    p = np.asarray(p_correct, dtype=np.float64)
    labels = np.asarray(correct, dtype=np.float64)
    if p.ndim != 1 or p.shape != labels.shape:
        raise FitError(
            f"p_correct {p.shape} and correct {labels.shape} must both have shape (n,): one value "
            "each per answer"
        )
    if len(p) == 0:
        raise FitError("there are no answers to choose or measure a threshold on")
    if np.any((p < 0) | (p > 1)):
        worst = p[(p < 0) | (p > 1)][0]
        raise FitError(
            f"p_correct holds {float(worst)!r}; a probability is from 0 to 1, NaN if unknown"
        )
    if not np.isin(labels, (0.0, 1.0)).all():
        raise FitError("correct must hold only true and false (or 1 and 0)")
    return p, labels.astype(np.bool_)
