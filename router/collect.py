"""The small model over a set of labelled questions: answers, traces, verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calibration.grading import grade
from calibration.items import Item
from calibration.records import Record, RecordLog, fingerprint
from router.engine.messages import GenerateRequest, Message
from router.errors import EngineBusy, PromptTooLong
from uq import Trace

if TYPE_CHECKING:
    from router.engine.engine import Engine

__all__ = ["Progress", "collect"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection has come.

    Attributes
    ----------
    done, total : items dealt with, of all items.
    reused : how many of them were in the log already.
    correct : how many of their answers are correct.
    tokens : tokens decoded in this run.
    too_long : ids of the items whose prompt does not fit the engine's context; they get no record.
    """

    done: int
    total: int
    reused: int
    correct: int
    tokens: int
    too_long: tuple[str, ...] = ()


async def collect(
    engine: Engine,
    items: Sequence[Item],
    log: RecordLog,
    *,
    concurrency: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Answer and grade every item, and return the records in the items' order.

    Each item is asked alone, in one user message, and answered greedily. Items that are in `log`
    are not asked again, but graded again: a mended answer key or grader takes effect. Each new
    record is in the log before the next item of its slot begins, so cancelling, or an error, loses
    only the answers in flight.

    Parameters
    ----------
    concurrency : how many items are asked at once; default: the engine's slots.
    on_progress : called once at the start, and after each item.

    Raises
    ------
    EngineError
        The engine failed at something else than too long a prompt; see `Engine.generate`.
    DataError
        The log can't be written.
    """
    run = _Collection(engine, items, log, on_progress)
    waiting = iter(run.reuse())
    run.report()

    async def work() -> None:
        for place in waiting:
            await run.ask(place)

    workers = [asyncio.create_task(work()) for _ in range(concurrency or engine.info.n_slots)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return list(run.records())


class _Collection:
    def __init__(
        self,
        engine: Engine,
        items: Sequence[Item],
        log: RecordLog,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._engine = engine
        self._items = items
        self._log = log
        self._on_progress = on_progress
        self._records: dict[int, Record] = {}
        self._too_long: list[str] = []
        self._reused = 0
        self._tokens = 0
        self._correct = 0

    def reuse(self) -> list[int]:
        """Take what the log holds; return the places of the items that are still to ask."""
        left = []
        for place, item in enumerate(self._items):
            known = self._log.find(item)
            if known is None:
                left.append(place)
                continue
            record = _record(item, known.trace)
            if record != known:
                self._log.append(record)
            self._keep(place, record)
        self._reused = len(self._records)
        return left

    async def ask(self, place: int) -> None:
        item = self._items[place]
        try:
            trace = await self._answer(item)
        except PromptTooLong:
            self._too_long.append(item.id)
        else:
            record = _record(item, trace)
            self._log.append(record)
            self._keep(place, record)
            self._tokens += len(trace)
        self.report()

    def _keep(self, place: int, record: Record) -> None:
        self._records[place] = record
        self._correct += record.correct

    async def _answer(self, item: Item) -> Trace:
        request = GenerateRequest(
            messages=(Message("user", item.prompt()),), max_tokens=item.max_tokens
        )
        while True:
            try:
                return (await self._engine.generate(request)).trace
            except EngineBusy as busy:  # others use the engine too
                await asyncio.sleep(busy.retry_after)

    def report(self) -> None:
        if self._on_progress is None:
            return
        self._on_progress(
            Progress(
                done=len(self._records) + len(self._too_long),
                total=len(self._items),
                reused=self._reused,
                correct=self._correct,
                tokens=self._tokens,
                too_long=tuple(self._too_long),
            )
        )

    def records(self) -> Iterator[Record]:
        return (self._records[place] for place in sorted(self._records))


def _record(item: Item, trace: Trace) -> Record:
    return Record(
        item_id=item.id,
        dataset=item.dataset,
        correct=grade(item, trace.text),
        trace=trace,
        family=item.family,
        asked=fingerprint(item),
    )
