"""Both clients' faces, and a small gateway that really listens."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from . import wire
from .faces import AsyncFace, Face, SyncFace


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    made: Face = request.param()
    return made


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrub what httpx reads from the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@dataclass
class LiveGateway:
    """A server on this machine whose stream behaves as the question says."""

    url: str
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when the server stops working on an endless answer."""

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        question = body["messages"][-1]["content"]
        if not body.get("stream"):
            return JSONResponse(wire.completion(f"echo: {question}"))
        return StreamingResponse(
            self._stream(question),
            media_type="text/event-stream",
            headers={"x-request-id": "live-1"},
        )

    async def route(self, request: Request) -> Response:
        await request.json()
        return JSONResponse(wire.decision())

    async def feedback(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse(wire.feedback(body["id"]))

    async def _stream(self, question: str) -> AsyncIterator[bytes]:
        whole = wire.sse(wire.pieces("Hel", "lo"))
        if question == "cut":
            yield wire.sse([wire.delta(content="Hel")], done=False)
            raise ConnectionAbortedError("the test's own cut")
        if question == "fade":
            yield wire.sse([wire.delta(content="Hel")], done=False)
        elif question == "stall":
            yield wire.sse([wire.delta(content="Hel")], done=False)
            await asyncio.sleep(60)
        elif question == "endless":
            async for piece in self._endless():
                yield piece
        else:
            for i in range(len(whole)):
                yield whole[i : i + 1]

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield wire.sse([wire.delta(content="and ")], done=False)
                await asyncio.sleep(0.01)
        finally:
            self.stopped.set()


@pytest.fixture(scope="session")
def live() -> Iterator[LiveGateway]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # connections wait here until the server's thread is up
        gateway = LiveGateway(f"http://127.0.0.1:{listener.getsockname()[1]}")
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", gateway.chat, methods=["POST"]),
                Route("/v1/route", gateway.route, methods=["POST"]),
                Route("/v1/feedback", gateway.feedback, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", lifespan="off", ws="none"
        )
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield gateway
        server.should_exit = True
        thread.join()
