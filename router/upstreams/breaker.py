"""A circuit breaker: an upstream that keeps failing is left alone, then tried with one call.

::

    closed --failures--> open --cool-down over--> half-open --the probe succeeds--> closed
                          ^                            |
                          +------the probe fails-------+   twice the cool-down, up to a limit
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and for how long.

    Attributes
    ----------
    in_a_row : failures one after another that open it.
    ratio, least, window : it also opens when this share of the calls that ended in the last
        `window` seconds failed, of at least `least` calls.
    cool_down, longest : seconds until a probe at first, and at most after failed probes.
    """

    in_a_row: int = 5
    ratio: float = 0.5
    least: int = 10
    window: float = 60.0
    cool_down: float = 1.0
    longest: float = 30.0


class Ticket:
    """The right to make one call; whoever holds it says how the call ended, once.

    `release` is for calls that were given up and so tell nothing.
    """

    def __init__(self, settle: Callable[[bool | None], None]) -> None:
        self._settle: Callable[[bool | None], None] | None = settle

    def succeed(self) -> None:
        self._end(True)

    def fail(self) -> None:
        self._end(False)

    def release(self) -> None:
        self._end(None)

    def _end(self, ok: bool | None) -> None:
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(ok)


class Breaker:
    """See the module's docstring. Not for threads: one event loop uses it.

    `on_change` is called with the old and the new state at each transition.
    """

    def __init__(
        self,
        rules: BreakerRules = BreakerRules(),
        *,
        on_change: Callable[[State, State], None] = lambda _old, _new: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._on_change = on_change
        self._clock = clock
        self._state: State = "closed"
        self._era = 0  # what began before a transition does not count after it
        self._failures = 0
        self._ended: deque[tuple[float, bool]] = deque(maxlen=max(100, rules.least))
        self._cool_down = rules.cool_down
        self._opens_until = 0.0
        self._probing = False

    @property
    def state(self) -> State:
        return self._state

    @property
    def retry_in(self) -> float:
        """Seconds until a call may be made; 0 when it may now."""
        if self._state == "open":
            return max(0.0, self._opens_until - self._clock())
        return self._rules.cool_down if self._probing else 0.0

    def enter(self) -> Ticket | None:
        """Return the right to make a call; None while the upstream is left alone."""
        if self._state == "open" and self._clock() >= self._opens_until:
            self._become("half_open")
        if self._state == "open" or self._probing:
            return None
        self._probing = self._state == "half_open"
        era = self._era
        return Ticket(lambda ok: self._settle(ok, era))

    def failed(self) -> None:
        """Count a failure of a call that had been counted as a success already."""
        self._settle(False, self._era)

    def _settle(self, ok: bool | None, era: int) -> None:
        if era != self._era:
            return
        if self._state == "half_open":
            self._probing = False
            if ok is not None:
                self._judge_probe(ok)
        elif self._state == "closed" and ok is not None:
            self._failures = 0 if ok else self._failures + 1
            self._ended.append((self._clock(), ok))
            if not ok and (self._failures >= self._rules.in_a_row or self._too_many()):
                self._open(self._rules.cool_down)

    def _judge_probe(self, ok: bool) -> None:
        if ok:
            self._become("closed")
        else:
            self._open(min(2 * self._cool_down, self._rules.longest))

    def _too_many(self) -> bool:
        since = self._clock() - self._rules.window
        recent = [ok for at, ok in self._ended if at >= since]
        failed = recent.count(False)
        return len(recent) >= self._rules.least and failed >= self._rules.ratio * len(recent)

    def _open(self, cool_down: float) -> None:
        self._cool_down = cool_down
        self._opens_until = self._clock() + cool_down
        self._become("open")

    def _become(self, state: State) -> None:
        old, self._state = self._state, state
        self._era += 1
        self._failures = 0
        self._ended.clear()
        self._probing = False
        self._on_change(old, state)
