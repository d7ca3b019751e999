"""A pipeline that does as it is told, and an application around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import openai
import uvicorn
from fastapi import FastAPI

from router.answer import Answer, Decision, Query, RemoteChunk, StreamEvent, Usage
from router.budget import Budgets
from router.config import Settings
from router.engine.messages import EngineInfo, EngineStats, TextDelta
from router.live import Live
from router.reload import Reloaded
from service.app import create_app
from service.ports import PipelinePort
from tests.router.no_follow_ups import NoFollowUps
from uq import Trace

INFO = EngineInfo(
    model_path="model.gguf",
    model_sha256="ab" * 32,
    model_name="SmolLM2-135M-Instruct",
    architecture="llama",
    quantisation="Q4_1",
    template_sha256="cd" * 32,
    n_vocab=49152,
    n_layer=30,
    n_context=4096,
    n_slots=8,
    n_threads=2,
    build="0.3.36",
    offload="cpu",
)

TRACE = Trace.from_dict(
    {
        "text": "Grüße!",
        "tokens": [10, 11, 12, 13],
        "offsets": [0, 2, 3, 3],
        "logprobs": [-0.1, -0.5, -1.5, float("-inf")],
        "entropies": [0.2, 0.7, 1.1, 0.4],
        "margins": [0.8, 0.4, 0.2, 0.5],
        "top_ids": [[10, 20], [11, 21], [12, 22], [13, 23]],
        "top_logprobs": [[-0.1, -3.0], [-0.5, -2.0], [-1.5, -1.6], [-0.2, -4.0]],
        "end_logprob": -0.01,
        "finish_reason": "stop",
        "n_prompt": 7,
    }
)
PIECES = (b"Gr", "ü".encode(), b"\xc3", b"\x9fe!")
TOP_PIECES = tuple((piece, b" other") for piece in PIECES)

CONFIDENT = Decision(
    route="local",
    reason="confident",
    p_correct=0.83,
    threshold=0.71,
    uncertainty={"perplexity": 0.12, "margin": float("nan")},
    calibration="sha256:feed",
)
UNCERTAIN = replace(CONFIDENT, route="remote", reason="uncertain", p_correct=0.31)

LOCAL = Answer(
    text="Grüße!",
    finish_reason="stop",
    decision=CONFIDENT,
    usage_local=Usage(7, 4),
    usage_remote=None,
    cost_usd=0.0,
    saved_usd=0.002,
    timings_ms={
        "queue": 1.0,
        "prefill": 2.0,
        "decode": 30.0,
        "uq": 0.5,
        "remote": 0.0,
        "total": 34.0,
    },
    trace=TRACE,
    pieces=PIECES,
    top_pieces=TOP_PIECES,
)

TWO = replace(LOCAL, others=(replace(LOCAL.choices[0], text="Hallo!", pieces=(), trace=None),))

REMOTE_BODY: dict[str, Any] = {
    "id": "chatcmpl-upstream",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "big-model",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}

REMOTE = Answer(
    text="Hello there.",
    finish_reason="stop",
    decision=UNCERTAIN,
    usage_local=Usage(7, 4),
    usage_remote=Usage(9, 3),
    cost_usd=0.004,
    saved_usd=0.0,
    timings_ms={"remote": 120.0, "total": 160.0},
    remote_body=REMOTE_BODY,
)


def remote_chunk(
    delta: Mapping[str, Any] | None = None, finish: str | None = None, **fields: Any
) -> RemoteChunk:
    """One chunk of an upstream; without `delta` it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    shared = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 17, "model": "big"}
    return RemoteChunk({**shared, "choices": choices, **fields})


REMOTE_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
REMOTE_STREAM: tuple[StreamEvent, ...] = (
    UNCERTAIN,
    remote_chunk({"role": "assistant", "content": ""}),
    remote_chunk({"content": "Hello "}),
    remote_chunk({"content": "there."}),
    remote_chunk({}, "stop", router={"route": "local"}),
    remote_chunk(usage=REMOTE_USAGE),
    replace(REMOTE, remote_body=None),
)
LOCAL_STREAM: tuple[StreamEvent, ...] = (CONFIDENT, TextDelta("Grü"), TextDelta("ße!"), LOCAL)

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "Say hello in German"}]}


LOAD = EngineStats(2, 1, 8, 100, 200, restarts=3, extra={"wait_seconds": 2.5, "refused_slow": 4})


@dataclass
class ScriptedEngine(NoFollowUps):
    info: EngineInfo = INFO
    alive: bool = True
    load: EngineStats = LOAD
    fault: Exception | None = None

    trouble: str = ""

    async def stats(self) -> EngineStats:
        if self.fault is not None:
            raise self.fault
        return self.load


@dataclass(frozen=True)
class ScriptedCalibration:
    id: str = "sha256:feed"

    def summary(self) -> Mapping[str, Any]:
        return {"threshold": 0.71, "n_fit": 100}


Step = StreamEvent | Exception | Callable[[], Awaitable[None]]


@dataclass
class ScriptedPipeline:
    """Gives `reply` to `answer` and `route`, plays `events` for `stream`, reloads `fresh`.

    An exception among them is raised; a coroutine function is awaited, as a place to wait at.
    """

    reply: Answer | Exception = LOCAL
    events: Sequence[Step] = LOCAL_STREAM
    before: Callable[[], Awaitable[None]] | None = None
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    calibration: ScriptedCalibration | None = field(default_factory=ScriptedCalibration)
    upstream: object | None = None
    live: Live | None = None
    budgets: Budgets | None = None
    queries: list[Query] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    closed: bool = False
    fresh: ScriptedCalibration | Exception = field(default_factory=ScriptedCalibration)

    async def reload(self) -> Reloaded:
        """Take `fresh` over, or raise it."""
        if isinstance(self.fresh, Exception):
            raise self.fresh
        old, self.calibration = self.calibration, self.fresh
        lines = () if old == self.fresh else ("threshold: 0.710 -> 0.800",)
        return Reloaded(None if old is None else old.id, self.fresh.id, ("mind the gap",), lines)

    async def start(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True

    async def answer(self, query: Query) -> Answer:
        self.queries.append(query)
        with self._noticing():
            if self.before is not None:
                await self.before()
            if isinstance(self.reply, Exception):
                raise self.reply
            return self.reply

    async def route(self, query: Query) -> Answer:
        return await self.answer(query)

    async def stream(self, query: Query) -> AsyncIterator[StreamEvent]:
        self.queries.append(query)
        with self._noticing():
            for step in self.events:
                if isinstance(step, Exception):
                    raise step
                if callable(step):
                    await step()
                else:
                    yield step

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.set()
            raise


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


def make_app(pipeline: PipelinePort | None = None, **settings: Any) -> FastAPI:
    return create_app(Settings(**settings), pipeline=pipeline or ScriptedPipeline())


@asynccontextmanager
async def client_of(
    pipeline: PipelinePort | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that runs in this loop."""
    async with running(make_app(pipeline, **settings)) as client:
        yield client


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """A real server in a thread; gives its address."""
    config = uvicorn.Config(
        app, port=0, log_level="error", ws="none", timeout_graceful_shutdown=3, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def openai_client(pipeline: PipelinePort, **settings: Any) -> Iterator[openai.OpenAI]:
    """The unmodified client of a real server."""
    with serving(make_app(pipeline, **settings)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with client:
            yield client
