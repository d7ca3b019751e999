"""How an upstream is doing: may it be asked, may a call be repeated, how long does it take?"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.upstreams.breaker import Breaker, BreakerRules, State, Ticket

log = logging.getLogger("router.upstreams")

Standing = Literal["closed", "half_open", "open", "resting"]
"""A breaker's state, or `resting`: the upstream asked to be left alone for a while."""

LONGEST_REST = 300.0
"""Seconds that ``Retry-After`` can ask for at most; whatever is beyond is taken for this."""

_ENOUGH = 20
_REMEMBERED = 100


class RetryBudget:
    """Allows repeats up to a share of the calls, so that a sick upstream isn't hammered.

    Each call adds `share`, each repeat takes 1; at most `reserve` is saved up, which is also there
    at the beginning.
    """

    def __init__(self, share: float = 0.2, reserve: float = 10.0) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def called(self) -> None:
        self._left = min(self._reserve, self._left + self._share)

    def take(self) -> bool:
        """Take the right to one repeat; False when there is none left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Latencies:
    """Seconds until the last answers, or their first chunks, came."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def p95(self) -> float | None:
        """The time that 95% of them stayed below; None before there are enough to tell."""
        if len(self._seconds) < _ENOUGH:
            return None
        return sorted(self._seconds)[math.ceil(0.95 * len(self._seconds)) - 1]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What an operator sees of one upstream; counts are since the start.

    `retry_in` is in seconds, 0 when it may be asked now. `transitions` counts by the new state.
    `why` is what went wrong last, in few words; empty when nothing did.
    """

    name: str
    standing: Standing
    retry_in: float
    calls: Mapping[str, int]
    transitions: Mapping[str, int]
    retries: int
    hedges: int
    fallbacks: int
    rests: int
    why: str = ""


@dataclass(slots=True)
class Counts:
    """Since the start. `calls` by how they ended: ok, failed, given_up, refused."""

    calls: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    hedges: int = 0
    fallbacks: int = 0
    rests: int = 0


class Health:
    """One upstream's breaker, rest, retry budget and latencies."""

    def __init__(
        self,
        name: str,
        *,
        rules: BreakerRules = BreakerRules(),  # noqa: B008  frozen
        budget: RetryBudget | None = None,
        longest_rest: float = LONGEST_REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.counts = Counts()
        self.answers = Latencies()
        self.first_chunks = Latencies()
        self._breaker = Breaker(rules, on_change=self._changed, clock=clock)
        self._budget = RetryBudget() if budget is None else budget
        self._longest_rest = longest_rest
        self._clock = clock
        self._rests_until = 0.0
        self._why = ""

    @property
    def standing(self) -> Standing:
        if self._resting > 0.0:
            return "resting"
        return self._breaker.state

    @property
    def retry_in(self) -> float:
        """Seconds until it may be asked; 0 when it may now."""
        return max(self._resting, self._breaker.retry_in)

    @property
    def why(self) -> str:
        """What went wrong last, in few words."""
        return self._why

    def enter(self) -> Ticket | None:
        """Return the right to make a call; None while the upstream is to be left alone."""
        ticket = None if self._resting > 0.0 else self._breaker.enter()
        if ticket is None:
            self.counts.calls["refused"] += 1
            return None

        def settle(ok: bool | None) -> None:
            self.counts.calls["given_up" if ok is None else "ok" if ok else "failed"] += 1
            (ticket.release if ok is None else ticket.succeed if ok else ticket.fail)()

        return Ticket(settle)

    def called(self) -> None:
        """A new call, not a repeat, is about to be made."""
        self._budget.called()

    def may_retry(self) -> bool:
        """Take one repeat from the budget; False when it is spent."""
        if not self._budget.take():
            return False
        self.counts.retries += 1
        return True

    def may_hedge(self) -> bool:
        """Take one hedged call from the budget; False when it is spent, or nothing may be asked."""
        if self.retry_in > 0.0 or not self._budget.take():
            return False
        self.counts.hedges += 1
        return True

    def explain(self, why: str) -> None:
        """Keep what went wrong, for messages and the log; nothing that the upstream said."""
        self._why = why

    def rest(self, seconds: float) -> None:
        """Leave the upstream alone for `seconds`, as it asked, within `longest_rest`."""
        seconds = min(seconds, self._longest_rest)
        if seconds <= self._resting:
            return
        if self._resting == 0.0:
            self.counts.rests += 1
            log.warning("the upstream %s asked for a rest of %.0f s", self.name, seconds)
        self._rests_until = self._clock() + seconds

    def broke_off(self) -> None:
        """An answer broke off after its call had been counted as a success."""
        self.counts.calls["cut"] += 1
        self._breaker.failed()

    def report(self) -> HealthReport:
        counts = self.counts
        return HealthReport(
            name=self.name,
            standing=self.standing,
            retry_in=self.retry_in,
            calls=dict(counts.calls),
            transitions=dict(counts.transitions),
            retries=counts.retries,
            hedges=counts.hedges,
            fallbacks=counts.fallbacks,
            rests=counts.rests,
            why=self._why,
        )

    @property
    def _resting(self) -> float:
        return max(0.0, self._rests_until - self._clock())

    def _changed(self, old: State, new: State) -> None:
        self.counts.transitions[new] += 1
        level = logging.WARNING if new == "open" else logging.INFO
        why = f": {self._why}" if new == "open" and self._why else ""
        log.log(level, "breaker of the upstream %s: %s -> %s%s", self.name, old, new, why)
