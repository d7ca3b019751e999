"""The gateway itself, without HTTP: cache, then one run for all who ask the same, then cache."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from calibration.errors import ArtifactError
from router.answer import Answer, Decision, Query, RemoteChunk, StreamEvent
from router.config import Settings
from router.engine.messages import EngineInfo, TextDelta
from router.errors import ConfigError
from router.live_watch import LiveReport
from router.personal_data import PersonalData
from router.privacy import Rules, read_rules
from router.reload import Reloaded
from router.tracing import span
from service import stored
from service.assemble import assemble
from service.audit import Auditor, upstream_label
from service.books import Books
from service.cache import Cache, MemoryCache, RedisCache
from service.claims import found_or_ours
from service.errors import bad_request, stopping
from service.keys import (
    UNSHARED,
    CacheUse,
    Facts,
    cache_use,
    calibration_part,
    worth_keeping,
)
from service.limits import Limits, MemoryLimits
from service.metrics import Metrics
from service.overview import Overview
from service.ports import CalibrationPort, EnginePort, PipelinePort
from service.query import wants_logprobs
from service.replies import CacheStatus, answer_usage, usage_object
from service.single_flight import SingleFlight

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and what the cache had to do with it."""

    answer: Answer
    cache: CacheStatus
    age: float | None = None
    """Seconds since an answer from the cache was kept there."""


@dataclass(frozen=True, slots=True)
class StreamHead:
    """What is known of a streamed answer before its first piece: all that the headers say."""

    decision: Decision
    cache: CacheStatus
    age: float | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """The cache had the answer, kept there `at` this time."""

    answer: Answer
    at: float


StreamItem = StreamHead | TextDelta | RemoteChunk | Served
"""A streamed answer: one StreamHead, its pieces (none when it was there already), last Served."""


class Gateway:
    """What the routes work with; lives in ``app.state.gateway`` while the application runs.

    `pipeline` has been started. Who made it, the cache and the ledger of the `books` closes them,
    after `close`. Without `books` nothing is recorded, without an `auditor` nothing is audited,
    without `rules` and `personal` a query is `local_only` only if it says so. `limits` default to
    this process's.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: PipelinePort,
        cache: Cache,
        metrics: Metrics,
        *,
        books: Books | None = None,
        auditor: Auditor | None = None,
        rules: Rules | None = None,
        personal: PersonalData | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.cache = cache
        self.metrics = metrics
        self.overview = Overview()
        self.books = Books(None, metrics) if books is None else books
        self.auditor = auditor
        self.limits = MemoryLimits() if limits is None else limits
        self._rules = rules
        self._personal = personal
        self.info: EngineInfo = pipeline.engine.info
        self.created = int(time.time())
        self.draining = False
        self._upstreams = settings.upstream_identity()
        self._flights: SingleFlight[StreamEvent | _Found] = SingleFlight()

    @property
    def engine(self) -> EnginePort:
        return self.pipeline.engine

    @property
    def calibration(self) -> CalibrationPort | None:
        return self.pipeline.calibration

    @property
    def live(self) -> LiveReport | None:
        """Where live traffic stands under the calibration in use; None where nobody looks."""
        live, calibration = self.pipeline.live, self.calibration
        return None if live is None or calibration is None else live.report(calibration.id)

    @property
    def in_flight(self) -> int:
        """How many answers are being made."""
        return len(self._flights)

    def drain(self) -> None:
        """Say on ``/readyz`` that this gateway is about to stop, and begin no further answer."""
        self.draining = True
        if self.auditor is not None:
            self.auditor.drain()

    async def reload(self) -> Reloaded:
        """Take over the calibration that is in its folder now; say so in the log.

        Raises ArtifactError when it can't be used; the old one stays in use.
        """
        reloads = self.metrics.calibration_reloads
        try:
            told = await self.pipeline.reload()
        except Exception as exc:
            reloads.labels("failed").inc()
            if isinstance(exc, ArtifactError):
                used = None if self.calibration is None else self.calibration.id
                logger.error("calibration not reloaded: %s", exc, extra={"calibration": used})
            raise
        reloads.labels("ok" if told.changed else "unchanged").inc()
        logger.info(
            "calibration reloaded" if told.changed else "calibration unchanged",
            extra={"old": told.old_id, "new": told.new_id, "warnings": told.warnings},
        )
        return told

    async def cut(self) -> None:
        """Stop what is under way; who waits for it is told that the gateway is stopping."""
        await self._flights.close()

    async def close(self) -> None:
        """Stop what is under way."""
        self.drain()
        await self.cut()
        if self.auditor is not None:
            await self.auditor.close()
        await self.books.close()

    async def private(self, query: Query) -> Query:
        """Return `query`, `local_only` where a rule finds what must not leave the machine.

        Raises ApiError when it asks for the mode ``remote`` nevertheless.
        """
        if query.local_only:
            return query
        rule = None if self._rules is None else self._rules.match(query.body)
        if rule is None and self._personal is not None:
            rule = await self._personal.match(query.body)
        if rule is None:
            return query
        if query.mode == "remote":
            message = (
                f"The rule '{rule}' keeps what this request says on this machine, so it can't be "
                "answered by the model 'remote'; use 'auto' or 'local'."
            )
            raise bad_request(message, "model", "kept_local")
        logger.info("kept local by a rule", extra={"rule": rule})
        return replace(query, local_only=True)

    def cache_use(self, query: Query, headers: Mapping[str, str]) -> CacheUse:
        """Return what `query` has to do with the cache, by what it is and by its headers."""
        if query.local_only and not self.cache.on_this_machine:
            return UNSHARED
        calibration = None if self.calibration is None else self.calibration.id
        facts = self._facts(calibration, drifted=self._drifted(calibration))
        return cache_use(query, facts, headers)

    async def purge(self, *, tenant: str | None = None, calibration: str | None = None) -> int:
        """Forget the kept answers of this tenant, by this calibration; return how many they were.

        None stands for any.
        """
        part = None if calibration is None else calibration_part(calibration)
        return await self.cache.purge(tenant=tenant, calibration=part)

    def _drifted(self, calibration: str | None) -> bool:
        return self.pipeline.live is not None and self.pipeline.live.drifted(calibration)

    def _facts(self, calibration: str | None, *, drifted: bool) -> Facts:
        if calibration is not None and drifted:  # what was decided before is not served any more
            calibration += " drifted"
        return Facts(
            model_sha256=self.info.model_sha256,
            template_sha256=self.info.template_sha256,
            n_context=self.info.n_context,
            answer_tokens=self.settings.answer_tokens,
            calibration=calibration,
            upstream=self._upstreams,
            upstream_model=self.settings.upstream_model,
        )

    async def answer(
        self, query: Query, *, use: CacheUse = UNSHARED, id: str | None = None
    ) -> Served:
        """Answer `query`, from the cache or from an identical query under way where `use` allows.

        The decision is recorded under `id`, that of the response, where feedback finds it. Raises
        RouterError, and ApiError when the gateway stops meanwhile.
        """
        async with aclosing(self._follow(query, use, id, stream=False)) as items:
            async for item in items:
                if isinstance(item, Served):
                    served = item
        await self._charge(query, served)
        return served

    def stream(
        self, query: Query, *, use: CacheUse = UNSHARED, id: str | None = None
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer `query` piece by piece. Closing the generator gives the answer up.

        Raises as `answer`; before the StreamHead nothing has been sent, after it the answer is cut.
        """
        items = self._follow(query, use, id, stream=True)
        return items if query.account.tokens_per_minute is None else self._charged(query, items)

    async def route(self, query: Query) -> Served:
        """Return the local answer and what would become of it. Neither cached nor shared."""
        if self.draining:
            raise stopping()
        answer = await self.pipeline.route(query)
        self.metrics.worked(answer)
        self.overview.worked(answer)
        served = Served(answer, "bypass")
        await self._charge(query, served)
        return served

    async def _charge(self, query: Query, served: Served) -> None:
        """Take the answer's tokens from what its account may use."""
        if query.account.tokens_per_minute is not None:
            await self.limits.charge(query.account, answer_usage(served.answer)["total_tokens"])

    async def _charged(
        self, query: Query, items: AsyncGenerator[StreamItem, None]
    ) -> AsyncGenerator[StreamItem, None]:
        """Charge for a stream; for one that is broken off, by its pieces, about a token each."""
        pieces = 0
        try:
            async for item in items:
                if isinstance(item, Served):
                    pieces = 0
                    await self._charge(query, item)
                elif not isinstance(item, StreamHead):
                    pieces += 1
                yield item
        finally:
            await items.aclose()
            await self.limits.charge(query.account, pieces)

    async def _follow(
        self, query: Query, use: CacheUse, id: str | None, *, stream: bool
    ) -> AsyncGenerator[StreamItem, None]:
        """Watch the run that answers `query`: started here, or found under way."""
        if self.draining:
            raise stopping()
        began = time.perf_counter()
        source = partial(self._run, query, use, stream=stream)
        async with self._flights.join(use.key if use.reads else None, source) as (events, leads):
            cache: CacheStatus = "miss" if use.reads else "bypass"
            headed = sent = False
            async for event in events:
                if isinstance(event, TextDelta | RemoteChunk):
                    if stream and not sent:
                        sent = True
                        self._began(event, time.perf_counter() - began)
                    yield event
                elif isinstance(event, Decision):
                    headed = True
                    yield StreamHead(event, cache)
                else:
                    served = self._serve(event, cache, began, id, leads=leads)
                    if id is not None:
                        self._record(id, query, event, fresh=leads)
                    if not headed:
                        yield StreamHead(served.answer.decision, served.cache, served.age)
                    yield served
                    return
        raise RuntimeError("the pipeline ended without an answer")

    def _began(self, piece: TextDelta | RemoteChunk, seconds: float) -> None:
        """Count how long a caller waited for a streamed answer's first piece."""
        self.overview.first_piece(seconds)
        self.metrics.first_piece("local" if isinstance(piece, TextDelta) else "remote", seconds)

    def _serve(
        self,
        event: Answer | _Found,
        cache: CacheStatus,
        began: float,
        id: str | None,
        *,
        leads: bool,
    ) -> Served:
        """Return a run's answer as one follower gets it, and count it."""
        if isinstance(event, _Found):
            age = max(0.0, time.time() - event.at)
            served = Served(_at_no_cost(event.answer, began, {}), "hit", age)
        elif leads:
            served = Served(event, cache)
        else:
            served = Served(_at_no_cost(event, began, event.timings_ms), cache)
        fresh = leads and served.cache != "hit"
        self.metrics.answered(served.answer, served.cache, fresh=fresh)
        self.overview.answered(served.answer, served.cache, fresh=fresh, id=id)
        return served

    def _record(self, id: str, query: Query, event: Answer | _Found, *, fresh: bool) -> None:
        """Have the decision recorded; of a fresh answer, find out what the LLM thinks of it."""
        if isinstance(event, _Found):
            self.books.decision(id, query, event.answer, audited=0.0)
            return
        auditor = self.auditor if fresh else None
        audited = 0.0 if auditor is None else auditor.offer(id, query, event)
        self.books.decision(id, query, event, audited)
        label = upstream_label(id, query, event, self.books.clock()) if fresh else None
        if label is not None:
            self.books.keep(label)

    async def _run(
        self, query: Query, use: CacheUse, *, stream: bool
    ) -> AsyncGenerator[StreamEvent | _Found, None]:
        """Answer `query` once, for all who follow, here and at other gateways of one cache."""
        if use.key is None or not use.reads:
            async with aclosing(self._make(query, use, stream=stream)) as events:
                async for event in events:
                    yield event
            return
        look_up = partial(self._lookup, max_age=use.max_age)
        with span("look up") as stage:
            async with found_or_ours(self.cache, use.key, look_up) as kept:
                stage.tell({"router.cache.hit": kept is not None})
                stage.end()
                if kept is not None:
                    yield _Found(*kept)
                    return
                async with aclosing(self._make(query, use, stream=stream)) as events:
                    async for event in events:
                        yield event

    async def _make(
        self, query: Query, use: CacheUse, *, stream: bool
    ) -> AsyncGenerator[StreamEvent, None]:
        """Answer `query`, and keep the answer."""
        # Before the answer is begun: one decided before an alarm is not kept as one after it.
        used = None if self.calibration is None else self.calibration.id
        drifted = self._drifted(used)
        if stream:
            chunks: list[Mapping[str, Any]] = []
            async with _closing(self.pipeline.stream(query)) as events:
                async for event in events:
                    if isinstance(event, RemoteChunk):
                        chunks.append(event.body)
                    if isinstance(event, Answer):
                        whole = _with_body(event, chunks)
                        await self._keep(query, use, whole, drifted=drifted)
                        yield whole
                    else:
                        yield event
        else:
            answer = await self.pipeline.answer(query)
            await self._keep(query, use, answer, drifted=drifted)
            yield answer

    async def _lookup(self, key: str, *, max_age: float) -> stored.Kept | None:
        value = await self.cache.get(key)
        if value is None:
            return None
        try:
            kept = stored.decode(value)
            return kept if time.time() - kept.at <= max_age else None
        except stored.CorruptValueError:
            self.metrics.cache_fault("decode")
            return None

    async def _keep(self, query: Query, use: CacheUse, answer: Answer, *, drifted: bool) -> None:
        # Before the answer is handed out: whoever asks again after it has arrived finds it.
        if use.keeps and worth_keeping(answer):
            value = stored.encode(answer, at=time.time(), keep_trace=wants_logprobs(query))
            # Another calibration may have been taken over since the request came.
            facts = self._facts(answer.decision.calibration, drifted=drifted)
            with span("keep"):
                await self.cache.put(use.key_under(facts, query), value)


def build_rules(settings: Settings) -> Rules | None:
    """Return the rules that `settings` name. Raises ConfigError when they can't be used."""
    return read_rules(Path(settings.local_only_rules)) if settings.local_only_rules else None


def build_cache(settings: Settings, metrics: Metrics) -> Cache:
    """Return the cache that `settings` ask for. Raises ConfigError for a URL Redis doesn't know."""
    if settings.redis_url is None:
        return MemoryCache(settings.cache_size, settings.cache_ttl)
    try:
        return RedisCache(settings.redis_url, settings.cache_ttl, on_fault=metrics.cache_fault)
    except ValueError as exc:
        raise ConfigError(f"`redis_url` is not an address of a Redis server: {exc}") from None


def _at_no_cost(answer: Answer, began: float, stages: Mapping[str, float]) -> Answer:
    """Return `answer` as it is for someone who did not pay for it: its cost is saved.

    `stages` are what this caller waited for in milliseconds; the total is measured from `began`.
    """
    return replace(
        answer,
        cost_usd=0.0,
        saved_usd=answer.saved_usd + answer.cost_usd,
        timings_ms={**stages, "total": (time.perf_counter() - began) * 1000},
    )


def _with_body(answer: Answer, chunks: list[Mapping[str, Any]]) -> Answer:
    """Return a streamed remote answer with the object that its chunks amount to."""
    if answer.decision.route == "local" or answer.remote_body is not None:
        return answer
    usage = {"usage": usage_object(answer.usage_remote)}  # the pipeline keeps its chunk to itself
    return replace(answer, remote_body=usage | assemble(chunks))


@asynccontextmanager
async def _closing(
    events: AsyncIterator[StreamEvent],
) -> AsyncIterator[AsyncIterator[StreamEvent]]:
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
