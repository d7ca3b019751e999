"""The engine process: `python -m router.engine.child FD`, started by `router.engine.worker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

from router.engine import wire
from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig, GenerateRequest, SampleRequest, ScoreRequest
from router.errors import EngineError, RouterError

Load = Callable[[EngineConfig], LocalEngine]


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load = LocalEngine
) -> None:
    """Load what the first envelope asks for, then answer until the other side goes away."""
    first = await wire.read(reader)
    if first is None or not isinstance(first.body, EngineConfig):
        return
    engine = load(first.body)
    try:
        await engine.start()
    except RouterError as error:
        wire.write(writer, wire.Envelope(first.id, error))
        await writer.drain()
        return
    wire.write(writer, wire.Envelope(first.id, engine.info))
    watch = asyncio.create_task(_exit_when_engine_stops(engine))
    await _answer_all(engine, reader, writer)
    watch.cancel()
    await engine.close()


async def _answer_all(
    engine: LocalEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    tasks: dict[int, asyncio.Task[None]] = {}
    while (envelope := await wire.read(reader)) is not None:
        number = envelope.id
        if isinstance(envelope.body, wire.Cancel):
            if task := tasks.pop(number, None):
                task.cancel()
            continue
        task = tasks[number] = asyncio.create_task(_answer(engine, envelope, writer))
        task.add_done_callback(partial(_forget, tasks, number))
    for task in tasks.values():
        task.cancel()


def _forget(tasks: dict[int, asyncio.Task[None]], number: int, _: asyncio.Task[None]) -> None:
    tasks.pop(number, None)


async def _answer(
    engine: LocalEngine, envelope: wire.Envelope, writer: asyncio.StreamWriter
) -> None:
    def reply(body: wire.Up) -> None:
        wire.write(writer, wire.Envelope(envelope.id, body))

    try:
        match envelope.body:
            case GenerateRequest() as request:
                async with contextlib.aclosing(engine.stream(request)) as events:
                    async for event in events:
                        reply(event)
            case SampleRequest() as request:
                reply(wire.Samples(await engine.sample(request)))
            case ScoreRequest() as request:
                reply(await engine.score(request))
            case wire.CountTokens(messages):
                reply(await engine.count_prompt_tokens(messages))
            case wire.AskStats():
                reply(await engine.stats())
    except RouterError as error:
        reply(error)
    except Exception as error:
        reply(EngineError(f"the engine failed on this request: {error!r}"))
        raise


async def _exit_when_engine_stops(engine: LocalEngine) -> None:
    """A dead engine thread can't answer: end the process, so that the gateway starts a new one."""
    while engine.alive:
        await asyncio.sleep(0.5)
    os._exit(1)


async def _serve_socket(fd: int, load: Load) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    await serve(reader, writer, load)


def main(load: Load = LocalEngine) -> None:
    """Serve the socket whose number is the command line's only argument."""
    # A Ctrl-C in the terminal reaches this process too; only the gateway decides when it ends.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # not every platform knows a hang-up
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    asyncio.run(_serve_socket(int(sys.argv[1]), load))


if __name__ == "__main__":
    main()
