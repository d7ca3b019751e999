"""The engine in this process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TypeVar

from router.engine.chat import ChatTemplate
from router.engine.context import Context, KVTypes
from router.engine.gguf import read_header
from router.engine.job import Event, Sink
from router.engine.llama import Model, build_version, devices, supports_offload
from router.engine.messages import (
    Completion,
    EngineConfig,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    Message,
    SampleRequest,
    ScoreRequest,
    Scores,
    TextDelta,
    default_hidden_layers,
)
from router.engine.offload import Placement, explained, load_options, place
from router.engine.scheduler import PREFILL_CHUNK, Scheduler
from router.engine.tap import Tap
from router.engine.threads import usable_cores
from router.errors import ContinuationTooLong, EngineDown, EngineError, PromptTooLong
from router.models import file_sha256

__all__ = ["LocalEngine", "load_model", "usable_cores"]

log = logging.getLogger("router.engine.local")


class LocalEngine:
    """The engine in this process: model, context and scheduler thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._parts: _Parts | None = None

    @property
    def info(self) -> EngineInfo:
        return self._loaded.info

    @property
    def alive(self) -> bool:
        return self._parts is not None and self._parts.scheduler.alive

    @property
    def _loaded(self) -> _Parts:
        if self._parts is None:
            raise EngineDown("the engine is not running")
        return self._parts

    async def start(self) -> None:
        self._parts = await asyncio.to_thread(_Parts, self._config)

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await asyncio.to_thread(parts.close)

    async def generate(self, request: GenerateRequest) -> Completion:
        async with contextlib.aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Completion):
                    return event
        raise EngineDown("the engine ended an answer without completing it")

    async def stream(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TextDelta | Completion, None]:
        parts = self._loaded
        prompt = parts.prompt(request.messages)
        events, sink = _mailbox()
        job = parts.scheduler.submit(request, prompt, sink)
        try:
            while True:
                event = await events.get()
                if isinstance(event, EngineError):
                    raise event
                if isinstance(event, Scores):
                    raise EngineError("scores came where an answer was asked for")
                yield event
                if isinstance(event, Completion):
                    return
        finally:
            parts.scheduler.cancel(job)

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        parts = self._loaded
        prompt = parts.prompt(request.request.messages)
        events, sinks = zip(*(_mailbox() for _ in range(request.n)), strict=True)
        jobs = parts.scheduler.submit_samples(_independent(request), prompt, sinks)
        try:
            return tuple([await _last(each, Completion) for each in events])
        finally:
            for job in jobs:
                parts.scheduler.cancel(job)

    async def score(self, request: ScoreRequest) -> Scores:
        parts = self._loaded
        prompt = parts.prompt(request.messages)
        continuations = parts.continuations(request.continuations)
        parts.check_room(prompt, continuations)
        events, sink = _mailbox()
        job = parts.scheduler.submit_score(prompt, continuations, sink)
        try:
            return await _last(events, Scores)
        finally:
            parts.scheduler.cancel(job)

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return len(self._loaded.template.tokens(messages))

    async def stats(self) -> EngineStats:
        return self._loaded.scheduler.stats()


def _mailbox() -> tuple[asyncio.Queue[Event], Sink]:
    """A queue of this event loop, and what the engine's thread fills it with."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def sink(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who listened
            loop.call_soon_threadsafe(events.put_nowait, event)

    return events, sink


E = TypeVar("E", Completion, Scores)


async def _last(events: asyncio.Queue[Event], kind: type[E]) -> E:
    """The event of this kind, which ends what was asked. Raises what ends it otherwise."""
    while True:
        event = await events.get()
        if isinstance(event, EngineError):
            raise event
        if isinstance(event, kind):
            return event


def _independent(request: SampleRequest) -> list[GenerateRequest]:
    """One request a sample, each with a seed of its own."""
    sampler = request.request.sampler
    seeds = [None if sampler.seed is None else sampler.seed + i for i in range(request.n)]
    return [
        dataclasses.replace(request.request, sampler=dataclasses.replace(sampler, seed=seed))
        for seed in seeds
    ]


class _Parts:
    """What a running engine is made of; loading blocks."""

    def __init__(self, config: EngineConfig) -> None:
        path = Path(config.model_path)
        threads = config.threads or usable_cores()
        self.model, placement = load_model(config)
        try:
            self.template = ChatTemplate(self.model)
            layers = _hidden_layers(config, self.model.n_layer)
            with explained(placement):
                self.context = Context(
                    self.model,
                    n_context=config.context,
                    n_seq=config.slots,
                    n_batch=max(PREFILL_CHUNK, config.slots),
                    n_threads=threads,
                    kv_types=KVTypes.suited_to(self.model, config.kv_type_k, config.kv_type_v),
                    flash_attn=config.flash_attn,
                    tap=Tap(layers, width=self.model.n_embd, capacity=config.slots)
                    if layers
                    else None,
                )
        except Exception:
            self.model.close()
            raise
        self.scheduler = Scheduler(
            self.model,
            self.context,
            n_context=config.context,
            n_slots=config.slots,
            n_queue=config.queue,
        )
        self.info = EngineInfo(
            model_path=str(path),
            model_sha256=file_sha256(path),
            model_name=self.model.meta("general.name") or path.stem,
            architecture=self.model.meta("general.architecture") or "unknown",
            quantisation=self.model.quantisation,
            template_sha256=self.template.sha256,
            n_vocab=self.model.n_vocab,
            n_layer=self.model.n_layer,
            n_context=config.context,
            n_slots=config.slots,
            n_threads=threads,
            build=build_version(),
            offload=placement.describe(),
            hidden_layers=layers,
        )
        self.scheduler.start()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The rendered prompt. Raises PromptTooLong, TemplateRefused."""
        prompt = self.template.tokens(messages)
        if len(prompt) >= self.info.n_context:
            raise PromptTooLong(len(prompt), self.info.n_context)
        return prompt

    def continuations(self, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The texts as tokens. Raises EngineError when one is empty."""
        tokens = [
            self.model.tokenize(text, add_special=False, parse_special=False) for text in texts
        ]
        if not tokens or not all(tokens):
            raise EngineError(f"nothing to score: {list(texts)!r} holds an empty continuation")
        return tuple(map(tuple, tokens))

    def check_room(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> None:
        """Raises PromptTooLong, ContinuationTooLong."""
        longest = max(map(len, continuations))
        if len(prompt) + longest > self.info.n_context:
            raise PromptTooLong(len(prompt) + longest, self.info.n_context)
        if longest > PREFILL_CHUNK:
            raise ContinuationTooLong(longest, PREFILL_CHUNK)

    def close(self) -> None:
        self.scheduler.close()
        self.context.close()
        self.model.close()


def load_model(config: EngineConfig) -> tuple[Model, Placement]:
    """Load the weights, layers placed as `config` says. Raises ModelError."""
    path = Path(config.model_path)
    found = devices() if supports_offload() else []
    placement = place(config, read_header(path), found) if found else Placement()
    with explained(placement):
        model = Model(path, load_options(config, placement))
    log.info("offload: %s", placement.describe())
    return model, placement


def _hidden_layers(config: EngineConfig, n_layer: int) -> tuple[int, ...]:
    """The layers to read, counted from 0. Raises EngineError for one the model has not."""
    if config.hidden_layers is None:
        return default_hidden_layers(n_layer)
    missing = [layer for layer in config.hidden_layers if not -n_layer <= layer < n_layer]
    if missing:
        raise EngineError(f"hidden_layers names layer {missing[0]}; the model has {n_layer}")
    return tuple(sorted({layer % n_layer for layer in config.hidden_layers}))
