"""How soon a process that died is started again, and when it is left alone for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

DELAYS = (0.1, 1.0, 5.0, 30.0)
"""Seconds to wait before the first, second, ... start in a row that fails; the last one repeats."""

MOST_CRASHES = 3
WINDOW = 60.0
"""So many crashes within so many seconds are no accident: starting again at once only burns CPU."""

REST = 30.0
"""Seconds the process is left alone then; after them it is tried once, as after any crash."""


class Restarts:
    """Counts crashes and failed starts of one process.

    Three crashes within a minute open the breaker: the process rests for half a minute. It closes
    once a minute holds less than that.

    Parameters
    ----------
    rest : seconds the process is left alone while the breaker is open.
    """

    def __init__(self, *, rest: float = REST, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rest = rest
        self._crashes: deque[float] = deque(maxlen=MOST_CRASHES)
        self._failures = 0
        self._next_start = 0.0

    def crashed(self) -> float:
        """Take note that it died while it ran; return the seconds to wait before a start."""
        self._crashes.append(self._clock())
        self._failures = 0
        return self._wait(self._rest if self.open else DELAYS[0])

    def failed(self) -> float:
        """Take note that it could not be started; return the seconds to wait before the next."""
        self._failures += 1
        delay = DELAYS[min(self._failures, len(DELAYS) - 1)]
        return self._wait(max(delay, self._rest) if self.open else delay)

    @property
    def open(self) -> bool:
        """Whether it crashed so often lately that it is left alone between two starts."""
        if len(self._crashes) < MOST_CRASHES:
            return False
        return self._clock() - self._crashes[0] < WINDOW

    @property
    def trouble(self) -> str:
        """What to tell people while the process does not run."""
        seconds = max(0.0, self._next_start - self._clock())
        if self.open:
            return (
                f"the engine process crashed {MOST_CRASHES} times within a minute; it is left "
                f"alone and tried again in {seconds:.0f} s (see the log for why it crashed)"
            )
        return "the engine process is not running; it is restarted by itself, try again shortly"

    def _wait(self, seconds: float) -> float:
        self._next_start = self._clock() + seconds
        return seconds
