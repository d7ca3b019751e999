"""How well scores rank answers, how honest probabilities are, and what routing on them does.

All functions are pure; those that draw random numbers take a seed. A score that is not a number is
an error here, never a default; only `routing_curve` accepts NaN, which there means "unknown" and is
escalated. AUROC is computed here in a few lines, equal to scikit-learn's `roc_auc_score` (a test
holds them together): that one takes 4 ms a call, which a bootstrap over ten estimators turns into
minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import FitError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def check_pairs(
    scores: ArrayLike, correct: ArrayLike, *, name: str = "uncertainty", both: bool = False
) -> tuple[FloatArray, BoolArray]:
    """Return `scores` and `correct` as arrays that can be worked with.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Finite numbers.
    correct : array-like of shape (n,)
        Booleans, or numbers that are 0 or 1.
    name : str
        What the error message calls `scores`.
    both : bool
        Whether right and wrong answers must both occur.

    Raises
    ------
    FitError
        When the shapes differ or are not one-dimensional, when there are no rows, when a score is
        NaN or infinite, when `correct` holds anything else, or, with `both`, one class only.
    """
    values, labels = _pairs(scores, correct, name)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise FitError(
            f"{len(broken)} of {len(values)} values of {name} are not finite, the first "
            f"({values[broken[0]]}) at row {broken[0]}; leave those rows out before"
        )
    if both and labels.all():
        raise FitError(f"all {len(labels)} answers are right; wrong ones are needed as well")
    if both and not labels.any():
        raise FitError(f"all {len(labels)} answers are wrong; right ones are needed as well")
    return values, labels


def auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """Area under the ROC curve of `uncertainty` against being wrong: the alignment.

    The probability that a wrong answer, drawn at random, has a higher uncertainty than a right one,
    ties counting one half (the Mann-Whitney statistic).

    Parameters
    ----------
    uncertainty : array-like of shape (n,)
        Higher = less sure.
    correct : array-like of shape (n,)
        Whether each answer is right.

    Returns
    -------
    float
        In [0, 1]: 1 = every wrong answer is less sure than every right one, 0.5 = no better than
        chance.

    Raises
    ------
    FitError
        On one class only, and on scores that are not finite (see `check_pairs`).

    Examples
    --------
    >>> auroc([0.1, 0.4, 0.35, 0.8], [True, True, False, False])
    0.75
    """
    scores, right = check_pairs(uncertainty, correct, both=True)
    good, bad = np.sort(scores[right]), scores[~right]
    below = np.searchsorted(good, bad, side="left")
    below_or_equal = np.searchsorted(good, bad, side="right")
    return float((below + below_or_equal).sum() / (2 * len(good) * len(bad)))


def bootstrap_ci(
    fn: Callable[..., float],
    *columns: ArrayLike,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``fn(*columns)``.

    Rows are drawn with replacement, n of n, without stratifying: how many of the answers are right
    is itself uncertain. A resample on which `fn` raises FitError, as `auroc` does on one with a
    single class, is drawn again.

    Parameters
    ----------
    fn : callable
        Takes resampled columns, returns a finite float.
    *columns : array-likes of shape (n,)
        Resampled together, row by row.
    n_boot : int
        Number of resamples.
    seed : int
    level : float
        Nominal coverage, in (0, 1).

    Returns
    -------
    low, high : float

    Raises
    ------
    FitError
        When `fn` can't be computed on the data itself, or on more than half of the resamples drawn.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    data = [np.asarray(column) for column in columns]
    fn(*data)  # an error of the data itself is the caller's to see
    n = len(data[0])
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(2 * n_boot):
        rows = rng.integers(n, size=n)
        try:
            values.append(float(fn(*(column[rows] for column in data))))
        except FitError:
            continue
        if len(values) == n_boot:
            break
    else:
        raise FitError(
            f"only {len(values)} of {2 * n_boot} resamples of {n} answers could be measured; "
            "an interval needs more answers of the rarer kind, right or wrong"
        )
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def ece(p_correct: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> float:
    r"""Expected calibration error over bins of equal mass.

    .. math:: \sum_b \frac{n_b}{n} \, | \bar p_b - \bar y_b |

    with the mean p_correct and the share of right answers of each bin. Row i is in bin
    ``floor(n_bins * #{j : p_j < p_i} / n)``: without ties, bins whose sizes differ by at most one;
    rows of equal p_correct share a bin, so the order of rows does not matter and a bin can be
    empty. Finite samples show an error even when calibration is perfect: read it beside
    `ece_under_calibration`.

    Parameters
    ----------
    p_correct : array-like of shape (n,)
        In [0, 1].
    correct : array-like of shape (n,)
    n_bins : int

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    FitError
        See `check_pairs`; also when a p_correct is outside [0, 1].

    References
    ----------
    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015;
    Nixon et al., "Measuring Calibration in Deep Learning", 2019, arXiv:1904.01685 (equal mass).
    """
    p, right = _check_probabilities(p_correct, correct)
    order = np.argsort(p, kind="stable")
    return float(_ece_sorted((p - right)[order], _bin_starts(p[order], n_bins)))


def ece_under_calibration(
    p_correct: ArrayLike, n_bins: int = 10, n_sim: int = 1000, seed: int = 0
) -> float:
    """Mean `ece` that these very p_correct would show if they were perfectly calibrated.

    Simulated: each answer is right with exactly its p_correct, independently, `n_sim` times. An ECE
    near this value is no evidence of miscalibration.

    Parameters
    ----------
    p_correct : array-like of shape (n,)
        In [0, 1].
    n_bins : int
    n_sim : int
    seed : int

    Returns
    -------
    float
        In [0, 1]. 0.103, 0.058, 0.032, 0.018 for p_correct spread evenly over [0, 1], ten
        bins and n = 100, 300, 1000, 3000.

    Raises
    ------
    FitError
        As `ece`.
    """
    p, _ = _check_probabilities(p_correct, np.zeros(np.shape(p_correct)))
    p = np.sort(p)
    starts = _bin_starts(p, n_bins)
    rng = np.random.default_rng(seed)
    total = sum(_ece_sorted(p - (rng.random(len(p)) < p), starts) for _ in range(n_sim))
    return float(total / n_sim)


def brier(p_correct: ArrayLike, correct: ArrayLike) -> float:
    """Brier score: mean squared difference between p_correct and the outcome, 0 or 1.

    Returns
    -------
    float
        In [0, 1], lower = better; a constant p_correct equal to the share of right answers r has
        r (1 - r).

    Raises
    ------
    FitError
        See `check_pairs`; also when a p_correct is outside [0, 1].

    References
    ----------
    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    p, right = _check_probabilities(p_correct, correct)
    return float(np.mean((p - right) ** 2))


@dataclass(frozen=True, slots=True, eq=False)
class RoutingCurve:
    """What every possible threshold does, from keeping all to keeping only the surest answers.

    All arrays have shape (m,), one entry a distinct score, are read-only, and go from the lowest
    threshold to the highest.

    Attributes
    ----------
    threshold : keep iff score >= threshold; strictly increasing.
    escalation_ratio : share of all n answers not kept; strictly increasing, in [0, 1).
    accuracy_kept : share of right answers among those kept; in [0, 1].
    n_kept : how many are kept; strictly decreasing, at least 1.
    n : number of answers, those of unknown score included.
    """

    threshold: FloatArray
    escalation_ratio: FloatArray
    accuracy_kept: FloatArray
    n_kept: IntArray
    n: int

    def __post_init__(self) -> None:
        for array in (self.threshold, self.escalation_ratio, self.accuracy_kept, self.n_kept):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.threshold)


def routing_curve(p_correct: ArrayLike, correct: ArrayLike) -> RoutingCurve:
    """Return escalation ratio and accuracy of what is kept, at each distinct score.

    Answers of equal score move together: no threshold can part them. Escalating everything is not
    a point of the curve, for nothing is kept there.

    Parameters
    ----------
    p_correct : array-like of shape (n,)
        P(correct), or any score whose higher values mean surer (minus an uncertainty). NaN =
        unknown: escalated at every threshold.
    correct : array-like of shape (n,)

    Raises
    ------
    FitError
        When the shapes don't fit, a score is infinite, `correct` is not of zeros and ones, or no
        score is known.

    Examples
    --------
    >>> curve = routing_curve([0.9, 0.8, 0.8, 0.3], [True, True, False, False])
    >>> [float(x) for x in curve.escalation_ratio]
    [0.0, 0.25, 0.75]
    >>> [round(float(x), 3) for x in curve.accuracy_kept]
    [0.5, 0.667, 1.0]
    """
    scores, right = _pairs(p_correct, correct, "p_correct")
    n = len(scores)
    known = ~np.isnan(scores)
    if not known.any():
        raise FitError(f"all {n} values of p_correct are NaN; there is nothing to keep")
    scores, right = check_pairs(scores[known], right[known], name="p_correct")
    order = np.argsort(scores, kind="stable")
    threshold, first = np.unique(scores[order], return_index=True)
    n_kept = len(scores) - first
    right_kept = np.cumsum(right[order][::-1])[::-1][first]
    return RoutingCurve(
        threshold=threshold,
        escalation_ratio=(n - n_kept) / n,
        accuracy_kept=right_kept / n_kept,
        n_kept=n_kept,
        n=n,
    )


def _pairs(scores: ArrayLike, correct: ArrayLike, name: str) -> tuple[FloatArray, BoolArray]:
    values = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(correct)
    if values.ndim != 1 or values.shape != labels.shape:
        raise FitError(
            f"{name} has shape {values.shape} and correct {labels.shape}; "
            "both must be one-dimensional and of one length"
        )
    if len(values) == 0:
        raise FitError(f"{name} is empty; there is nothing to measure or fit")
    if not np.isin(labels, (0, 1)).all():
        raise FitError("correct must hold only True and False, or 1 and 0")
    return values, labels.astype(np.bool_)


def _check_probabilities(p_correct: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, BoolArray]:
    p, right = check_pairs(p_correct, correct, name="p_correct")
    if p.min() < 0.0 or p.max() > 1.0:
        raise FitError(f"p_correct must be in [0, 1], but spans {p.min()} to {p.max()}")
    return p, right


def _bin_starts(sorted_p: FloatArray, n_bins: int) -> IntArray:
    """Index of the first row of each bin that has rows; see `ece` for which bin a row is in."""
    if n_bins < 1:
        raise FitError(f"n_bins must be at least 1, not {n_bins}")
    rank = np.searchsorted(sorted_p, sorted_p, side="left")
    return np.unique(rank * n_bins // len(sorted_p), return_index=True)[1]


def _ece_sorted(gap: FloatArray, starts: IntArray) -> float:
    """ECE from the p_correct - outcome of each row, rows in the order of `_bin_starts`."""
    return float(np.abs(np.add.reduceat(gap, starts)).sum() / len(gap))
