"""The ledger, kept behind the answers' backs: nothing here delays an answer or can fail one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Literal

from router.answer import Answer, Query
from router.errors import LedgerError
from router.ledger import Decided, Label, Ledger
from router.pause import Pause
from service.metrics import Metrics

logger = logging.getLogger(__name__)

LogPrompts = Literal["off", "hash", "text"]

Entry = Decided | Label | Callable[[], Label | None]
"""What is written. A function makes its label, or finds that there is none, when its turn comes."""

CAPACITY = 4096
"""Entries that may wait; further ones are lost, and counted."""

SECONDS_TO_GATHER = 0.5
"""A transaction for several entries costs hardly more than for one."""

BATCH = 256
"""Decisions written at once."""

SETTLE_SECONDS = 2.0
SECONDS_BETWEEN_LOGS = 5.0

WHOLE = frozenset({"stop", "length"})
"""How a local answer ends that was not given up half-way."""


class Books:
    """Writes decisions and labels to `ledger`, in the order in which they came, one writer for all.

    `log_prompts` says what is kept of questions. Faults of the ledger are counted, and logged at
    most every few seconds; what could not be written is lost. Without a ledger everything is.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        metrics: Metrics,
        *,
        log_prompts: LogPrompts = "hash",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = ledger
        self.clock = clock
        self._metrics = metrics
        self._log_prompts = log_prompts
        self._waiting: asyncio.Queue[Entry] = asyncio.Queue(CAPACITY)
        self._writer: asyncio.Task[None] | None = None
        self._log_at = 0.0
        self._pause = Pause(SECONDS_TO_GATHER)

    def keep(self, *entries: Entry) -> None:
        """Have `entries` written, soon."""
        if self.ledger is None:
            return
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(self.ledger))
        for entry in entries:
            try:
                self._waiting.put_nowait(entry)
            except asyncio.QueueFull:
                self.fault("overflow", LedgerError("the ledger is too slow; entries are lost"))

    def decision(self, id: str, query: Query, answer: Answer, audited: float) -> None:
        """Have the decision behind `answer` written, under the `id` of its response."""
        if self.ledger is None:
            return
        decision = answer.decision
        private = query.local_only and not self.ledger.on_this_machine
        prompt = None if private else _prompt(query, self._log_prompts)
        self.keep(
            Decided(
                id=id,
                at=self.clock(),
                calibration=decision.calibration,
                route=decision.route,
                reason=decision.reason,
                degraded=decision.degraded,
                p_correct=decision.p_correct,
                threshold=decision.threshold,
                scores=dict(decision.uncertainty),
                text=None if private else local_text(answer),
                audited=audited,
                calibrated_sampler=decision.calibrated_sampler,
                cost_usd=answer.cost_usd,
                seconds=answer.timings_ms.get("total", 0.0) / 1e3,
                prompt=prompt,
            )
        )

    async def settled(self) -> None:
        """Wait until all that was kept so far has been written.

        Raises LedgerError when the ledger is too slow for that.
        """
        try:
            with self._pause.hurry():
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._waiting.join()
        except TimeoutError:
            raise LedgerError("the ledger is behind with what it has to write") from None

    async def close(self) -> None:
        """Write what waits, if that does not take long. Whoever opened the ledger closes it."""
        if self._writer is None:
            return
        try:
            await self.settled()
        except LedgerError as error:
            self.fault("overflow", error)
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    def fault(self, operation: str, error: LedgerError) -> None:
        """Count a fault of the ledger, and say so in the log once in a while."""
        self._metrics.ledger_errors.labels(operation).inc()
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + SECONDS_BETWEEN_LOGS
            logger.warning("ledger failed: %s", error, extra={"operation": operation})

    async def _write(self, ledger: Ledger) -> None:
        while True:
            entries = [await self._waiting.get()]
            await self._pause.wait()
            while len(entries) < BATCH and not self._waiting.empty():
                entries.append(self._waiting.get_nowait())
            try:
                await self._record(ledger, [e for e in entries if isinstance(e, Decided)])
                for entry in entries:  # a label never comes before its decision
                    if not isinstance(entry, Decided):
                        await self._label(ledger, entry)
            except Exception:  # a bug: the next entries must not suffer from it
                logger.exception("internal error while writing to the ledger")
            finally:
                for _ in entries:
                    self._waiting.task_done()

    async def _record(self, ledger: Ledger, decided: list[Decided]) -> None:
        try:
            if decided:
                await ledger.record(*decided)
        except LedgerError as error:
            self.fault("record", error)

    async def _label(self, ledger: Ledger, entry: Label | Callable[[], Label | None]) -> None:
        # In a thread: comparing two answers may take a while.
        label = entry if isinstance(entry, Label) else await asyncio.to_thread(entry)
        try:
            if label is not None and await ledger.label(label):
                self._metrics.labelled(label)
        except LedgerError as error:
            self.fault("label", error)


def _prompt(query: Query, how: LogPrompts) -> str | None:
    """What is kept of the question: nothing, a hash that equal ones share, or the conversation."""
    if how == "off":
        return None
    turns = "\n".join(f"{message.role}: {message.content}" for message in query.messages)
    if how == "text":
        return turns
    return hashlib.sha256(f"{query.tenant}\n{turns}".encode("utf-8", "replace")).hexdigest()[:16]


def local_text(answer: Answer) -> str | None:
    """Return the whole local answer, also where it was not the one given; None without one."""
    if answer.decision.route == "local":
        return answer.text
    trace = answer.trace
    return None if trace is None or trace.finish_reason not in WHOLE else trace.text
