"""Holds the share of escalated queries, or the money they cost, on traffic no one has seen.

A threshold set on a hold-out escalates the wanted share of queries only while their scores are
distributed as the hold-out's. No label is needed to do better: what was decided, and what it cost,
is known at once. `EscalationController` reads the threshold off the last scores, and corrects it
by how much was escalated too few or too many so far.

The controller is a value and its state is another; nothing here does input or output. Several
processes can share a state: a query appends its score to a list of bounded length and adds one
number to each of three counters, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.thresholds import ESCALATE_ALL

SLACK = 4.0
"""How many escalations the count may be off. Measured on scores that rank perfectly calibrated
answers (share of the wrong ones that a fixed threshold of the same ratio would have escalated and
the controller does not): slack 3: 1.0%, 4: 0.7%, 10: 0.4%, no correction at all: 0.2%. At 4 the
ratio of the 200 queries after a switch between any two of 16 data sets was off by at most 3
points."""

WINDOW = 100
"""Scores the threshold is read off: fewer make it noisy, more make it slow after a switch."""

_LEAST_SURE = -math.inf


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What the controller has seen; the default is the start, nothing seen.

    Attributes
    ----------
    scores : p_correct of the last queries, oldest first, at most `window`; NaN = unknown.
    deficit : allowance not yet spent; negative when more was spent than allowed.
    n : queries so far.
    spent : by all of them: escalations, or USD.
    """

    scores: tuple[float, ...] = ()
    deficit: float = 0.0
    n: int = 0
    spent: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an unknown score is None."""
        scores = [None if math.isnan(score) else score for score in self.scores]
        return {"scores": scores, "deficit": self.deficit, "n": self.n, "spent": self.spent}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ControllerState:
        """Rebuild a state from `to_dict`'s output.

        Raises
        ------
        CalibrationError
            When a field is missing, unknown or impossible; the message names it.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise CalibrationError(f"a controller's state has the fields {sorted(names)} alone")
        scores, n = data["scores"], data["n"]
        if not isinstance(scores, list | tuple):
            raise CalibrationError(f"controller state: scores must be a list, not {scores!r}")
        if type(n) is not int or n < 0:
            raise CalibrationError(f"controller state: n must be a count, not {n!r}")
        return cls(
            scores=tuple(_score(math.nan if score is None else score) for score in scores),
            deficit=_finite("deficit", data["deficit"]),
            n=n,
            spent=_finite("spent", data["spent"], low=0.0),
        )


class EscalationController:
    r"""Threshold on P(correct) that keeps what is spent near an allowance, whatever is asked.

    With D the deficit, R = allowance / cost and B = slack * cost, a query of score p is escalated
    iff p < threshold, where the threshold is the q-quantile of the last `window` scores (at first
    the reference's own) and

    .. math:: q = R + (1 - R)\,u^2 \;\text{if}\; D > 0, \quad R - R\,u^2 \;\text{otherwise},
              \quad u = \min(|D| / B, 1), \quad D \leftarrow D + \text{allowance} - \text{spent}

    q = 1 escalates every query and q = 0 keeps every one whose score is known. The square leaves
    the small deficits of chance alone, and meets large ones with force. Where the quantile falls
    on equal scores, all of them are escalated while D > 0 and kept otherwise.

    An unknown score (NaN) counts as the least sure, and is always escalated. What unknown ones
    spend beyond -B is forgiven, or a spell of them would keep every later answer, sure or not.
    Allowance that can't be spent lapses beyond 2 B + allowance.

    **Bound.** Let every score be known and every escalation cost exactly 1 (so B = slack and
    allowance = R). If D >= B, the query is escalated and D falls by 1 - R; if D < B, it rises by
    at most R: so D < B + R, always. If D <= -B, the query is kept and D rises by R; otherwise it
    falls by at most 1 - R: so D > -B - (1 - R). Nothing was forgiven, so N queries escalated
    N R - D, and

    .. math:: |\text{escalated share} - R| \le (B + \max(R, 1 - R)) / N .

    This rests on no distribution: queries may drift, repeat, or be chosen by an adversary. k
    decisions under way at once, taken before each other's outcome was added, widen both steps
    (k + 1)-fold. Escalations of at most c USD each: N queries spend at most N * allowance + B +
    c - allowance; less, if escalating all of them costs less. Unknown scores: add what they spent
    beyond the allowance.

    Decisions that were not the controller's (a query forced to one side, a remote that is down)
    are best not fed: it would make up for them on the other queries.

    Parameters
    ----------
    allowance : float
        What a query may cost on average: a share of queries in [0, 1], or USD >= 0. At `cost` or
        more, every query is escalated.
    reference : iterable of float
        p_correct of the calibration's held-out answers, in [0, 1]; NaN = unknown. At least one.
    cost : float
        What one escalation is expected to cost, in the allowance's unit; 1 for a share.
    slack : float
        B in escalations: within it, the threshold may be the better one; > 0.
    window : int
        How many scores the threshold is read off; >= 1.

    Raises
    ------
    CalibrationError
        When an argument is outside its range.

    References
    ----------
    Angelopoulos, Candès and Tibshirani, "Conformal PID Control for Time Series Prediction",
    arXiv 2307.16895: a quantile tracker with an integrator that saturates has a bound of this kind.

    Examples
    --------
    >>> controller = EscalationController(0.5, [0.2, 0.4, 0.6, 0.8], window=4)
    >>> state = ControllerState()
    >>> controller.threshold(state)
    0.5
    >>> for score in (0.9, 0.9, 0.9, 0.9, 0.9, 0.9):  # all alike, where the hold-out was not
    ...     state = controller.after(state, score, float(controller.escalates(state, score)))
    >>> state.n, state.spent
    (6, 3.0)
    """

    def __init__(
        self,
        allowance: float,
        reference: Iterable[float],
        *,
        cost: float = 1.0,
        slack: float = SLACK,
        window: int = WINDOW,
    ) -> None:
        self.cost = _positive("cost", cost)
        self.slack = _positive("slack", slack)
        self.allowance = _finite("allowance", allowance, low=0.0)
        if cost == 1.0 and allowance > 1.0:
            raise CalibrationError(
                f"the allowance {allowance!r} is more than all queries escalated"
            )
        if type(window) is not int or window < 1:
            raise CalibrationError(f"window must be a count of scores, at least 1, not {window!r}")
        self.window = window
        self._start = _spread(sorted(_sureness(_score(score)) for score in reference), window)

    def threshold(self, state: ControllerState) -> float:
        """Return the threshold for the next query: keep iff p_correct >= threshold.

        From 0 (keeps every known score) to `ESCALATE_ALL`.
        """
        rate = min(self.allowance / self.cost, 1.0)
        excess = state.deficit / (self.slack * self.cost)
        if excess >= 1.0 or (rate == 1.0 and excess >= 0.0):
            return ESCALATE_ALL
        if excess <= -1.0 or (rate == 0.0 and excess <= 0.0):
            return 0.0
        quantile = rate + (1.0 - rate if excess > 0.0 else -rate) * excess * excess
        return _below(self._scores(state), quantile, take_ties=excess > 0.0)

    def threshold_for(self, state: ControllerState, share: float) -> float:
        """Return the threshold below which this `share` of the last scores lies, from 0 to 1.

        Whatever the deficit. Of equal scores, rather none are below it.
        """
        return _below(self._scores(state), min(max(share, 0.0), 1.0), take_ties=False)

    def escalates(self, state: ControllerState, score: float) -> bool:
        """Tell whether the next query, of this p_correct (NaN = unknown), is to be escalated."""
        return not score >= self.threshold(state)

    def increment(self, state: ControllerState, score: float, spent: float) -> float:
        """Return what a query adds to the deficit: allowance - spent, unless that is let go.

        `state` tells only whether it is: one read a moment before serves as well.
        """
        margin = self.slack * self.cost
        before = state.deficit
        after = before + self.allowance - spent
        if math.isnan(score):
            after = max(after, min(before, -margin))
        return min(after, max(before, 2.0 * margin + self.allowance)) - before

    def after(self, state: ControllerState, score: float, spent: float) -> ControllerState:
        """Return the state after a query.

        Parameters
        ----------
        state : ControllerState
        score : float
            Its p_correct in [0, 1]; NaN = unknown.
        spent : float
            1 when it was escalated and 0 when kept; or its cost in USD, >= 0.

        Raises
        ------
        CalibrationError
            When `score` or `spent` is outside its range.
        """
        score, spent = _score(score), _finite("spent", float(spent), low=0.0)
        return ControllerState(
            scores=(*state.scores, score)[-self.window :],
            deficit=state.deficit + self.increment(state, score, spent),
            n=state.n + 1,
            spent=state.spent + spent,
        )

    def bound(self, n: int, *, in_flight: int = 0) -> float:
        """Return the largest gap between spending per query and the allowance after `n` queries.

        For escalations of the expected cost, from the start and without unknown scores; see the
        class for its proof. `in_flight` is the most decisions ever under way at once.

        Raises
        ------
        CalibrationError
            When `n` is not positive or `in_flight` negative.
        """
        if n < 1 or in_flight < 0:
            raise CalibrationError(f"no bound for n={n!r} queries with {in_flight!r} under way")
        step = max(self.allowance, self.cost - self.allowance)
        return (self.slack * self.cost + (1 + in_flight) * step) / n

    def _scores(self, state: ControllerState) -> list[float]:
        """The window, least sure first: what is left of the reference, and the live scores."""
        live = state.scores[-self.window :]
        window = np.array([*self._start[len(live) :], *live])
        window[np.isnan(window)] = _LEAST_SURE
        window.sort()
        ascending: list[float] = window.tolist()
        return ascending


def _below(scores: list[float], share: float, *, take_ties: bool) -> float:
    """The threshold below which `share` of the sorted `scores` lie."""
    n = round(share * len(scores))
    last = scores[max(n, 1) - 1]
    first_kept = scores[min(n, len(scores) - 1)]
    if first_kept == _LEAST_SURE:
        return 0.0
    if n == 0 or last == _LEAST_SURE:
        return first_kept
    if last < first_kept:
        return max(last + (first_kept - last) / 2.0, math.nextafter(last, 2.0))
    return math.nextafter(last, 2.0) if take_ties or n == len(scores) else last


def _spread(scores: list[float], window: int) -> list[float]:
    """Quantiles of the sorted `scores`, in an order of which every end is spread over all of them.

    The order is that of the reversed bits of the ranks (van der Corput's): live scores replace the
    reference's from the first on, and those left stay a sample of the whole.
    """
    if not scores:
        raise CalibrationError("the controller needs scores of the calibration to start from")
    n_bits = max((window - 1).bit_length(), 1)
    ranks = sorted(range(window), key=lambda rank: f"{rank:0{n_bits}b}"[::-1])
    return [scores[int((rank + 0.5) * len(scores) / window)] for rank in ranks]


def _sureness(score: float) -> float:
    return _LEAST_SURE if math.isnan(score) else score


def _score(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        score = float(value)
        if math.isnan(score) or 0.0 <= score <= 1.0:
            return score
    raise CalibrationError(
        f"a score of {value!r} is no P(correct): it must be a number from 0 to 1, NaN if unknown"
    )


def _finite(name: str, value: Any, *, low: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalibrationError(f"controller: {name} must be a number, not {value!r}")
    if not math.isfinite(value) or value < low:
        at_least = "" if low == -math.inf else f" and at least {low:g}"
        raise CalibrationError(f"controller: {name} must be finite{at_least}, not {value!r}")
    return float(value)


def _positive(name: str, value: float) -> float:
    number = _finite(name, value)
    if number <= 0.0:
        raise CalibrationError(f"controller: {name} must be more than 0, not {value!r}")
    return number
