"""Budgets in USD: what may be spent is set aside before each call, and told after it.

Set aside is what a call is expected to cost, so that calls under way together never take the same
money: a limit is passed at most by what the last of them cost more than was expected. A call whose
price never came to be known (its process died, its stream was cut) counts as expected.

Between calls the limits are known from the last look, never more than about a second old while
queries come in: nothing waits for the store but a call that is to be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from router.account import ANONYMOUS, Account
from router.answer import BudgetNote, Decision
from router.budgets import (
    Asked,
    Limits,
    Purse,
    Settled,
    Sheet,
    SqliteStore,
    Store,
    nano,
    open_store,
    usd,
)
from router.budgets.line import Line, Standing
from router.budgets.pace import Pacer
from router.config import Settings
from router.errors import BudgetSpent, ConfigError, LedgerError, UpstreamError
from router.judge import Stance

__all__ = ["Budgets", "Hold", "Pacer", "Spending", "Standing", "open_budgets"]

log = logging.getLogger("router.budget")

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_FULL_LOOKS = 30.0
"""Limits that no query used are looked at less often: what is known of them must not get old, for
the case that the store fails."""

FORGET_SECONDS = 3600.0
MOST_LINES = 4096
"""Limits that one process follows."""

_INERTIA = 0.9


class Hold:
    """Money set aside for one call; a context around it.

    Left without `settle`, the call costs nothing if the upstream failed before it began to answer,
    and else what was expected.
    """

    def __init__(
        self, budgets: Budgets | None, lines: tuple[Line, ...], amount: int, *, forced: bool
    ) -> None:
        self.id = uuid.uuid4().hex
        self.amount = amount
        self.forced = forced
        self.lines = lines
        self.purses = tuple(line.purse for line in lines)
        self._budgets = budgets
        self._begun = False
        self._settled = False

    @contextlib.contextmanager
    def unless_begun(self) -> Iterator[None]:
        """Waits inside for the upstream to begin its answer. What breaks off later is paid."""
        try:
            yield
        except BaseException as error:
            self.settle(0.0 if isinstance(error, UpstreamError) else None)
            raise
        self._begun = True

    def settle(self, cost_usd: float | None) -> None:
        """Say what the call cost in the end; None: as expected. Only the first word counts."""
        if self._settled:
            return
        self._settled = True
        if self._budgets is not None:
            self._budgets.settled(self, self.amount if cost_usd is None else nano(cost_usd))

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed = isinstance(error, UpstreamError) and not self._begun
        self.settle(0.0 if failed else None)


def unlimited() -> Hold:
    """Return what holds nothing, where nothing is limited."""
    return Hold(None, (), 0, forced=True)


class Spending:
    """The limits that one query draws on; made by `Budgets.of`."""

    def __init__(self, budgets: Budgets, account: Account, lines: tuple[Line, ...]) -> None:
        self._budgets = budgets
        self._account = account
        self._lines = lines

    @property
    def spent(self) -> bool:
        """Whether a usual call would be refused, as far as is known."""
        return any(line.spent(self._budgets.guess) for line in self._lines)

    def limiting(self, stance: Stance, pacer: Pacer | None) -> Stance:
        """Return `stance` with what the money that is left asks for besides.

        Nothing moves where it is spent: what is to be escalated then is told apart as refused.
        """
        now, guess = self._budgets.clock(), self._budgets.guess
        line = self._tightest(now)
        note = self._note(line)
        if line.spent(guess):
            return dataclasses.replace(stance, budget=note, whole=True)
        at_most = None if pacer is None else pacer.threshold(line.ratio(now, guess))
        return dataclasses.replace(stance, budget=note, at_most=at_most)

    def noted(self, decision: Decision) -> Decision:
        """Return `decision` with a word on the limit that is the tightest."""
        if decision.budget is not None:
            return decision
        return dataclasses.replace(
            decision, budget=self._note(self._tightest(self._budgets.clock()))
        )

    def asked(self) -> None:
        """Count a query that a threshold decides."""
        self._budgets.asked(tuple(line.purse for line in self._lines))

    async def reserve(self, cost_usd: float, *, forced: bool) -> Hold | None:
        """Set aside what a call is expected to cost; None where a limit does not allow it.

        `forced` says that no threshold could have kept the query.
        """
        return await self._budgets.reserve(self._lines, cost_usd, forced=forced)

    def error(self) -> BudgetSpent:
        """Return what to say where there is no local answer to give instead."""
        line = self._tightest(self._budgets.clock())
        return BudgetSpent(line.purse.label, line.purse.ends)

    def _tightest(self, now: float) -> Line:
        guess = self._budgets.guess
        return min(
            self._lines, key=lambda line: (not line.spent(guess), line.ratio(now, guess), line.left)
        )

    def _note(self, line: Line) -> BudgetNote:
        # What the whole gateway has left is for its operator, or where there is nobody else.
        own = line.purse.scope == "key" or self._account == ANONYMOUS
        return BudgetNote(line.purse.label, usd(max(line.left, 0)) if own else None)


class Budgets:
    """Holds the gateway's limits and those of all accounts.

    Parameters
    ----------
    store : where it is counted; closed by `close`.
    limits : the gateway's own.
    clock : seconds since 1970.
    on_fault : told of each failure of the store. While it fails, each process goes on with an equal
        share of what was left when it was last seen, and counts it in memory.
    """

    def __init__(
        self,
        store: Store | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        *,
        clock: Callable[[], float] = time.time,
        on_fault: Callable[[LedgerError], None] | None = None,
    ) -> None:
        self.clock = clock
        self.on_fault = on_fault
        self.guess = 0.0
        """What a call costs, in billionths of a USD, by the last ones."""
        self._store = SqliteStore(None) if store is None else store
        self._limits = limits
        self._process = uuid.uuid4().hex
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._settled: list[Settled] = []
        self._asked: Counter[tuple[Purse, ...]] = Counter()
        self._adrift: set[Hold] = set()
        self._broken = False
        self._processes = 1
        self._known_at: float | None = None
        self._full_look_at = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def broken(self) -> bool:
        """Whether the store fails at present."""
        return self._broken

    def of(self, account: Account) -> Spending | None:
        """Return the limits that a query of `account` draws on; None where there is none."""
        lines = self._lines_of(account)
        return Spending(self, account, lines) if lines else None

    async def reserve(
        self, lines: tuple[Line, ...], cost_usd: float, *, forced: bool
    ) -> Hold | None:
        """Set `cost_usd` aside; None where a limit does not allow it. See `Spending.reserve`."""
        hold = Hold(self, lines, nano(cost_usd), forced=forced)
        self.guess = self.guess or float(hold.amount)
        if not self._broken:
            looks = [line.look() for line in lines]
            try:
                granted = await self._store.reserve(hold.id, looks, hold.amount)
            except LedgerError as error:
                self._fault(error)
            except asyncio.CancelledError:  # it may have been granted all the same
                hold.settle(0.0)
                raise
            else:
                self._take(lines, hold.purses, granted.sheets)
                return hold if granted.refused is None else None
        if not all(line.holds(hold.amount, self._processes, self._known_at) for line in lines):
            hold.settle(0.0)
            return None
        self._adrift.add(hold)
        for line in lines:
            line.adrift += hold.amount
        return hold

    def settled(self, hold: Hold, cost: int) -> None:
        """Have it told that the call of `hold` cost so much, in billionths of a USD."""
        if cost:
            self.guess = _INERTIA * self.guess + (1.0 - _INERTIA) * cost
        if hold in self._adrift or self._broken:
            more = cost - hold.amount if hold in self._adrift else max(cost - hold.amount, 0)
            self._adrift.discard(hold)
            for line, purse in zip(hold.lines, hold.purses, strict=True):
                if line.purse.name == purse.name:
                    line.adrift += more
        self._settled.append(Settled(hold.id, hold.purses, cost, hold.forced))
        self._work()

    def asked(self, purses: tuple[Purse, ...]) -> None:
        """Have a query counted that a threshold decides."""
        self._asked[purses] += 1

    def gateway(self) -> list[Standing]:
        """Return where the whole gateway's limits stand, as far as is known."""
        return self._standings(self._lines_of(ANONYMOUS))

    async def look(self, account: Account) -> list[Standing]:
        """Look where the limits of `account` stand, its own before the gateway's."""
        lines = self._lines_of(account)
        if lines:
            await self.sync()
        return self._standings(lines)

    async def sync(self) -> None:
        """Tell the store what happened, and look at what is in use."""
        async with self._looking:
            settled, self._settled = self._settled, []
            asked, self._asked = self._asked, Counter()
            lines = self._to_look_at()
            purses = [line.purse for line in lines]
            try:
                seen = await self._store.sync(
                    self._process,
                    settled,
                    [Asked(some, n) for some, n in asked.items()],
                    [line.look() for line in lines],
                )
            except BaseException as error:
                self._settled[:0] = settled  # told again, each counts once
                self._asked.update(asked)
                if not isinstance(error, LedgerError):
                    raise
                self._fault(error)
                return
            self._processes, self._known_at = seen.processes, self.clock()
            self._mend()
            self._take(lines, purses, seen.sheets)

    async def close(self) -> None:
        """Tell what is still to be told, and close the store."""
        self._closing.set()
        self._wake.set()
        if self._task is not None:  # not cancelled: what it is telling would have to be told again
            await self._task
        if self._settled or self._asked:
            await self.sync()
        await self._store.close()

    def _lines_of(self, account: Account) -> tuple[Line, ...]:
        now = self.clock()
        purses = self._limits.purses(account, now)
        if purses and self._task is None:
            self._task = asyncio.create_task(self._keep_looking())
        lines = []
        for purse in purses:
            line = self._lines.get(purse.line)
            if line is None:
                line = self._lines[purse.line] = Line(purse)
                self._work()  # it is not known yet
            line.turn_to(purse)
            line.used_at = now
            lines.append(line)
        return tuple(lines)

    def _to_look_at(self) -> list[Line]:
        now = self.clock()
        full = now - self._full_look_at >= SECONDS_BETWEEN_FULL_LOOKS
        if full:
            self._full_look_at = now
            self._forget(now)
        return [line for line in self._lines.values() if full or line.used_at >= line.looked_at]

    def _forget(self, now: float) -> None:
        by_age = sorted(self._lines.values(), key=lambda line: line.used_at)
        for place, line in enumerate(by_age):
            old = now - line.used_at > FORGET_SECONDS and line.purse.scope == "key"
            if (old or place < len(by_age) - MOST_LINES) and not line.adrift:
                del self._lines[line.purse.line]

    def _take(
        self, lines: Iterable[Line], purses: Iterable[Purse], sheets: Iterable[Sheet]
    ) -> None:
        now = self.clock()
        for line, purse, sheet in zip(lines, purses, sheets, strict=True):
            line.seen(purse, sheet, now)

    def _standings(self, lines: Iterable[Line]) -> list[Standing]:
        now = self.clock()
        return [line.standing(now, self.guess) for line in lines]

    def _work(self) -> None:
        self._wake.set()

    async def _keep_looking(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            woken_by = self._wake
            try:
                await self.sync()
            except Exception:  # a bug: answers must not suffer from it
                log.exception("internal error while counting budgets")
                woken_by = self._closing
            if self._broken:
                woken_by = self._closing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                    await woken_by.wait()

    def _fault(self, error: LedgerError) -> None:
        if not self._broken:
            self._broken = True
            log.warning(
                "%s. Until that works again, this gateway spends at most its share (1 of %d) of "
                "what was left, and nothing of what it does not know",
                error,
                self._processes,
            )
        if self.on_fault is not None:
            self.on_fault(error)

    def _mend(self) -> None:
        if self._broken:
            self._broken = False
            log.info("budgets are counted again")
        for line in self._lines.values():
            line.adrift = 0
        for hold in self._adrift:
            for line, purse in zip(hold.lines, hold.purses, strict=True):
                if line.purse.name == purse.name:
                    line.adrift += hold.amount


def open_budgets(settings: Settings) -> Budgets:
    """Return the budgets that `settings` ask for; nothing is opened before it is needed.

    Raises ConfigError where money is limited and the upstream has no price.
    """
    limits = Limits(settings.budget_usd_per_day, settings.budget_usd_per_month)
    priced = settings.upstream_price_in > 0 or settings.upstream_price_out > 0
    if limits != Limits() and settings.upstream is not None and not priced:
        raise ConfigError(
            "a budget needs to know what the upstream costs: set `upstream_price_in` and "
            "`upstream_price_out`, in USD per million tokens"
        )
    return Budgets(open_store(settings), limits)
