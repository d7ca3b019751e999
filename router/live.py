"""What live traffic makes of a calibration: a budget that is held, drift that is noticed.

A decision reads what is known in this process and never waits for the ledger. What it adds is
written behind its back, merged with what other gateways on the same ledger have added. Without a
ledger, or while it is broken, the state in memory carries on alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from calibration.artifact import Calibration
from calibration.drift import ALPHA
from router.config import Settings
from router.errors import LedgerError
from router.ledger import Ledger
from router.live_watch import LiveReport, OnDrift, Watch
from router.pause import Pause

log = logging.getLogger("router.live")

SECONDS_BETWEEN_WRITES = 0.5
"""A transaction for each query would cost more than deciding it; one for several does as well."""


class Live:
    """Follows live traffic, calibration by calibration. Who opened the ledger closes it, later.

    Parameters
    ----------
    ledger : where the state is kept for restarts and other gateways; None for memory alone.
    control : whether budgets are held by moving the threshold.
    on_drift : what an alarm changes.
    alpha : chance that a test ever raises a false alarm, in (0, 1).
    on_fault : told of each failure of the ledger; default: it is logged.
    rng : draws the spot checks.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        control: bool = True,
        on_drift: OnDrift = "warn",
        alpha: float = ALPHA,
        on_fault: Callable[[LedgerError], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._ledger = ledger
        self._control = control
        self._on_drift: OnDrift = on_drift
        self._alpha = alpha
        self._on_fault = on_fault or _log_fault
        self._rng = rng or random.Random()
        self._watches: dict[str, Watch] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._pause = Pause(SECONDS_BETWEEN_WRITES)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        ledger: Ledger | None,
        on_fault: Callable[[LedgerError], None] | None = None,
    ) -> Live:
        """Return what `settings` ask for."""
        return cls(
            ledger,
            control=settings.control == "on",
            on_drift=settings.on_drift,
            alpha=settings.drift_alpha,
            on_fault=on_fault,
        )

    async def follow(self, calibration: Calibration | None) -> Watch | None:
        """Return the watch over traffic under `calibration`, going on where the ledger stands."""
        if calibration is None:
            return None
        if calibration.id not in self._watches:
            watch = Watch(
                calibration,
                control=self._control,
                on_drift=self._on_drift,
                alpha=self._alpha,
                rng=self._rng,
                changed=None if self._ledger is None else self._write_soon,
            )
            if self._ledger is not None:
                try:
                    await watch.read(self._ledger)
                except LedgerError as error:
                    self._on_fault(error)
            self._watches.setdefault(calibration.id, watch)
        return self._watches[calibration.id]

    def report(self, calibration: str | None) -> LiveReport | None:
        """Return where things stand under the calibration of this id; None if not followed."""
        watch = self._watches.get(calibration or "")
        return None if watch is None else watch.report()

    def drifted(self, calibration: str | None) -> bool:
        """Whether an alarm of drift stands for the calibration of this id."""
        watch = self._watches.get(calibration or "")
        return watch is not None and watch.drifted

    def labelled(self, calibration: str | None, p_correct: float | None, correct: bool) -> None:
        """Take in the label of an answer, drawn at random, that this calibration kept."""
        watch = self._watches.get(calibration or "")
        if watch is not None:
            watch.labelled(p_correct, correct)

    async def settled(self) -> None:
        """Wait until what is known so far has been written, or could not be."""
        with self._pause.hurry():
            while self._writers:
                await asyncio.gather(*self._writers.values())

    async def close(self) -> None:
        """Write what waits."""
        await self.settled()

    def _write_soon(self, watch: Watch) -> None:
        if self._ledger is not None and watch.name not in self._writers:
            self._writers[watch.name] = asyncio.create_task(self._write(watch, self._ledger))

    async def _write(self, watch: Watch, ledger: Ledger) -> None:
        try:
            while watch.behind:
                await watch.write(ledger)
                await self._pause.wait()
        except LedgerError as error:  # what waits goes with the next query's
            self._on_fault(error)
        except Exception:  # a bug: answers must not suffer from it
            log.exception("internal error while writing the live state")
        finally:
            del self._writers[watch.name]


def _log_fault(error: LedgerError) -> None:
    log.warning("the live state could not be kept: %s", error)
