"""What the device makes of a query: an answer and its scores, and the route that they ask for."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from router.answer import Decision, Query
from router.engine.engine import Engine
from router.engine.messages import (
    Completion,
    Exits,
    GenerateRequest,
    Look,
    Partial,
    SampleRequest,
    StreamPart,
)
from router.errors import EngineError, PromptTooLong, TemplateRefused
from router.judge import Judge, uncertified
from router.live_watch import Charge
from router.rule import Rule
from router.signals import gather
from router.stages import decided, generated, generation, streamed
from router.tools import is_malformed, with_calls
from router.tracing import span
from uq import Trace

log = logging.getLogger("router.device")

LOOK = Look(tokens=16, seconds=1.0)
"""When a streamed answer is committed to, unless settings say otherwise."""

_SEED = 0
"""Of the samples: the same question and answer draw the same ones, and get the same decision."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the device made of a query: an answer, or why there is none; and the route it wants.

    Attributes
    ----------
    wanted : the decision by policy and scores, as if the upstream were sure to answer.
    others : the further answers of a query that wants several.
    charge : what is to be told the price of the upstream's answer.
    """

    wanted: Decision
    completion: Completion | None = None
    others: tuple[Completion, ...] = ()
    error: EngineError | None = None
    charge: Charge | None = None

    def noted(self, rule: Rule) -> Attempt:
        """The attempt, its decision with a word on the money."""
        wanted = rule.noted(self.wanted)
        return self if wanted is self.wanted else dataclasses.replace(self, wanted=wanted)


class Device:
    """Answers queries by the engine, and decides on its answers.

    `look` is when a query in stream mode ``commit`` is decided on, `answer_tokens` how long the
    answer to one may be that says nothing of it; None leaves that to the context. Nothing here
    knows the upstream: `may_give_up` says whether somebody else may answer instead.
    """

    def __init__(self, engine: Engine, look: Look = LOOK, answer_tokens: int | None = None) -> None:
        self.engine = engine
        self._look = look
        self._answer_tokens = answer_tokens

    async def attempt(
        self, query: Query, rule: Rule, *, may_give_up: bool, counts: bool = True
    ) -> Attempt:
        """What the device can do for `query`, and where policy and scores send it.

        Live traffic is what `counts`. An engine that fails is an attempt without an answer.
        """
        judge = rule.judge
        if query.mode == "remote":
            return Attempt(judge.escalate("policy"))
        if query.needs:
            return Attempt(judge.escalate("capability"))
        exits = _exits(query, rule) if may_give_up else None
        request = self._request(query, judge, exits)
        try:
            made = await self._completions(request, query.n)
        except EngineError as error:
            return failed(judge, error)
        completion, *others = (with_calls(each, query.tools) for each in made)
        attempt = await self.seen(query, rule, request, completion, counts=counts)
        return dataclasses.replace(attempt, others=tuple(others)) if others else attempt

    def whole_request(self, query: Query, rule: Rule) -> GenerateRequest:
        """Asks for an answer that is sent as it is made, and judged when it is whole."""
        return dataclasses.replace(self._request(query, rule.judge, None), stream=True)

    def early_request(self, query: Query, rule: Rule, *, may_give_up: bool) -> GenerateRequest:
        """Asks to look at the answer early; once it is being sent, it is not given up any more."""
        exits = _exits(query, rule) if may_give_up else None
        if exits is not None:
            exits = dataclasses.replace(exits, checkpoints=())
        request = self._request(query, rule.judge, exits)
        return dataclasses.replace(request, stream=True, look=self._look)

    def looked_at(self, query: Query, rule: Rule, part: Partial) -> Attempt:
        """What becomes of an answer by its first tokens."""
        with span("decide") as stage:
            scores = rule.judge.scores(part.completion.trace)
            decision = uncertified(rule.judge.decide(query, scores, rule.stance()))
            decided(stage, decision)
        rule.saw(query, decision.p_correct)
        charge = None
        if rule.watch is not None:
            charge = rule.watch.decided(query, scores, decision, whole=False)
        if decision.reason == "uncertain":
            decision = dataclasses.replace(decision, reason="stopped")
        return Attempt(decision, part.completion, charge=charge)

    async def seen(
        self,
        query: Query,
        rule: Rule,
        request: GenerateRequest,
        completion: Completion,
        *,
        counts: bool,
    ) -> Attempt:
        """What becomes of an answer that is finished, or was given up."""
        given_up = rule.judge.given_up(completion.trace, rule.stance())
        if given_up is not None:
            if counts:
                rule.saw(query, None)
            return Attempt(given_up, completion)
        return await self.judged(query, rule, request, completion, counts=counts)

    async def judged(
        self,
        query: Query,
        rule: Rule,
        request: GenerateRequest,
        completion: Completion,
        *,
        counts: bool = True,
    ) -> Attempt:
        """What becomes of a finished answer."""
        judge, exits = rule.judge, request.exits
        completion = await self._look_closer(query, judge, request, completion)
        trace = completion.trace
        with span("decide") as stage:
            scores = judge.scores(trace)
            # Nothing is awaited from here on: each decision is by all those before it.
            usable = not is_malformed(trace, query.tools) and not _is_cut(query, trace)
            decision = judge.decide(query, scores, rule.stance(), exits=exits, usable=usable)
            decided(stage, decision)
        if request.look is not None:
            decision = uncertified(decision)
        charge = None
        if counts:
            rule.saw(query, decision.p_correct)
        if counts and rule.watch is not None:
            whole = exits is None and request.look is None
            charge = rule.watch.decided(query, scores, decision, whole=whole)
        return Attempt(decision, completion, charge=charge)

    def _request(self, query: Query, judge: Judge, exits: Exits | None) -> GenerateRequest:
        longest = self._answer_tokens if query.max_tokens is None else query.max_tokens
        return GenerateRequest(
            messages=query.messages,
            sampler=query.sampler,
            max_tokens=longest,
            stop=query.stop,
            top_logprobs=query.top_logprobs,
            hidden="hidden" in judge.signals(query),
            exits=exits,
            tenant=query.tenant,
        )

    def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        """The engine's answer as it is made."""
        return streamed(self.engine, request)

    async def _completions(self, request: GenerateRequest, n: int) -> tuple[Completion, ...]:
        with generation(self.engine, request, n) as stage:
            if n == 1:
                completions: tuple[Completion, ...] = (await self.engine.generate(request),)
            else:
                completions = await self.engine.sample(SampleRequest(request, n))
            generated(stage, *completions)
            return completions

    async def _look_closer(
        self, query: Query, judge: Judge, request: GenerateRequest, completion: Completion
    ) -> Completion:
        """Gather what the decision needs besides the answer; what fails stays unknown."""
        began, trace = time.perf_counter(), completion.trace
        try:
            with span("look closer"):
                wanted = judge.signals(query)
                trace = await gather(self.engine, request, trace, wanted, seed=_SEED)
                closer = judge.closer_signals(query, trace)
                trace = await gather(self.engine, request, trace, closer, seed=_SEED)
        except EngineError as error:
            log.warning("an answer's uncertainty could not be gathered: %s", error)
        else:
            if trace is completion.trace:  # nothing was missing
                return completion
        uq_ms = completion.timings.uq + (time.perf_counter() - began) * 1e3
        timings = dataclasses.replace(completion.timings, uq=uq_ms)
        return dataclasses.replace(completion, trace=trace, timings=timings)


def failed(judge: Judge, error: EngineError) -> Attempt:
    """The attempt that ended in `error`."""
    if isinstance(error, PromptTooLong | TemplateRefused):
        return Attempt(judge.escalate("capability"), error=error)
    return Attempt(judge.escalate("busy"), error=error)  # it can't take it now


def _exits(query: Query, rule: Rule) -> Exits | None:
    exits = rule.judge.exits(query, rule.stance())
    return None if exits is not None and rule.spot_check() else exits


def _is_cut(query: Query, trace: Trace) -> bool:
    """Whether an answer was cut short although nobody asked for that."""
    return query.max_tokens is None and trace.finish_reason == "length"
