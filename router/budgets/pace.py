"""How much may be escalated so that the money lasts: rates, and the share they leave."""

from __future__ import annotations

import math
from collections import deque

from calibration.artifact import Calibration
from calibration.controller import ControllerState, EscalationController

SETTLING_SECONDS = 60.0
"""Counted as quiet before the first look: a few queries in the first second are no rate."""

WINDOW = 500
"""Scores the threshold is read off: a budget may be worth no more than one escalation in 500."""

FEW = 5
"""Calls that the guess of what one costs counts for."""


class Rate:
    """How fast a total grows; what lies `seconds` back counts a third of what happens now.

    The total may begin anew at 0, which is no shrinking.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._grown = 0.0
        self._watched = 0.0
        self._total: float | None = None
        self._at = 0.0

    @property
    def per_second(self) -> float:
        """Growth a second; 0 before anything is known."""
        return self._grown / (self._watched + SETTLING_SECONDS)

    def update(self, total: float, now: float, *, began: float) -> None:
        """Take in the `total` at `now`, which was 0 when it `began`."""
        if self._total is None:
            # Of a process that has just started: the total is the others', or its predecessor's.
            elapsed = max(now - began, 1.0) if total else 0.0
            self._watched = min(elapsed, self._seconds)
            self._grown = total * self._watched / elapsed if elapsed else 0.0
        else:
            seconds = max(now - self._at, 0.0)
            kept = math.exp(-seconds / self._seconds)
            more = total - self._total if total >= self._total else total
            self._grown = self._grown * kept + more
            self._watched = self._watched * kept + seconds
        self._total, self._at = total, now

    def begin_anew(self) -> None:
        """Expect the next total to have grown from 0."""
        if self._total is not None:
            self._total = 0.0


def cost_of_one(spent: float, calls: int, guess: float) -> float:
    """Return what an escalation is expected to cost: the mean so far, and at first the `guess`."""
    return (spent + FEW * guess) / (calls + FEW)


def allowed_ratio(
    left: float, seconds: float, *, queries: float, forced: float, cost: float
) -> float:
    r"""Return the share of queries that may be escalated if the money is to last; inf for any.

    With what is forced set aside first,

    .. math:: r = (\text{left} - \text{forced}\,t) / (\text{queries}\,t\,\text{cost})

    Asked anew all the time, it corrects itself: spending at r leaves less for each second that is
    left, and what was saved leaves more.

    Parameters
    ----------
    left : money that is left, in any unit.
    seconds : for which it has to last, t above.
    queries : a second, that a threshold decides.
    forced : money a second that is spent whatever the threshold.
    cost : of one escalation.
    """
    demand = queries * max(seconds, 0.0) * cost
    for_choices = max(left - forced * max(seconds, 0.0), 0.0)
    return for_choices / demand if demand > 0.0 else math.inf


class Pacer:
    """The calibrated curve under live traffic: a share of escalations -> a threshold.

    It begins with the scores of the calibration's held-out answers and goes over to those of the
    last queries, one by one, so that the share is one of the queries that are really asked.
    """

    def __init__(self, calibration: Calibration) -> None:
        reference = calibration.reference
        unknown = reference.n - len(reference.p_correct)
        scores = [*reference.p_correct, *[math.nan] * unknown]
        self._curve = EscalationController(1.0, scores, window=WINDOW) if scores else None
        self._seen: deque[float] = deque(maxlen=WINDOW)

    def saw(self, p_correct: float | None) -> None:
        """Take in a query's score; None = unknown."""
        self._seen.append(math.nan if p_correct is None else p_correct)

    def threshold(self, ratio: float) -> float | None:
        """Return the threshold that escalates about this share; None where all may be."""
        if ratio >= 1.0 or self._curve is None:
            return None
        return self._curve.threshold_for(ControllerState(scores=tuple(self._seen)), ratio)
