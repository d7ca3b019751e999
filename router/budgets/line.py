"""One limit through its periods: what is known of its purse, and how fast that empties."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.budgets.base import Look, Sheet
from router.budgets.limits import Purse, usd
from router.budgets.pace import Rate, allowed_ratio, cost_of_one

MEMORY = 1 / 12
"""Of a period, how far back the rate of queries looks: 2 hours of a day."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a limit stands.

    Attributes
    ----------
    limit : ``key/day``, ``gateway/month`` ...
    usd : what may be spent in the period.
    spent, reserved : by calls that have ended, and set aside for those under way, in USD.
    left : what may still be spent, in USD; 0 when a call cost more than was expected.
    ends : of the period, in seconds since 1970.
    escalation_ratio : share of queries that may be escalated if the money is to last; None where it
        lasts anyway, or nothing is known yet.
    """

    limit: str
    usd: float
    spent: float
    reserved: float
    left: float
    ends: float
    escalation_ratio: float | None


class Line:
    """All of it is this process's view; the store decides."""

    def __init__(self, purse: Purse) -> None:
        self.purse = purse
        self.sheet: Sheet | None = None
        """None before the purse was looked at."""
        self.adrift = 0
        """Spent while the store failed, which does not know of it yet."""
        self.used_at = 0.0
        self.looked_at = 0.0
        memory = (purse.ends - purse.begins) * MEMORY
        self._asked, self._forced = Rate(memory), Rate(memory)

    def turn_to(self, purse: Purse) -> None:
        """Go on with the purse of this moment, which may be another period's."""
        if purse.name != self.purse.name:
            self.sheet, self.adrift = None, 0
            self._asked.begin_anew()
            self._forced.begin_anew()
        self.purse = purse

    def look(self) -> Look:
        """Return what to ask the store."""
        return Look(self.purse, self.sheet or Sheet())

    def seen(self, purse: Purse, sheet: Sheet, now: float) -> None:
        """Take in what the store said of `purse`."""
        if purse.name == self.purse.name:
            self.sheet, self.looked_at = sheet, now
            self._asked.update(sheet.asked, now, began=purse.begins)
            self._forced.update(sheet.forced, now, began=purse.begins)

    @property
    def left(self) -> int:
        """What may still be spent, as far as is known; below 0 after calls that cost more."""
        return self.purse.limit - (self.sheet or Sheet()).taken - self.adrift

    def spent(self, guess: float) -> bool:
        """Whether less is left than a call usually costs; `guess` where none has ended."""
        return self.sheet is not None and self.left < max(self._cost(guess), 1.0)

    def holds(self, amount: int, processes: int, known_at: float | None) -> bool:
        """Whether this process may spend `amount` without the store, last heard of at `known_at`.

        Each of the processes takes an equal share of what was left. Of a purse that was not seen
        nothing may be spent, unless it is of a period that began after the store fell silent.
        """
        sheet = self.sheet
        if sheet is None:
            if known_at is None or known_at >= self.purse.begins:
                return False
            sheet = Sheet()
        return (self.purse.limit - sheet.taken) // processes - self.adrift >= amount

    def ratio(self, now: float, guess: float) -> float:
        """Return the share of queries that may be escalated; inf where nothing limits it."""
        if self.sheet is None:
            return math.inf
        return allowed_ratio(
            self.left,
            self.purse.ends - now,
            queries=self._asked.per_second,
            forced=self._forced.per_second,
            cost=self._cost(guess),
        )

    def standing(self, now: float, guess: float) -> Standing:
        """Return where it stands."""
        sheet, ratio = self.sheet or Sheet(), self.ratio(now, guess)
        return Standing(
            limit=self.purse.label,
            usd=usd(self.purse.limit),
            spent=usd(sheet.spent),
            reserved=usd(sheet.reserved + self.adrift),
            left=usd(max(self.left, 0)),
            ends=self.purse.ends,
            escalation_ratio=ratio if ratio < 1.0 else None,
        )

    def _cost(self, guess: float) -> float:
        sheet = self.sheet or Sheet()
        return cost_of_one(sheet.spent, sheet.calls, guess)
