"""`router.cli.server` with a small application: ``python -m tests.router.fake_gateway MODE``.

MODE is what the start-up does: ``fine``, ``slow`` (never ready), ``interrupted``, ``model-error``
or ``crash``; or ``hung-up``: a SIGHUP comes meanwhile, and the answer to the first one fails. With
``stuck`` it closes only when it is broken off.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from router.cli.server import address_of, bind, run
from router.errors import ModelError, RouterError


def build(mode: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        print("loading", flush=True)
        if mode == "interrupted":
            signal.raise_signal(signal.SIGINT)
        if mode == "hung-up":
            signal.raise_signal(signal.SIGHUP)
        if mode in ("slow", "interrupted"):
            await asyncio.sleep(60)
        if mode == "model-error":
            raise ModelError("no such model")
        if mode == "crash":
            raise ZeroDivisionError("a bug")
        yield
        try:
            if mode == "stuck":
                await asyncio.sleep(60)
        finally:
            print("closed", flush=True)

    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def slow(_: Request) -> PlainTextResponse:
        print("working", flush=True)
        await asyncio.sleep(0.3)
        return PlainTextResponse("done")

    return Starlette(routes=[Route("/", hello), Route("/slow", slow)], lifespan=lifespan)


def main(mode: str) -> None:
    failing = [mode == "hung-up"]

    async def hang_up() -> None:
        print("hung up", flush=True)
        if failing.pop() if failing else False:
            raise ZeroDivisionError("a bug")

    def ready() -> None:
        print("ready", url, flush=True)

    with closing(bind("127.0.0.1", 0)) as bound:
        url = address_of(bound)
        try:
            run(build(mode), bound, ready, log_level="info", on_hang_up=hang_up)
        except RouterError as error:
            print("error:", error, flush=True)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(1)
    print("ended", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
