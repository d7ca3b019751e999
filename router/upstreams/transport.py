"""Carries httpx's requests over aiohttp's connections.

Of the CPU time of a request to an upstream, more than half went into httpx's own way to the wire
(`benchmarks/gateway.py`); aiohttp's takes a third of it. Requests, responses and errors stay
httpx's. What the faults are called decides what may be repeated, so each is told apart here.
"""

from __future__ import annotations

import contextlib
import io
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import aiohttp
import httpx

KEEP_SECONDS = 4.0
"""How long a connection is kept unused: less than uvicorn's 5 s, so that we seldom write to one
that is just being closed."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests as they are: no cookies, no redirects, no proxies.

    aiohttp sends a GET once more whose connection broke, and nothing else.

    Parameters
    ----------
    certificates : trusted ones, for https.
    max_connections : requests under way at once; for one more, httpx.PoolTimeout is raised.
    """

    def __init__(self, certificates: ssl.SSLContext, *, max_connections: int) -> None:
        self._certificates = certificates
        self._max_connections = max_connections
        self._under_way = 0
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return the response, its body unread.

        Raises httpx.TransportError: ConnectError, ReadError, RemoteProtocolError, and the time-outs
        that the request's extensions set.
        """
        if self._under_way >= self._max_connections:
            raise httpx.PoolTimeout(f"{self._max_connections} requests are under way")
        self._under_way += 1
        try:
            with _httpx_errors():
                response = await self._send(request)
        except BaseException:
            self._under_way -= 1
            raise
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(response, self._ended)
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, request: httpx.Request) -> aiohttp.ClientResponse:
        limits: Mapping[str, float | None] = request.extensions.get("timeout", {})
        if self._session is None:  # it belongs to the event loop that it is made in
            self._session = self._made_session()
        response = await self._session.request(
            request.method,
            str(request.url),
            headers=request.headers.multi_items(),
            data=io.BytesIO(await request.aread()),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=limits.get("connect"), sock_read=limits.get("read")
            ),
        )
        if response.status == 101:
            response.close()
            raise httpx.RemoteProtocolError("the server went over to another protocol")
        return response

    def _made_session(self) -> aiohttp.ClientSession:
        # The connector has no limit, since it would let requests wait.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_SECONDS, ssl=self._certificates
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # one caller's must not follow the next one
            auto_decompress=False,
        )

    def _ended(self) -> None:
        self._under_way -= 1


class _Body(httpx.AsyncByteStream):
    """A response's body. Closing it hangs up, unless it was read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, ended: Callable[[], None]) -> None:
        self._response = response
        self._ended = ended
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for piece in self._response.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._ended()
            self._response.close()  # the connection of one that was read was given back before


@contextlib.contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpx's errors in place of aiohttp's."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout("no connection in time") from error
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        raise httpx.ReadTimeout("nothing came in time") from error
    except aiohttp.ClientConnectorError as error:  # names, addresses and TLS
        raise httpx.ConnectError(str(error)) from error
    except aiohttp.ClientOSError as error:
        raise httpx.ReadError(str(error)) from error
    except aiohttp.ClientPayloadError as error:
        cause = error.__cause__
        if isinstance(cause, ConnectionError):
            raise httpx.ReadError(str(cause)) from error
        raise httpx.RemoteProtocolError(str(error)) from error
    except aiohttp.InvalidURL as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
    except aiohttp.ClientError as error:  # it hung up, or what it said is no HTTP
        raise httpx.RemoteProtocolError(str(error)) from error
    except ValueError as error:  # such as a line break in a header
        raise httpx.LocalProtocolError(str(error)) from error
