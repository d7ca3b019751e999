r"""Tells whether what was calibrated still holds, at any time and however often one looks.

Two tests by betting. A test starts with a wealth of 1 and bets at each answer against "nothing
changed", on terms under which no betting can be expected to gain while that is true. The wealth is
then a test (super)martingale, and by Ville's inequality

.. math:: P(\text{wealth ever reaches } 1/\alpha \mid \text{no drift}) \le \alpha .

So there is no horizon to fix and no harm in peeking; the wealth is the evidence.

- `ScoreDrift` needs no labels: are the uncertainties of live answers distributed as the
  reference's?
- `CalibrationDrift` needs answers known to be right or wrong: is P(correct) still what it says?

Both spread their wealth over a few bets and "no bet" (`calibration.betting`), so that a drift may
begin at any time. A state is updated by one process at a time: each step rests on the one before.

References
----------
Ville, "Étude critique de la notion de collectif" (1939). Vovk et al., "Retrain or not retrain:
conformal test martingales for change-point detection", COPA 2021, arXiv 2102.10439. Waudby-Smith
and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), arXiv
2010.09686.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.betting import Evidence, Wealth, check_fields, number, numbers
from calibration.errors import CalibrationError
from calibration.metrics import BoolArray, FloatArray

IntArray = NDArray[np.int64]

ALPHA = 0.01
"""Chance that a test which runs for ever raises an alarm with no drift at all."""

BINS = 32
"""Bins of the reference's distribution."""

MIN_REFERENCE = 30
"""Fewest reference scores. The evidence against n of them can't grow without end."""

TOLERANCE = 0.05
"""Gap between P(correct) and the truth that is no drift."""

_TILTS = np.array([-3.0, -1.0, 1.0, 3.0])
"""Bets on a shift: the odds between the highest and the lowest rank are exp(tilt)."""
_HALF_LIFE = 60.0
"""Of the histogram of recent scores, which bets on any other change; in answers."""
_PRIOR = 20.0
"""Answers at which that histogram counts as much as the reference."""
_SHIFTS = np.array([0.5, 1.0, 2.0])
"""Bets on how much too high or too low the log-odds of P(correct) are."""
_MIXTURE = 6.0
"""Variance of the mixture behind the gap's interval: narrowest at some 200 labels."""


@dataclass(frozen=True, slots=True)
class ScoreDriftState:
    """What `ScoreDrift` has seen.

    Attributes
    ----------
    wealth : Wealth
    counts : live scores in each bin of the reference.
    recent : the same, where a score's weight halves every 60 answers.
    """

    wealth: Wealth
    counts: tuple[int, ...]
    recent: tuple[float, ...]

    @property
    def n(self) -> int:
        """Live scores seen."""
        return sum(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        counts, recent = list(self.counts), list(self.recent)
        return {"wealth": self.wealth.to_dict(), "counts": counts, "recent": recent}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreDriftState:
        """Rebuild a state from `to_dict`'s output.

        Raises
        ------
        CalibrationError
            When a field is missing, unknown or impossible.
        """
        check_fields(cls, data)
        counts = data["counts"]
        if not isinstance(counts, list) or not all(type(c) is int and c >= 0 for c in counts):
            raise CalibrationError(f"drift state: counts must be whole numbers, not {counts!r}")
        recent = numbers("recent", data["recent"])
        if len(recent) != len(counts) or min(recent, default=0.0) < 0.0:
            raise CalibrationError("drift state: recent must hold one weight for each bin")
        return cls(Wealth.from_dict(data["wealth"], 1 + len(_TILTS)), tuple(counts), recent)


@dataclass(frozen=True, slots=True)
class CalibrationDriftState:
    """What `CalibrationDrift` has seen: `n` labels, of which P(correct) - correct adds up to `gap`.

    `wealth` is the test's.
    """

    wealth: Wealth
    n: int
    gap: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"wealth": self.wealth.to_dict(), "n": self.n, "gap": self.gap}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CalibrationDriftState:
        """Rebuild a state from `to_dict`'s output.

        Raises
        ------
        CalibrationError
            When a field is missing, unknown or impossible.
        """
        check_fields(cls, data)
        n, gap = data["n"], number("gap", data["gap"])
        if type(n) is not int or n < abs(gap):
            raise CalibrationError(f"drift state: no {n!r} labels can leave a sum of {gap!r}")
        return cls(Wealth.from_dict(data["wealth"], 2 * len(_SHIFTS)), n, gap)


class ScoreDrift:
    r"""Label-free test that live uncertainties are exchangeable with the reference's.

    The reference is cut into bins at its own order statistics; bin b then holds g_b of the n + 1
    gaps between them. Whatever the distribution, the next score falls into bin b with probability

    .. math:: \pi_b = (g_b + c_b) / (n + 1 + \textstyle\sum c),

    given the counts c of the live ones so far (Pólya's urn: the ranks of exchangeable values are
    uniform). This is exact, for small references and long streams: the reference's own error is in
    it. Comparing with the reference's frequencies alone would take that error for drift in time.
    Equal scores are ranked by chance, as `seed` and the number of the score determine.

    Each bet pays f_b / pi_b in bin b for some distribution f chosen before: pi tilted towards low
    or high scores, mildly or strongly, and a histogram of the recent ones.

    What it sees is any change in what is asked and how surely it is answered, traffic that comes
    in runs of one kind included; whether accuracy suffers, it can't say. As the live scores
    outnumber the reference, a lasting change that stayed unseen becomes the new normal: with 1,000
    reference scores, a shift by 0.3 standard deviations is found nearly always, with 300 in two
    cases of three.

    Parameters
    ----------
    reference : array-like of shape (n,)
        Uncertainties of held-out answers, higher = less sure, n >= 30; NaN = unknown, which counts
        as the least sure.
    alpha : float
        Chance of ever raising a false alarm; in (0, 1).
    seed : int
        Of the order among equal scores.

    Raises
    ------
    CalibrationError
        When the reference is too small or not of one dimension, or alpha outside (0, 1).

    Examples
    --------
    >>> drift = ScoreDrift(np.linspace(0, 1, 200))
    >>> state = drift.start()
    >>> for uncertainty in np.linspace(0.9, 1.5, 30):
    ...     state = drift.update(state, uncertainty)
    >>> drift.alarm(state), state.n
    (True, 30)
    """

    def __init__(self, reference: ArrayLike, *, alpha: float = ALPHA, seed: int = 0) -> None:
        values = _least_sure_last(np.asarray(reference, dtype=np.float64))
        if values.ndim != 1 or len(values) < MIN_REFERENCE:
            raise CalibrationError(
                f"drift is judged against at least {MIN_REFERENCE} reference scores, in one "
                f"dimension; this has shape {values.shape}"
            )
        self.alpha = _checked_alpha(alpha)
        self._seed = seed
        n_gaps = len(values) + 1
        chances = np.array([_chance(seed, -1 - i) for i in range(len(values))])
        order = np.lexsort((chances, values))
        ranks = np.unique(np.rint(np.arange(1, BINS) * n_gaps / BINS).astype(np.int64))
        edges = order[ranks - 1]
        self._edges, self._edge_chances = values[edges], chances[edges]
        self.gaps: IntArray = np.diff(ranks, prepend=0, append=n_gaps)

    def start(self) -> ScoreDriftState:
        """Return the state before any live score."""
        n = len(self.gaps)
        return ScoreDriftState(Wealth.start(1 + len(_TILTS)), (0,) * n, (0.0,) * n)

    def update(self, state: ScoreDriftState, uncertainty: float) -> ScoreDriftState:
        """Return the state after one live score; NaN = unknown.

        Raises
        ------
        CalibrationError
            When `state` is that of another reference.
        """
        if len(state.counts) != len(self.gaps):
            raise CalibrationError(
                f"a drift state of {len(state.counts)} bins can't go on against a reference of "
                f"{len(self.gaps)}; begin again with start()"
            )
        counts, recent = np.array(state.counts, dtype=np.int64), np.array(state.recent)
        into = self.bins([uncertainty], first=state.n)
        urn = (self.gaps + counts).astype(np.float64)
        returns = _score_returns(urn[None], recent[None], into)[0]
        wealth = state.wealth.after(returns, state.n)
        counts[into] += 1
        recent = recent * 0.5 ** (1.0 / _HALF_LIFE)
        recent[into] += 1.0
        return ScoreDriftState(wealth, tuple(counts.tolist()), tuple(recent.tolist()))

    def evidence(self, state: ScoreDriftState) -> float:
        """Return the wealth: 1 = none, below = for no drift; by chance x or more once in x."""
        return state.wealth.evidence

    def alarm(self, state: ScoreDriftState) -> bool:
        """Tell whether the evidence has ever reached 1 / alpha."""
        return state.wealth.ever_reached(1.0 / self.alpha)

    def bins(self, scores: ArrayLike, *, first: int = 0) -> IntArray:
        """Return the bin of each score, shape (n,), the first being live score number `first`."""
        values = _least_sure_last(np.asarray(scores, dtype=np.float64))
        low = np.searchsorted(self._edges, values, side="left")
        high = np.searchsorted(self._edges, values, side="right")
        for i in np.flatnonzero(low < high):
            chances = self._edge_chances[low[i] : high[i]]
            low[i] += np.searchsorted(chances, _chance(self._seed, first + int(i)))
        return low.astype(np.int64)


class CalibrationDrift:
    r"""Labelled test that P(correct) is right within a tolerance: \|P(right \| p) - p\| <= t.

    Each bet names odds other than those at the tolerance's edge: for an answer of p, that it is
    right with probability m', where m = p - t and logit m' = logit m - d (too sure), or m = p + t
    and logit m' = logit m + d (not sure enough), d = 0.5, 1, 2. It pays

    .. math:: m' / m \;\text{if right}, \quad (1 - m') / (1 - m) \;\text{if wrong},

    which is at most 1 on average, whatever is true within the tolerance. Where m is outside (0, 1)
    nothing can be shown and nothing is bet.

    Feed every randomly audited answer, or every one of a kind that was chosen before its label was
    known (all escalated answers, say, whose P(correct) is then tested in that range alone). Labels
    that users volunteer are no such sample: they complain of wrong answers.

    Parameters
    ----------
    alpha : float
        Chance of ever raising a false alarm; in (0, 1).
    tolerance : float
        t; in (0, 0.5).

    Raises
    ------
    CalibrationError
        When an argument is outside its range.

    Examples
    --------
    >>> drift = CalibrationDrift()
    >>> state = drift.start()
    >>> for _ in range(10):
    ...     state = drift.update(state, 0.9, False)
    >>> drift.alarm(state), round(drift.gap(state).estimate, 2)
    (True, 0.9)
    """

    def __init__(self, *, alpha: float = ALPHA, tolerance: float = TOLERANCE) -> None:
        if not 0.0 < tolerance < 0.5:
            raise CalibrationError(f"the tolerance must lie inside (0, 0.5), not {tolerance!r}")
        self.alpha = _checked_alpha(alpha)
        self.tolerance = tolerance

    def start(self) -> CalibrationDriftState:
        """Return the state before any label."""
        return CalibrationDriftState(Wealth.start(2 * len(_SHIFTS)), 0, 0.0)

    def update(
        self, state: CalibrationDriftState, p_correct: float, correct: bool
    ) -> CalibrationDriftState:
        """Return the state after one labelled answer.

        Where `p_correct` is unknown (NaN) it claims nothing, and the state stays as it is.

        Raises
        ------
        CalibrationError
            When `p_correct` is outside [0, 1].
        """
        if math.isnan(p_correct):
            return state
        if not 0.0 <= p_correct <= 1.0:
            raise CalibrationError(f"p_correct is from 0 to 1, NaN if unknown, not {p_correct!r}")
        returns = _label_returns(np.array([p_correct]), np.array([correct]), self.tolerance)[0]
        return CalibrationDriftState(
            state.wealth.after(returns, state.n), state.n + 1, state.gap + p_correct - correct
        )

    def evidence(self, state: CalibrationDriftState) -> float:
        """Return the wealth: 1 = none, below = for no drift; by chance x or more once in x."""
        return state.wealth.evidence

    def alarm(self, state: CalibrationDriftState) -> bool:
        """Tell whether the evidence has ever reached 1 / alpha."""
        return state.wealth.ever_reached(1.0 / self.alpha)

    def gap(self, state: CalibrationDriftState) -> Gap:
        r"""Return how much too sure P(correct) was on average, with an interval.

        The interval holds at all times at once with probability 1 - alpha, for the average of
        p - P(right) over the labels so far, however it varied: with V = n / 4,

        .. math:: \pm \sqrt{(V + \rho) \log((V + \rho) / (\rho \alpha^2))} / n, \quad \rho = 6

        (Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
        Mathematical Statistics 41 (1970): the normal mixture, for increments of range 1).
        """
        if state.n == 0:
            return Gap(math.nan, -1.0, 1.0)
        spread = state.n / 4.0 + _MIXTURE
        radius = math.sqrt(spread * math.log(spread / (_MIXTURE * self.alpha**2))) / state.n
        mean = state.gap / state.n
        return Gap(mean, max(mean - radius, -1.0), min(mean + radius, 1.0))


class Gap(NamedTuple):
    """Average of P(correct) minus the share that was right; NaN without labels."""

    estimate: float
    low: float
    high: float


def log_evidence_of_bins(bins: IntArray, gaps: IntArray) -> FloatArray:
    """Return `ScoreDrift`'s log wealth after each score of many streams at once, for simulations.

    Parameters
    ----------
    bins : int array of shape (n_streams, n)
        `ScoreDrift.bins` of each stream, each against a reference of its own.
    gaps : int array of shape (n_bins,)
        `ScoreDrift.gaps`, which references of one size share.

    Returns
    -------
    float array of shape (n_streams, n)
    """
    n_streams = len(bins)
    urn = np.tile(gaps.astype(np.float64), (n_streams, 1))
    recent = np.zeros_like(urn)
    rows = np.arange(n_streams)
    evidence = Evidence(n_streams, 1 + len(_TILTS))
    for into in bins.T:
        evidence.add(_score_returns(urn, recent, into))
        urn[rows, into] += 1.0
        recent *= 0.5 ** (1.0 / _HALF_LIFE)
        recent[rows, into] += 1.0
    return evidence.path()


def log_evidence_of_labels(
    p_correct: FloatArray, correct: BoolArray, *, tolerance: float = TOLERANCE
) -> FloatArray:
    """Return `CalibrationDrift`'s log wealth after each label of many streams at once.

    `p_correct` (known) and `correct` have shape (n_streams, n), and so has the result.
    """
    evidence = Evidence(len(p_correct), 2 * len(_SHIFTS))
    for p, right in zip(p_correct.T, correct.T, strict=True):
        evidence.add(_label_returns(p, right, tolerance))
    return evidence.path()


def _score_returns(urn: FloatArray, recent: FloatArray, into: IntArray) -> FloatArray:
    """What each bet pays, shape (n, n_bets): the histogram's first, then the tilts'.

    `urn` and `recent` have shape (n, n_bins), `into` (n,).
    """
    rows = np.arange(len(into))
    null = urn / urn.sum(axis=1, keepdims=True)
    at = null[rows, into]
    seen = (recent[rows, into] + _PRIOR * at) / (recent.sum(axis=1) + _PRIOR)
    rank = np.cumsum(null, axis=1) - null / 2.0 - 0.5
    odds = np.exp(_TILTS[:, None] * rank[:, None, :])
    tilted = odds[rows, :, into] / (odds * null[:, None, :]).sum(axis=2)
    return np.concatenate([(seen / at)[:, None], tilted], axis=1)


def _label_returns(p: FloatArray, right: BoolArray, tolerance: float) -> FloatArray:
    """What each bet pays, shape (n, n_bets): "too sure" first, then "not sure enough"."""
    payments = []
    for sign in (-1.0, 1.0):
        edge = (p + sign * tolerance)[:, None]
        inside = (edge > 0.0) & (edge < 1.0)
        edge = np.where(inside, edge, 0.5)
        shifted = edge * np.exp(sign * _SHIFTS)
        named = shifted / (1.0 - edge + shifted)
        pays = np.where(right[:, None], named / edge, (1.0 - named) / (1.0 - edge))
        payments.append(np.where(inside, pays, 1.0))
    return np.concatenate(payments, axis=1)


def _chance(seed: int, n: int) -> float:
    """A number from [0, 1) drawn for score `n` (below 0: of the reference), always the same."""
    drawn = hashlib.blake2b(f"{seed} {n}".encode(), digest_size=7).digest()
    return int.from_bytes(drawn, "big") / 2.0**56


def _least_sure_last(values: FloatArray) -> FloatArray:
    return np.where(np.isnan(values), np.inf, values)


def _checked_alpha(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise CalibrationError(
            f"alpha, the chance of a false alarm, is not {alpha!r} but in (0, 1)"
        )
    return alpha
