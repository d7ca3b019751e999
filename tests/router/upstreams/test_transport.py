"""The way to an upstream: connections that are kept, and servers that break off or go on."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from router.upstreams import transport as transport_module
from router.upstreams.transport import AiohttpTransport

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


@dataclass
class Served:
    """A server on this machine, and what came to it."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)


def sends(*parts: bytes, close: bool = False) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.001)
        if close:
            writer.close()

    return answer


async def resets(writer: asyncio.StreamWriter) -> None:
    no_linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    writer.transport.abort()


async def says_nothing(_: asyncio.StreamWriter) -> None:
    return


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Served]:
    """Answer every request the same way."""
    served = Served()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                served.requests.append(head + await reader.readexactly(int(length or 0)))
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            served.hung_up.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield served


@asynccontextmanager
async def transport(most: int = 8) -> AsyncIterator[AiohttpTransport]:
    made = AiohttpTransport(httpx.create_ssl_context(), max_connections=most)
    try:
        yield made
    finally:
        await made.aclose()


def request(url: str, *, read: float = 5.0, content: bytes = b"{}") -> httpx.Request:
    timeout = httpx.Timeout(read, connect=2.0).as_dict()
    return httpx.Request("POST", url, content=content, extensions={"timeout": timeout})


async def ask(by: AiohttpTransport, of: httpx.Request) -> bytes:
    response = await by.handle_async_request(of)
    try:
        return b"".join([piece async for piece in response.aiter_bytes()])
    finally:
        await response.aclose()


class TestConnections:
    async def test_one_serves_request_after_request(self) -> None:
        async with serving(sends(WHOLE)) as served, transport() as made:
            for i in range(5):
                assert await ask(made, request(served.url, content=b"%d" % i)) == b"ok"
        assert served.connections == 1
        assert [asked[-1:] for asked in served.requests] == [b"0", b"1", b"2", b"3", b"4"]
        assert served.requests[0].lower().startswith(b"post /v1 http/1.1\r\nhost: 127.0.0.1:")

    @pytest.mark.parametrize(
        "answer",
        [
            sends(WHOLE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")),
            sends(WHOLE.replace(b"1.1", b"1.0")),
            sends(WHOLE, close=True),
            sends(b"HTTP/1.1 200 OK\r\n\r\nok", close=True),
        ],
        ids=["says so", "HTTP/1.0", "hangs up", "ends with the connection"],
    )
    async def test_not_kept_when_nothing_may_follow(self, answer: Answer) -> None:
        async with serving(answer) as served, transport() as made:
            for _ in range(3):
                assert await ask(made, request(served.url)) == b"ok"
                await asyncio.wait_for(served.hung_up.wait(), 5)
                served.hung_up.clear()
                await asyncio.sleep(0.05)  # until the other end has seen it too
        assert served.connections == 3

    async def test_not_kept_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport_module, "KEEP_SECONDS", 0.05)
        async with serving(sends(WHOLE)) as served, transport() as made:
            await ask(made, request(served.url))
            await asyncio.wait_for(served.hung_up.wait(), 5)
            assert await ask(made, request(served.url)) == b"ok"
        assert served.connections == 2

    async def test_given_up_where_a_body_was_not_read(self) -> None:
        async with serving(sends(ENDLESS, b"x" * 1000)) as served, transport(most=1) as made:
            for _ in range(2):
                response = await made.handle_async_request(request(served.url))
                assert response.status_code == 200
                await response.aclose()
                await asyncio.wait_for(served.hung_up.wait(), 5)
        assert served.connections == 2

    async def test_given_up_by_who_no_longer_waits(self) -> None:
        async with serving(says_nothing) as served, transport() as made:
            waiting = asyncio.create_task(ask(made, request(served.url)))
            while not served.requests:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            await asyncio.wait_for(served.hung_up.wait(), 5)

    async def test_no_more_than_allowed(self) -> None:
        async with serving(sends(WHOLE)) as served, transport(most=2) as made:
            held = [await made.handle_async_request(request(served.url)) for _ in range(2)]
            with pytest.raises(httpx.PoolTimeout, match="2 requests"):
                await made.handle_async_request(request(served.url))
            for response in held:
                await response.aread()
            assert await ask(made, request(served.url)) == b"ok"

    async def test_closing_hangs_up(self) -> None:
        async with serving(sends(WHOLE)) as served:
            async with transport() as made:
                await ask(made, request(served.url))
            await asyncio.wait_for(served.hung_up.wait(), 5)


class TestAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            sends(*(WHOLE[i : i + 1] for i in range(len(WHOLE)))),
            sends(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
                b"1\r\nk\r\n0\r\n\r\n",
            ),
            sends(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", WHOLE),
            sends(b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE),
        ],
        ids=["byte by byte", "chunked", "hints before", "continue before"],
    )
    async def test_however_they_come(self, answer: Answer) -> None:
        async with serving(answer) as served, transport() as made:
            for _ in range(2):
                response = await made.handle_async_request(request(served.url))
                assert response.status_code == 200
                assert "link" not in response.headers
                assert await response.aread() == b"ok"
        assert served.connections == 1

    async def test_compressed(self) -> None:
        body = gzip.compress(b"ok")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        async with serving(sends(head + body)) as served, transport() as made:
            assert await ask(made, request(served.url)) == b"ok"

    async def test_one_that_is_not_read_does_not_fill_the_memory(self) -> None:
        sent = 0

        async def floods(writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(ENDLESS)
            while sent < 100_000_000:
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000

        async with serving(floods) as served, transport() as made:
            response = await made.handle_async_request(request(served.url))
            before = -1
            while before != sent:  # until it waits for us
                before = sent
                await asyncio.sleep(0.05)
            assert sent < 50_000_000
            assert len(await response.aread()) == 100_000_000


class TestRequests:
    async def test_a_large_one(self) -> None:
        content = b"x" * 5_000_000
        async with serving(sends(WHOLE)) as served, transport() as made:
            await ask(made, request(served.url, content=content))
        assert served.requests[0].endswith(b"\r\n\r\n" + content)

    async def test_a_header_can_not_smuggle_another(self) -> None:
        async with serving(sends(WHOLE)) as served, transport() as made:
            asked = request(served.url)
            asked.headers["Authorization"] = "Bearer a\r\nHost: elsewhere"
            with pytest.raises(httpx.LocalProtocolError, match="header injection"):
                await made.handle_async_request(asked)
        assert served.requests == []


class TestFaults:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (resets, httpx.ReadError),
            (sends(close=True), httpx.RemoteProtocolError),
            (sends(ENDLESS, b"x", close=True), httpx.RemoteProtocolError),
            (
                sends(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n", close=True
                ),
                httpx.RemoteProtocolError,
            ),
            (sends(b"SSH-2.0-OpenSSH\r\n\r\n"), httpx.RemoteProtocolError),
            (sends(WHOLE + b"and what nobody asked for"), httpx.RemoteProtocolError),
            (
                sends(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
                ),
                httpx.RemoteProtocolError,
            ),
            (says_nothing, httpx.ReadTimeout),
            (sends(ENDLESS), httpx.ReadTimeout),
        ],
        ids=[
            "reset",
            "hung up",
            "cut",
            "cut chunks",
            "no HTTP",
            "goes on",
            "another protocol",
            "silent",
            "stops",
        ],
    )
    async def test_they_are_told_and_nothing_stays(
        self, answer: Answer, error: type[httpx.TransportError]
    ) -> None:
        async with serving(answer) as served, transport(most=1) as made:
            for _ in range(2):
                with pytest.raises(error):
                    await ask(made, request(served.url, read=0.2))

    async def test_nobody_there(self) -> None:
        async with serving(sends(WHOLE)) as served:
            pass
        async with transport(most=1) as made:
            for _ in range(2):
                with pytest.raises(httpx.ConnectError):
                    await ask(made, request(served.url))

    async def test_a_name_that_does_not_exist(self) -> None:
        async with transport() as made:
            with pytest.raises(httpx.ConnectError):
                await ask(made, request("http://nowhere.invalid/v1"))

    async def test_no_tls_where_there_should_be(self) -> None:
        async with serving(sends(WHOLE)) as served, transport(most=1) as made:
            asked = request(served.url.replace("http:", "https:"))
            asked.extensions["timeout"]["connect"] = 0.1
            for _ in range(2):
                with pytest.raises(httpx.ConnectTimeout):
                    await ask(made, asked)

    async def test_the_next_address_where_the_first_is_dead(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(sends(WHOLE)) as served, transport() as made:
            port = httpx.URL(served.url).port

            async def two(*_: object, **__: object) -> list[object]:
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                return [(*kind, ("127.0.0.1", 9)), (*kind, ("127.0.0.1", port))]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
            assert await ask(made, request(f"http://two.example:{port}/v1")) == b"ok"
