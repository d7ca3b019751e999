"""The engine in this process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TypeVar

from router.engine.chat import ChatTemplate
from router.engine.context import Context, KVTypes
from router.engine.draft import Drafter
from router.engine.draft_model import DraftModel
from router.engine.gguf import Header, read_header
from router.engine.job import Event, Sink
from router.engine.kv_memory import (
    Needs,
    available_memory,
    check_count,
    check_memory,
    kv_bytes,
)
from router.engine.llama import Model, build_version, devices, supports_offload
from router.engine.lookup import PromptLookup
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
    StreamPart,
    default_hidden_layers,
)
from router.engine.offload import (
    Placement,
    draft_cache_bytes,
    draft_options,
    explained,
    load_options,
    place,
)
from router.engine.prefix_store import PrefixStore, engine_binding
from router.engine.prefixes import Prefixes
from router.engine.scheduler import Scheduler
from router.engine.tap import Tap
from router.engine.threads import usable_cores
from router.errors import (
    ContinuationTooLong,
    EngineDown,
    EngineError,
    ModelError,
    PromptTooLong,
)
from router.models import file_sha256

__all__ = ["LocalEngine", "load_model", "usable_cores"]

log = logging.getLogger("router.engine.local")


class LocalEngine:
    """The engine in this process: model, context and scheduler thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._parts: _Parts | None = None
        self._post: _Post | None = None

    @property
    def info(self) -> EngineInfo:
        return self._loaded.info

    @property
    def alive(self) -> bool:
        return self._parts is not None and self._parts.scheduler.alive

    @property
    def trouble(self) -> str:
        return "" if self.alive else "the engine is not running"

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

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        parts = self._loaded
        prompt = parts.prompt(request.messages)
        events, sink = self._mailbox()
        n_system = parts.n_system(request.messages, prompt)
        job = parts.scheduler.submit(request, prompt, sink, n_system=n_system)
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
        events, sinks = zip(*(self._mailbox() for _ in range(request.n)), strict=True)
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
        events, sink = self._mailbox()
        job = parts.scheduler.submit_score(prompt, continuations, sink, tenant=request.tenant)
        try:
            return await _last(events, Scores)
        finally:
            parts.scheduler.cancel(job)

    def _mailbox(self) -> tuple[asyncio.Queue[Event], Sink]:
        loop = asyncio.get_running_loop()
        if self._post is None or self._post.loop is not loop:
            self._post = _Post(loop)
        return self._post.mailbox()

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return len(self._loaded.template.tokens(messages))

    async def stats(self) -> EngineStats:
        return self._loaded.scheduler.stats()


class _Post:
    """Brings the engine's events to an event loop, which is woken once for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.Queue[Event], Event]] = []

    def mailbox(self) -> tuple[asyncio.Queue[Event], Sink]:
        """A queue of the event loop, and what the engine's thread fills it with."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        return events, lambda event: self._send(events, event)

    def _send(self, events: asyncio.Queue[Event], event: Event) -> None:
        with self._lock:
            self._waiting.append((events, event))
            is_first = len(self._waiting) == 1
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and so is who listened
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._waiting = self._waiting, []
        for events, event in arrived:
            events.put_nowait(event)


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
        self._chunk = config.prefill_chunk
        self._threads = config.threads or usable_cores()
        self.model, self._placement = load_model(config)
        with contextlib.ExitStack() as opened:
            opened.callback(self.model.close)
            self._load_rest(config, opened)
            self._opened = opened.pop_all()
        self.scheduler.start()

    def _load_rest(self, config: EngineConfig, opened: contextlib.ExitStack) -> None:
        """Everything that the weights are needed for; `opened` closes it."""
        path = Path(config.model_path)
        self.template = _template(config, self.model)
        layers = _hidden_layers(config, self.model.n_layer)
        kv_types = KVTypes.suited_to(self.model, config.kv_type_k, config.kv_type_v)
        check_count(config.context, config.slots)
        needs = self._memory_needs(config, kv_types)
        check_memory(config.context, config.slots, needs, available_memory())
        drafter = self._drafter(config)
        if drafter is not None:
            opened.callback(drafter.close)
        rows = config.slots * (1 + (config.draft_tokens if drafter else 0))
        with explained(self._placement):
            self.context = Context(
                self.model,
                n_context=config.context,
                n_seq=config.slots,
                n_batch=max(config.prefill_chunk, rows),
                n_threads=self._threads,
                kv_types=kv_types,
                flash_attn=config.flash_attn,
                tap=Tap(layers, width=self.model.n_embd, capacity=rows) if layers else None,
            )
        opened.callback(self.context.close)
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
            n_threads=self._threads,
            build=_build(kv_types, KVTypes.suited_to(self.model)),
            offload=self._placement.describe(),
            hidden_layers=layers,
        )
        self.prefixes = self._prefixes(config, kv_types)
        if self.prefixes is not None:
            opened.callback(self.prefixes.close)
        self.scheduler = Scheduler(
            self.model,
            self.context,
            n_context=config.context,
            n_slots=config.slots,
            n_queue=config.queue,
            most_seconds=config.queue_seconds or math.inf,
            prefill_chunk=config.prefill_chunk,
            drafter=drafter,
            draft_tokens=config.draft_tokens,
            prefixes=self.prefixes,
        )

    def _memory_needs(self, config: EngineConfig, kv_types: KVTypes) -> Needs:
        """What remains to be taken of main memory. Raises ModelError for no draft model."""
        offloaded = bool(self.model.n_offloaded)
        own = 0 if offloaded else kv_bytes(self.model, config.context, config.slots, kv_types)
        draft = _draft_header(config)
        if draft is None or self._placement.draft_on is not None:
            return Needs(own)
        return Needs(own, draft.all_bytes, draft_cache_bytes(draft, config))

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
        if longest > self._chunk:
            raise ContinuationTooLong(longest, self._chunk)

    def n_system(self, messages: Sequence[Message], prompt: list[int]) -> int:
        """How many tokens of a prompt are the same whatever the user says; 0 if nobody asks."""
        if self.prefixes is None:
            return 0
        system = self.template.system_tokens(messages)
        return len(system) if prompt[: len(system)] == system else 0

    def _drafter(self, config: EngineConfig) -> Drafter | None:
        """What guesses tokens; None for nothing. Raises ModelError for an unsuitable model."""
        if config.speculative == "lookup":
            return PromptLookup(config.slots)
        if config.speculative == "draft":
            with explained(self._placement):
                return DraftModel(
                    Path(config.draft_model_path),
                    self.model,
                    n_context=config.context,
                    n_seq=config.slots,
                    n_threads=self._threads,
                    options=draft_options(config, self._placement),
                )
        return None

    def _prefixes(self, config: EngineConfig, kv_types: KVTypes) -> Prefixes | None:
        """System prompts on disk. Raises ConfigError for an unusable folder."""
        if not config.prefix_folder:
            return None
        binding = engine_binding(
            self.info,
            n_embd=self.model.n_embd,
            kv_type_k=kv_types.k,
            kv_type_v=kv_types.v,
            flash_attn=config.flash_attn,
        )
        return Prefixes(PrefixStore(Path(config.prefix_folder).expanduser(), binding=binding))

    def close(self) -> None:
        self.scheduler.close()
        self._opened.close()


def load_model(config: EngineConfig) -> tuple[Model, Placement]:
    """Load the weights, layers placed as `config` says. Raises ModelError."""
    path = Path(config.model_path)
    found = devices() if supports_offload() else []
    placement = Placement()
    if found:
        placement = place(config, read_header(path), found, _draft_header(config))
    with explained(placement):
        model = Model(path, load_options(config, placement))
    log.info("offload: %s", placement.describe())
    return model, placement


def _template(config: EngineConfig, model: Model) -> ChatTemplate:
    """Raises ModelError for none, or one that leaves out the tools that are wanted."""
    template = ChatTemplate(model, config.chat_template)
    if config.tools and not template.teaches_calls():
        raise ModelError(
            f"the chat template of {model.meta('general.name') or Path(config.model_path).name} "
            "does not teach the model to call tools as <tool_call>{...}</tool_call>; switch "
            "`local_tools` off, use a model whose template does, such as Qwen2.5-Instruct, or name "
            "such a template in `chat_template` if the model was trained for it"
        )
    return template


def _draft_header(config: EngineConfig) -> Header | None:
    return read_header(Path(config.draft_model_path)) if config.speculative == "draft" else None


def _build(kv_types: KVTypes, usual: KVTypes) -> str:
    """What answers depend on besides the model: the libraries, and types chosen for the cache."""
    chosen = f", keys {kv_types.k}, values {kv_types.v}" if kv_types != usual else ""
    return build_version() + chosen


def _hidden_layers(config: EngineConfig, n_layer: int) -> tuple[int, ...]:
    """The layers to read, counted from 0. Raises EngineError for one the model has not."""
    if config.hidden_layers is None:
        return default_hidden_layers(n_layer)
    missing = [layer for layer in config.hidden_layers if not -n_layer <= layer < n_layer]
    if missing:
        raise EngineError(f"hidden_layers names layer {missing[0]}; the model has {n_layer}")
    return tuple(sorted({layer % n_layer for layer in config.hidden_layers}))
