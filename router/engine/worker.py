"""The engine in a child process, watched and restarted.

llama.cpp aborts the process on an internal assertion. Behind this border such a crash costs the
requests in flight, which end with EngineDown, and a restart; not the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Sequence

from router.engine import wire
from router.engine.messages import (
    Completion,
    EngineConfig,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    Message,
    Partial,
    SampleRequest,
    ScoreRequest,
    Scores,
    StreamPart,
    TextDelta,
)
from router.engine.restarts import Restarts
from router.errors import EngineDown, EngineError, RouterError

log = logging.getLogger("router.engine.worker")

CHILD_MODULE = "router.engine.child"
"""What the child process runs, as `python -m`."""
START_TIMEOUT = 300.0
"""Seconds a child may take to load its model; a large one from a slow disk takes minutes."""
STOP_TIMEOUT = 3.0


class WorkerEngine:
    """`Engine` whose model lives in a child process; `restarts` says when that is started again."""

    def __init__(self, config: EngineConfig, restarts: Restarts | None = None) -> None:
        self._config = config
        self._info: EngineInfo | None = None
        self._child: _Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._restarts = 0
        self._pauses = restarts or Restarts()

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDown("the engine was never started")
        return self._info

    @property
    def alive(self) -> bool:
        return self._child is not None and not self._child.gone.is_set()

    @property
    def trouble(self) -> str:
        return "" if self.alive else self._pauses.trouble

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._child.process.pid if self._child else None

    async def start(self) -> None:
        self._child, self._info = await _Child.start(self._config)
        self._keeper = asyncio.create_task(self._keep_running())

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._child is not None:
            await self._child.stop()
            self._child = None

    async def generate(self, request: GenerateRequest) -> Completion:
        reply = await self._running.ask_one(request)
        if not isinstance(reply, Completion):
            raise _unexpected(reply)
        return reply

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        async with contextlib.aclosing(self._running.ask(request)) as replies:
            async for reply in replies:
                if not isinstance(reply, StreamPart):
                    raise _unexpected(reply)
                yield reply
                if isinstance(reply, Completion):
                    return

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        reply = await self._running.ask_one(request)
        if not isinstance(reply, wire.Samples):
            raise _unexpected(reply)
        return reply.completions

    async def score(self, request: ScoreRequest) -> Scores:
        reply = await self._running.ask_one(request)
        if not isinstance(reply, Scores):
            raise _unexpected(reply)
        return reply

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        reply = await self._running.ask_one(wire.CountTokens(tuple(messages)))
        if not isinstance(reply, int):
            raise _unexpected(reply)
        return reply

    async def stats(self) -> EngineStats:
        """The load; all idle while the child is being restarted."""
        with contextlib.suppress(EngineDown):
            reply = await self._running.ask_one(wire.AskStats())
            if isinstance(reply, EngineStats):
                return self._with_restarts(reply)
        return self._with_restarts(EngineStats(0, 0, self._config.slots, 0, 0))

    def _with_restarts(self, stats: EngineStats) -> EngineStats:
        extra = {**stats.extra, "breaker_open": float(self._pauses.open)}
        return dataclasses.replace(stats, restarts=self._restarts, extra=extra)

    @property
    def _running(self) -> _Child:
        if self._child is None or self._child.gone.is_set():
            raise EngineDown(self._pauses.trouble)
        return self._child

    async def _keep_running(self) -> None:
        while self._child is not None:
            await self._child.gone.wait()
            pause = self._pauses.crashed()
            code = await self._child.stop()
            log.error("the engine process ended with code %s: %s", code, self._pauses.trouble)
            self._child = None
            while self._child is None:
                await asyncio.sleep(pause)
                try:
                    self._child, self._info = await _Child.start(self._config)
                except RouterError as error:
                    pause = self._pauses.failed()
                    log.error("the engine process could not be restarted: %s", error)
            self._restarts += 1
            log.warning("the engine process is back (restart %d)", self._restarts)


class _Child:
    """One child process and the replies it owes."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.gone = asyncio.Event()
        self._writer = writer
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Queue[wire.Up]] = {}
        self._pump = asyncio.create_task(self._deliver(reader))

    @classmethod
    async def start(cls, config: EngineConfig) -> tuple[_Child, EngineInfo]:
        """Start a process and wait until it has loaded the model. Raises what loading raises."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", CHILD_MODULE, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        wire.write(writer, wire.Envelope(0, config))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                first = await wire.read(reader)
        except BaseException as error:
            await _end(process, writer)
            if isinstance(error, TimeoutError):
                raise EngineDown(
                    f"the engine process did not load the model within {START_TIMEOUT:.0f} s"
                ) from error
            raise
        if first is not None and isinstance(first.body, EngineInfo):
            return cls(process, reader, writer), first.body
        code = await _end(process, writer)
        if first is not None and isinstance(first.body, RouterError):
            raise first.body
        raise EngineDown(f"the engine process ended with code {code} while loading the model")

    async def ask(self, body: wire.Down) -> AsyncGenerator[wire.Reply, None]:
        """Send a request and yield its replies; closing the iterator cancels the request."""
        with _Asked(self, body) as asked:
            while True:
                yield await asked.reply()

    async def ask_one(self, body: wire.Down) -> wire.Reply:
        """Send a request and return its last reply."""
        with _Asked(self, body) as asked:
            reply = await asked.reply()
            while not asked.ended:
                reply = await asked.reply()
            return reply

    def expect(self) -> tuple[int, asyncio.Queue[wire.Up]]:
        """A new request's number, and where its replies will be."""
        number = next(self._numbers)
        replies = self._replies[number] = asyncio.Queue()
        return number, replies

    def forget(self, number: int) -> None:
        """Expect no further replies to this request."""
        del self._replies[number]

    def send(self, number: int, body: wire.Down) -> None:
        wire.write(self._writer, wire.Envelope(number, body))

    async def _deliver(self, reader: asyncio.StreamReader) -> None:
        while (envelope := await wire.read(reader)) is not None:
            queue = self._replies.get(envelope.id)
            if queue is not None and isinstance(envelope.body, wire.Up):
                queue.put_nowait(envelope.body)
        self.gone.set()
        for queue in self._replies.values():
            queue.put_nowait(EngineDown("the engine process died while it answered"))

    async def stop(self) -> int:
        """End the process; returns its exit code."""
        code = await _end(self.process, self._writer)
        await self._pump
        return code


class _Asked:
    """A request under way; leaving it before its last reply has come cancels it."""

    def __init__(self, child: _Child, body: wire.Down) -> None:
        self.ended = False
        self._child = child
        self._number, self._replies = child.expect()
        child.send(self._number, body)

    async def reply(self) -> wire.Reply:
        """The next reply. Raises the error that it may be."""
        reply = await self._replies.get()
        self.ended = not isinstance(reply, TextDelta | Partial)
        if isinstance(reply, RouterError):
            raise reply
        return reply

    def __enter__(self) -> _Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.forget(self._number)
        if not self.ended and not self._child.gone.is_set():
            self._child.send(self._number, wire.Cancel())


def _unexpected(reply: wire.Reply) -> EngineError:
    return EngineError(f"unexpected reply of the engine process: {reply!r}")


async def _end(process: asyncio.subprocess.Process, writer: asyncio.StreamWriter) -> int:
    """Hang up, which tells the child to stop; kill it if it does not."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
