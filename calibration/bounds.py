"""Exact statements about an error rate from the errors counted: the binomial distribution.

All of them hold for independent questions of one population, at any number of them; nothing here
is an approximation that needs many.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, bdtrin, betainc, betaincinv, ndtri

from calibration.metrics import FloatArray

BOUND_CONFIDENCE = 0.95

MIN_KEPT = 20
"""Fewest kept answers on which a measured error counts: with 20 kept and none of them wrong, the
true error may still be 14% (one-sided 95% bound)."""

_MANY = 100_000
"""Beyond so many answers `kept_needed` is as good as infinite."""

_MANY_ERRORS = 300


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


def p_at_most(n_errors: ArrayLike, n: ArrayLike, rate: float) -> FloatArray:
    """Return P(at most `n_errors` errors among `n`) if each had probability `rate`.

    The exact p-value of "the error rate is above `rate`": at most delta with a probability of at
    most delta where that is so, and at most delta just where `risk_upper_bound` with confidence
    1 - delta is at most `rate`. Being the incomplete beta function I_{1-rate}(n - e, e + 1), it
    also takes counts that are expectations, not whole numbers. 1 where `n` is 0; 0 for rate 1,
    which nothing exceeds.

    Parameters
    ----------
    n_errors, n : array-like of shape (k,)
        0 <= n_errors <= n.
    rate : float
        In [0, 1].

    Returns
    -------
    float array of shape (k,)
    """
    errors, total = np.asarray(n_errors, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if rate >= 1.0:
        return np.zeros(errors.shape)
    some_right = total > errors
    right = np.where(some_right, total - errors, 1.0)
    return np.where(some_right, betainc(right, errors + 1.0, 1.0 - rate), 1.0)


def kept_needed(
    bound: float, rate: float, confidence: float = BOUND_CONFIDENCE, power: float = 0.8
) -> int | None:
    """Return how many answers it takes to show that an error rate is at most `bound`.

    The smallest n at which `p_at_most` is at most 1 - `confidence` with probability `power` when
    the true rate is `rate`; by the normal approximation where hundreds of errors are let through.
    None when `rate` is not below `bound`, or more than 100,000 would be needed.

    Parameters
    ----------
    bound, rate : float
        In [0, 1].
    confidence, power : float
        In (0, 1).
    """
    if rate >= bound:
        return None
    delta = 1.0 - confidence
    about = float(about_needed(bound, np.array([rate]), confidence, power)[0])
    if about > _MANY:
        return None
    # With e errors let through, n answers are the fewest that pass; the fewest have most power.
    errors = np.arange(math.ceil(2 * about * bound) + 10)
    if len(errors) > _MANY_ERRORS:
        return math.ceil(about)
    n = np.ceil(bdtrin(errors, delta, bound) - 1e-9)
    enough = bdtr(errors, n.astype(np.int64), rate) >= power
    return int(n[np.argmax(enough)]) if enough.any() else math.ceil(about)


def about_needed(
    bound: float, rates: FloatArray, confidence: float = BOUND_CONFIDENCE, power: float = 0.8
) -> FloatArray:
    """Return `kept_needed` for true `rates` (k,) by the normal approximation, quickly.

    ((z_confidence sqrt(b (1-b)) + z_power sqrt(r (1-r))) / (b - r))^2; infinite where `rates` is
    not below `bound`.
    """
    at_bound = float(ndtri(confidence)) * math.sqrt(bound * (1 - bound))
    spread = at_bound + float(ndtri(power)) * np.sqrt(rates * (1 - rates))
    gap = bound - rates
    return np.where(gap > 0, (spread / np.where(gap > 0, gap, 1.0)) ** 2, np.inf)


def least_escalation(error: float, risk: float) -> float:
    """Return the smallest share of queries that any method must escalate to keep `risk`.

    Of n answers n * `error` are wrong. A method that knew which would escalate only wrong ones, x
    of them, until (error * n - x) / (n - x) <= risk: x / n = (error - risk) / (1 - risk).

    Parameters
    ----------
    error : float
        Share of wrong answers among all that the small model gives, in [0, 1].
    risk : float
        Highest share of wrong ones among those kept, in [0, 1].
    """
    return max(0.0, (error - risk) / (1.0 - risk)) if risk < 1.0 else 0.0
