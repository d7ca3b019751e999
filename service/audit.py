"""Labels that nobody has to give: the LLM's answer tells whether the local one was right.

Where it was asked instead, its answer is there already. Of the answers that were kept, a random
share is audited: the LLM is asked too, in the background. Without those, labels would come from
escalated answers alone, the ones that looked doubtful.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from router.account import ANONYMOUS
from router.agreement import agrees
from router.answer import Answer, Decision, Query
from router.budget import Budgets, Hold, unlimited
from router.budgets.expected import Expected
from router.config import Settings
from router.errors import LedgerError, UpstreamError
from router.ledger import Label
from router.live import Live
from router.prices import Prices
from router.remote_body import RemoteAnswer
from router.tracing import span
from service.books import WHOLE, Books, local_text
from service.metrics import Metrics

logger = logging.getLogger(__name__)

CONCURRENCY = 2
"""Audits at the upstream at the same time."""

MAX_WAITING = 32
"""Audits under way or waiting; while there are so many, no further answer is drawn."""

STATE = "audits"
"""Name of the ledger's state that counts the day's audits, for all gateways together."""


@runtime_checkable
class Asks(Protocol):
    """The part of `router.remote.Upstream` that audits use."""

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer: ...


class Auditor:
    """Asks the upstream about a random share of the answers that were kept.

    Drawn are answers that the calibration was confident of, decoded as it was calibrated, fresh and
    whole, in mode ``auto``. Never one whose query is `local_only`. The draw looks at nothing else,
    so that `rate` is the probability by which estimates weight.

    Parameters
    ----------
    rate : probability in [0, 1] that such an answer is audited.
    per_day : audits a day (UTC) at most, counted in the ledger. When they are spent, answers are
        not drawn any more, and recorded as such.
    live : is told of each label, to notice when P(correct) is no longer right.
    budgets : whose limits for the whole gateway audits draw on too; none is made beyond them.
    """

    def __init__(
        self,
        books: Books,
        metrics: Metrics,
        upstream: Asks,
        *,
        rate: float,
        per_day: int,
        prices: Prices | None = None,
        live: Live | None = None,
        budgets: Budgets | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.rate = rate
        self.per_day = per_day
        self._books = books
        self._metrics = metrics
        self._upstream = upstream
        self._prices = prices or Prices()
        self._live = live
        self._budgets = budgets
        self._expected = Expected()
        self._rng = rng or random.Random()
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._spent_on: str | None = None
        self._draining = False

    def offer(self, id: str, query: Query, answer: Answer) -> float:
        """Draw whether this fresh answer is audited, and begin if so. Returns the probability."""
        if not self._may_draw(query, answer):
            return 0.0
        if self._rng.random() < self.rate:
            task = asyncio.create_task(self._audit(id, query, answer.text, answer.decision))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return self.rate

    def drain(self) -> None:
        """Give up the audits under way and begin no more."""
        self._draining = True
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Drain, and wait until nothing is under way."""
        self.drain()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Wait for the audits under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _may_draw(self, query: Query, answer: Answer) -> bool:
        decision = answer.decision
        return (
            not query.local_only
            and query.mode == "auto"
            and (decision.route, decision.reason) == ("local", "confident")
            and not decision.degraded
            and decision.calibrated_sampler
            and answer.finish_reason in WHOLE
            and self.rate > 0
            and self.per_day > 0
            and not self._draining
            and self._books.ledger is not None
            and len(self._tasks) < MAX_WAITING
            and self._spent_on != self._today()
        )

    async def _audit(self, id: str, query: Query, text: str, decision: Decision) -> None:
        with span("audit") as stage, stage.current():
            await self._ask_and_compare(id, query, text, decision)

    async def _ask_and_compare(self, id: str, query: Query, text: str, decision: Decision) -> None:
        async with self._places:
            if not await self._reserve():
                self._count("dropped")
                return
            hold = await self._money_for(query)
            if hold is None:
                self._count("dropped")
                return
            try:
                with hold:
                    remote = await self._upstream.chat(query.body)
                    cost = remote.cost_usd
                    if cost is None:
                        cost = self._prices.cost(remote.usage)
                    hold.settle(cost or None)
            except UpstreamError as error:
                logger.info("audit failed: %s", type(error).__name__)
                self._count("failed")
                return
        self._metrics.audit_cost_usd.inc(cost)
        end = remote.finish_reason
        verdict = await asyncio.to_thread(_compare, text, remote.text, end, query)
        if verdict is None:
            self._count("untold")
            return
        self._count("agrees" if verdict else "differs")
        self._books.keep(Label(id, verdict, "audit", self._books.clock(), self.rate))
        if self._live is not None:
            self._live.labelled(decision.calibration, decision.p_correct, verdict)

    async def _money_for(self, query: Query) -> Hold | None:
        """What the audit is expected to cost, at the gateway's expense; None where it is spent."""
        spending = None if self._budgets is None else self._budgets.of(ANONYMOUS)
        if spending is None:
            return unlimited()
        cost = self._prices.cost(self._expected.usage(query.body))
        return await spending.reserve(cost, forced=True)

    async def _reserve(self) -> bool:
        """Take one of the day's audits; False when none is left, or the ledger does not tell."""
        ledger, today = self._books.ledger, self._today()
        taken = False

        def take(state: dict[str, Any] | None) -> dict[str, Any]:
            nonlocal taken
            calls = state["calls"] if state is not None and state["day"] == today else 0
            taken = calls < self.per_day
            return {"day": today, "calls": calls + taken}

        try:
            if ledger is not None:
                await ledger.update_state(STATE, take)
        except LedgerError as error:
            self._books.fault("state", error)
            return False
        if not taken:
            self._spent_on = today
        return taken

    def _today(self) -> str:
        return datetime.fromtimestamp(self._books.clock(), UTC).date().isoformat()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._count("dropped")
        elif (error := task.exception()) is not None:
            logger.error("internal error in an audit", exc_info=error)
            self._count("failed")

    def _count(self, result: str) -> None:
        self._metrics.audits.labels(result).inc()


def build_auditor(
    settings: Settings,
    books: Books,
    metrics: Metrics,
    upstream: object | None,
    live: Live | None = None,
    *,
    budgets: Budgets | None = None,
) -> Auditor | None:
    """Return the auditor that `settings` ask for; None without an upstream or a ledger."""
    if books.ledger is None or not isinstance(upstream, Asks):
        return None
    return Auditor(
        books,
        metrics,
        upstream,
        rate=settings.audit_rate,
        per_day=settings.audit_per_day,
        prices=settings.dearest_prices(),
        live=live,
        budgets=budgets,
    )


def upstream_label(
    id: str, query: Query, answer: Answer, at: float
) -> Callable[[], Label | None] | None:
    """Return what labels the local answer by the LLM's, which was given instead.

    None where there is no whole local answer that was decoded as it was calibrated; and there is no
    label where it can't be told. Each escalated answer is compared, so the inclusion is 1.
    """
    decision, text = answer.decision, local_text(answer)
    if decision.route == "local" or text is None or not decision.calibrated_sampler:
        return None
    remote, end = answer.text, answer.finish_reason  # not all of the answer: its trace is large

    def label() -> Label | None:
        verdict = _compare(text, remote, end, query)
        return None if verdict is None else Label(id, verdict, "upstream", at, 1.0)

    return label


def _compare(local: str, remote: str, remote_end: str, query: Query) -> bool | None:
    """`agrees`, on the query's last question; what the LLM did not finish can't be told."""
    if remote_end != "stop":
        return None
    asked = (message.content for message in reversed(query.messages) if message.role == "user")
    return agrees(local, remote, next(asked, ""))
