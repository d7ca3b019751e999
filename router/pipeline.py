"""How one query is routed: a local answer, its uncertainty, P(correct), keep or escalate."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from calibration.artifact import Calibration
from router.answer import (
    Answer,
    Choice,
    Decision,
    Need,
    Query,
    Reason,
    RemoteChunk,
    StreamEvent,
    Usage,
)
from router.binding import load_calibration
from router.budget import Budgets, Hold, Pacer, open_budgets, unlimited
from router.budgets.expected import Expected
from router.clock import Clock
from router.config import Settings
from router.device import LOOK, Attempt, Device, failed
from router.engine import engine_config, local_engine
from router.engine.engine import Engine
from router.engine.messages import Completion, Look, Partial, TextDelta
from router.engine.worker import WorkerEngine
from router.errors import (
    CapabilityError,
    EngineDown,
    EngineError,
    RouterError,
    UpstreamUnavailable,
)
from router.judge import Judge, degraded
from router.live import Live
from router.prices import FREE, Prices
from router.reload import Reloaded, reloaded
from router.remote import RemoteAnswer, is_usage_chunk
from router.rule import Rule
from router.streaming import StreamSummary, first_chunk, pieces_of
from router.upstreams.pool import LLM, UpstreamPool
from router.upstreams.stream import RemoteStream

_FORCED: frozenset[Reason] = frozenset({"policy", "capability", "busy", "uncalibrated"})
"""Why the upstream is asked where no threshold could have kept the query."""


class Pipeline:
    """Routes queries between one engine and an upstream, if there is one, or several as one.

    `start` loads the model and checks that the calibration belongs to it. `warnings` then holds
    what an operator should know (no calibration for this model, another engine build).
    With `live`, targets are held and drift is noticed; without, the calibration decides alone.
    With `budgets`, limits on what the upstream may cost are held.
    `look` is when a query in mode ``commit`` is decided on, `answer_tokens` how long a local answer
    may be where the query says nothing of it (None: as the context allows). `prices` say what a
    kept answer saves, `dearest` what the upstream's may cost at most (the same where left out).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        calibration_folder: str = "",
        upstream: LLM | None = None,
        prices: Prices = FREE,
        dearest: Prices | None = None,
        live: Live | None = None,
        look: Look = LOOK,
        answer_tokens: int | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self.engine = engine
        self.upstream = upstream
        self.live = live
        self.budgets = budgets
        self.calibration: Calibration | None = None
        self.warnings: list[str] = []
        self._rule = Rule(Judge(None))
        self._calibration_folder = calibration_folder
        self._prices = prices
        self._dearest = prices if dearest is None else dearest
        self._device = Device(engine, look, answer_tokens)
        self._expected = Expected()
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Start the engine and load the calibration.

        Raises ModelError, EngineError, and ArtifactError when the calibration folder that was asked
        for is unusable or belongs to something else.
        """
        await self.engine.start()
        try:
            self.calibration, self.warnings = load_calibration(
                self._calibration_folder, self.engine.info
            )
            self._rule = await self._rule_of(self.calibration)
        except BaseException:
            await self.close()
            raise

    async def reload(self, folder: str | None = None) -> Reloaded:
        """Take the calibration in use from its folder again, or this once from another `folder`.

        Queries under way finish by the calibration they began with. Raises ArtifactError when the
        folder is unusable or belongs to something else; the one in use stays then.
        """
        if folder is None:
            folder = self._calibration_folder
        async with self._reloading:
            fresh, warnings = await asyncio.to_thread(load_calibration, folder, self.engine.info)
            told = reloaded(self.calibration, fresh, warnings)
            if told.changed:
                rule = await self._rule_of(fresh)
                self.calibration, self._rule = fresh, rule
            self.warnings = warnings
            return told

    async def _rule_of(self, calibration: Calibration | None) -> Rule:
        watch = None if self.live is None else await self.live.follow(calibration)
        return Rule(Judge(calibration), watch, None if calibration is None else Pacer(calibration))

    def _rule_for(self, query: Query) -> Rule:
        """The rule in force, with the limits on money that apply to `query`."""
        if self.budgets is None or not self._may_leave(query):
            return self._rule
        return self._rule.with_spending(self.budgets.of(query.account))

    async def close(self) -> None:
        """Stop the engine and release the upstream's connections."""
        await self.engine.close()
        if self.live is not None:
            await self.live.close()
        if self.budgets is not None:
            await self.budgets.close()
        if self.upstream is not None:
            await self.upstream.close()

    async def answer(self, query: Query) -> Answer:
        """Answer `query`, locally or by the upstream.

        Raises
        ------
        CapabilityError, PromptTooLong
            The local model can't answer this, and there is no upstream that may.
        EngineBusy, EngineDown, EngineError
            The engine can't answer now, and there is no upstream that may.
        UpstreamUnavailable, UpstreamRejected
            The upstream failed, and there is no local answer to fall back on.
        BudgetSpent
            What the upstream may cost is spent, and there is no local answer to fall back on.
        """
        clock, rule = Clock(), self._rule_for(query)
        attempt = (await self._attempt(query, rule)).noted(rule)
        if attempt.wanted.route == "local":
            return self._local(attempt, attempt.wanted, clock)
        upstream = self._upstream_for(query, attempt)
        if upstream is None:
            return self._local(attempt, degraded(attempt.wanted, "no_upstream"), clock)
        hold = await self._hold(query, rule, attempt)
        if hold is None:
            attempt = await self._instead(query, rule, attempt, self._spent(rule, attempt))
            return self._local(attempt, degraded(attempt.wanted, "budget"), clock)
        try:
            with hold:
                with clock.remote():
                    remote = await upstream.chat(query.body)
                answer = self._remote(attempt, remote, clock)
                hold.settle(answer.cost_usd or None)
        except UpstreamUnavailable as error:
            attempt = await self._instead(query, rule, attempt, error)
            return self._local(attempt, degraded(attempt.wanted, "upstream_down"), clock)
        return answer

    async def route(self, query: Query) -> Answer:
        """The local answer and the decision it leads to, without ever asking the upstream.

        Raises as `answer` does when there is no upstream.
        """
        clock = Clock()
        asked = dataclasses.replace(query, mode="auto")
        rule = self._rule_for(asked)
        attempt = (await self._attempt(asked, rule, final=True, counts=False)).noted(rule)
        if attempt.completion is not None:
            wanted, spending = attempt.wanted, rule.spending
            if wanted.route == "remote" and spending is not None and spending.spent:
                wanted = degraded(wanted, "budget")
            return self._local(attempt, wanted, clock)
        if self._upstream_for(query, attempt) is None:
            raise EngineDown("the engine gave no answer")
        return Answer(
            text="",
            finish_reason="stop",
            decision=attempt.wanted,
            usage_local=None,
            usage_remote=None,
            cost_usd=0.0,
            saved_usd=0.0,
            timings_ms=clock.timings(None),
        )

    async def stream(self, query: Query) -> AsyncGenerator[StreamEvent, None]:
        """Answer `query` piece by piece: one Decision, then the text, then the Answer.

        The Decision comes once the route is final: with the upstream's first chunk, or the finished
        local answer; in stream mode ``commit`` after the local answer's first tokens. In mode
        ``local`` the route is final from the beginning. An answer that is sent as it is made has
        the last word on how sure the model was in the Answer's own decision. Raises as `answer`;
        an error after the Decision means that the answer was cut.
        """
        clock, rule = Clock(), self._rule_for(query)
        piecewise = not query.comes_whole and not query.needs
        if piecewise and query.mode == "local":
            events = self._stream_local(query, rule, clock)
        elif piecewise and query.stream_mode == "commit" and rule.judge.may_look_early(query):
            events = self._stream_early(query, rule, clock)
        else:
            attempt = await self._attempt(query, rule)
            events = self._stream_attempt(query, rule, attempt, clock)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _stream_attempt(
        self, query: Query, rule: Rule, attempt: Attempt, clock: Clock
    ) -> AsyncGenerator[StreamEvent, None]:
        """What the attempt leads to: the upstream's answer as it comes, or its own."""
        upstream = hold = None
        attempt = attempt.noted(rule)
        decision = attempt.wanted
        if decision.route == "remote":
            upstream = self._upstream_for(query, attempt)
            if upstream is None:
                decision = degraded(decision, "no_upstream")
        if upstream is not None:
            hold = await self._hold(query, rule, attempt)
            if hold is None:
                attempt = await self._instead(query, rule, attempt, self._spent(rule, attempt))
                decision = degraded(attempt.wanted, "budget")
        if upstream is not None and hold is not None:
            async with contextlib.aclosing(upstream.stream(query.body)) as chunks:
                try:
                    with hold.unless_begun(), clock.remote():
                        first = await first_chunk(chunks)
                except UpstreamUnavailable as error:
                    attempt = await self._instead(query, rule, attempt, error)
                    decision = degraded(attempt.wanted, "upstream_down")
                else:
                    with hold:
                        async for event in self._pass_on(attempt, first, chunks, clock):
                            if isinstance(event, Answer):
                                hold.settle(event.cost_usd or None)
                            yield event
                    return
        yield decision
        for piece in pieces_of(attempt.completion) if not query.comes_whole else ():
            yield TextDelta(piece)
        yield self._local(attempt, decision, clock)

    async def _stream_early(
        self, query: Query, rule: Rule, clock: Clock
    ) -> AsyncGenerator[StreamEvent, None]:
        """A local answer that is decided on after its first tokens, and then sent as it is made."""
        request = self._device.early_request(query, rule, may_give_up=self._may_leave(query))
        held: list[TextDelta] = []
        begun = False
        attempt = None
        try:
            async with contextlib.aclosing(self._device.stream(request)) as parts:
                async for part in parts:
                    if isinstance(part, TextDelta):
                        if begun:
                            yield part
                        else:
                            held.append(part)
                        continue
                    if isinstance(part, Completion):
                        attempt = await self._device.seen(
                            query, rule, request, part, counts=not begun
                        )
                        break
                    attempt = self._device.looked_at(query, rule, part)
                    decision = self._kept(attempt.wanted)
                    if self._may_leave(query) and decision.degraded:
                        break
                    begun = True
                    yield decision
                    for piece in held:
                        yield piece
                    attempt = None  # the last word is the whole answer's
        except EngineError as error:
            if begun:
                raise
            attempt = failed(rule.judge, error)
        if attempt is None:
            raise EngineDown("the engine ended an answer without completing it")
        if begun:
            yield self._local(attempt, self._kept(attempt.wanted), clock)
            return
        async with contextlib.aclosing(self._stream_attempt(query, rule, attempt, clock)) as events:
            async for event in events:
                yield event

    def _kept(self, wanted: Decision) -> Decision:
        """The decision on a local answer that is sent although `wanted` may be to escalate."""
        if wanted.route == "local":
            return wanted
        return degraded(wanted, "no_upstream" if self.upstream is None else wanted.reason)

    async def _stream_local(
        self, query: Query, rule: Rule, clock: Clock
    ) -> AsyncGenerator[StreamEvent, None]:
        """A local answer piece by piece, judged when it is whole."""
        request = self._device.whole_request(query, rule)
        begun = False
        async with contextlib.aclosing(self._device.stream(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    if not begun:
                        begun = True
                        yield rule.judge.by_policy(query)
                    yield event
                    continue
                if isinstance(event, Partial):
                    continue
                attempt = await self._device.judged(query, rule, request, event)
                if not begun:
                    yield attempt.wanted
                yield self._local(attempt, attempt.wanted, clock)
                return
        raise EngineDown("the engine ended an answer without completing it")

    async def _attempt(
        self, query: Query, rule: Rule, *, final: bool = False, counts: bool = True
    ) -> Attempt:
        """The device's attempt; a `final` answer is never given up."""
        may_give_up = not final and self._may_leave(query)
        return await self._device.attempt(query, rule, may_give_up=may_give_up, counts=counts)

    async def _instead(
        self, query: Query, rule: Rule, attempt: Attempt, error: RouterError
    ) -> Attempt:
        """The attempt whose local answer stands in for the upstream's, not to be had by `error`.

        An answer that was given up is made whole. Raises `error` when there is no local answer.
        """
        seen = attempt.completion
        if seen is not None and rule.judge.given_up(seen.trace) is not None:
            attempt = (await self._attempt(query, rule, final=True, counts=False)).noted(rule)
        if attempt.completion is None:
            raise error
        return attempt

    async def _hold(self, query: Query, rule: Rule, attempt: Attempt) -> Hold | None:
        """Money for the upstream's answer; None where a limit does not allow it."""
        if rule.spending is None:
            return unlimited()
        wanted = attempt.wanted
        forced = wanted.reason in _FORCED or (
            wanted.p_correct is None and wanted.reason == "uncertain"
        )
        cost = self._dearest.cost(self._expected.usage(query.body))
        return await rule.spending.reserve(cost, forced=forced)

    def _spent(self, rule: Rule, attempt: Attempt) -> RouterError:
        """What to say where the money is spent and there is no local answer."""
        if rule.spending is None or attempt.wanted.reason == "busy":
            return attempt.error or EngineDown("the engine gave no answer")
        return rule.spending.error()

    def _upstream_for(self, query: Query, attempt: Attempt) -> LLM | None:
        """The upstream, if there is one and the query may leave the machine.

        Without it and without a local answer there is nothing to return: raises what stands in the
        way.
        """
        if self._may_leave(query):
            return self.upstream
        if attempt.completion is not None:
            return None
        if attempt.error is not None:
            raise attempt.error
        need = query.needs[0] if query.needs else Need("model", "the remote model")
        raise CapabilityError(need.param, need.what, self._why_no_upstream(query))

    def _may_leave(self, query: Query) -> bool:
        """Whether there is an upstream that may see the query."""
        return self.upstream is not None and not query.local_only and query.mode != "local"

    def _why_no_upstream(self, query: Query) -> str:
        if self.upstream is None:
            return "no upstream is configured; set `upstream` or leave it out"
        return f"{'local_only' if query.local_only else 'the mode `local`'} rules the upstream out"

    async def _pass_on(
        self,
        attempt: Attempt,
        first: dict[str, Any],
        rest: RemoteStream,
        clock: Clock,
    ) -> AsyncIterator[StreamEvent]:
        yield attempt.wanted
        summary = StreamSummary()
        with clock.remote():
            chunk: dict[str, Any] | None = first
            while chunk is not None:
                summary.add(chunk)
                if not is_usage_chunk(chunk):
                    yield RemoteChunk(chunk)
                chunk = await anext(rest, None)
        remote = RemoteAnswer(
            body={},
            text=summary.text,
            finish_reason=summary.finish_reason,
            usage=summary.usage,
            upstream=rest.upstream,
            cost_usd=rest.cost(summary.usage),
        )
        answer = self._remote(attempt, remote, clock)
        yield dataclasses.replace(answer, remote_body=None)

    def _local(self, attempt: Attempt, decision: Decision, clock: Clock) -> Answer:
        completion = attempt.completion
        if completion is None:
            raise EngineDown("the engine gave no answer")
        trace = completion.trace
        usage = Usage.of(completion, *attempt.others)
        kept = decision.route == "local"
        if attempt.charge is not None:
            attempt.charge.settle(0.0)
        return Answer(
            text=trace.text,
            finish_reason=trace.finish_reason,
            decision=decision,
            usage_local=usage,
            usage_remote=None,
            cost_usd=0.0,
            saved_usd=self._prices.cost(usage) if kept and not decision.degraded else 0.0,
            timings_ms=clock.timings(completion),
            trace=trace,
            pieces=completion.pieces,
            top_pieces=completion.top_pieces,
            others=tuple(map(Choice.of, attempt.others)),
        )

    def _remote(self, attempt: Attempt, remote: RemoteAnswer, clock: Clock) -> Answer:
        completion = attempt.completion
        local = Usage.of(completion, *attempt.others) if completion else None
        cost_usd = remote.cost_usd
        if cost_usd is None:
            cost_usd = self._prices.cost(remote.usage) if remote.usage else 0.0
        if remote.usage and remote.usage.completion_tokens:
            self._expected.learn(remote.usage)
        if attempt.charge is not None and cost_usd > 0.0:  # else the price is not known
            attempt.charge.settle(cost_usd)
        return Answer(
            text=remote.text,
            finish_reason=remote.finish_reason,
            decision=attempt.wanted,
            usage_local=local,
            usage_remote=remote.usage,
            cost_usd=cost_usd,
            saved_usd=0.0,
            timings_ms=clock.timings(completion),
            trace=completion.trace if completion else None,
            remote_body=remote.body,
            upstream=remote.upstream,
        )


def build_pipeline(
    settings: Settings, *, engine: Engine | None = None, live: Live | None = None
) -> Pipeline:
    """The pipeline that `settings` describe, nothing started yet.

    The engine runs in a child process unless one is given. Without `live` the calibration decides
    alone. Raises ModelError when the model can't
    be found or fetched.
    """
    if engine is None:
        engine = WorkerEngine(engine_config(settings))
    return Pipeline(
        engine,
        calibration_folder=settings.calibration,
        upstream=UpstreamPool.from_settings(settings),
        prices=settings.upstream_prices(),
        dearest=settings.dearest_prices(),
        live=live,
        budgets=open_budgets(settings),
        look=Look(settings.commit_tokens, settings.commit_ms / 1e3),
        answer_tokens=settings.answer_tokens or None,
    )


@contextlib.asynccontextmanager
async def open_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """A started pipeline whose engine lives in this process; closed on leaving."""
    pipeline = build_pipeline(settings, engine=local_engine(settings))
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.close()
