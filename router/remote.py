"""The remote LLM: any server that speaks OpenAI's chat completions, over one pooled client.

What is repeated, and what never is:

- repeated: a connection that was refused, timed out while being made, or was reset before an
  answer began; and the statuses 429, 502, 503 and 504, after the time ``Retry-After`` asks for;
- never: a request whose answer was too slow or broke off (it may have been billed), any other
  status, and a stream that has begun.

All attempts and the pauses between them share one deadline.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential_jitter,
)

from router import remote_body, sse
from router.config import Settings
from router.errors import UpstreamRejected, UpstreamUnavailable
from router.remote_body import BadBodyError, RemoteAnswer, is_usage_chunk, usage_of
from router.urls import public_url

__all__ = ["RemoteAnswer", "Timeouts", "Upstream", "is_usage_chunk", "usage_of"]

log = logging.getLogger("router.remote")

MAX_BYTES = 16 << 20
"""Longest answer that is read, in bytes; one that is longer is an error."""

_ERROR_BYTES = 1 << 16
_REPEATED = frozenset({429, 502, 503, 504})
_OPERATORS = frozenset({401, 402, 403})
_NO_VERDICT = frozenset({408, 409, 425})
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_RESET = (httpx.ReadError, httpx.WriteError)
_KEEP_ALIVE = 4.0  # below uvicorn's 5 s, so that we seldom write to a connection it just closed


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, of silence while an answer is due, and in all with retries."""

    connect: float = 5.0
    read: float = 60.0
    total: float = 120.0


class Upstream:
    """One OpenAI-compatible server.

    Parameters
    ----------
    base_url : address with its path, such as ``https://host/v1``.
    model : replaces the request's ``model``; empty passes the caller's own on.
    key : sent as a bearer token; None sends none. It appears in no repr, log or exception.
    timeouts, retries : see the module's docstring; `retries` counts the repeats.
    key_env : name of the variable the key came from, for messages.
    backoff : seconds before the first repeat; each further one waits twice as long, up to 8 s, and
        a random part more.
    transport : stands in for the network, in tests.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        key: str | None = None,
        *,
        timeouts: Timeouts = Timeouts(),
        retries: int = 2,
        key_env: str = "",
        backoff: float = 0.25,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.timeouts = timeouts
        self.retries = retries
        self._key = key
        self._key_env = key_env
        self._backoff = wait_exponential_jitter(multiplier=backoff, max=8.0, jitter=backoff)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeouts.read, connect=timeouts.connect, pool=timeouts.connect),
            limits=httpx.Limits(max_connections=256, keepalive_expiry=_KEEP_ALIVE),
            follow_redirects=False,
            verify=_certificates(),
            transport=transport,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Upstream | None:
        """Return the upstream that `settings` name, with the key from the environment; or None.

        Raises ConfigError when the key can't be sent.
        """
        if settings.upstream is None:
            return None
        return cls(
            settings.upstream,
            settings.upstream_model,
            settings.upstream_key(),
            timeouts=Timeouts(
                connect=settings.upstream_connect_timeout,
                read=settings.upstream_read_timeout,
                total=settings.upstream_total_timeout,
            ),
            retries=settings.upstream_retries,
            key_env=settings.upstream_key_env,
        )

    def __repr__(self) -> str:
        key = "***" if self._key else None
        return f"Upstream({public_url(self.base_url)!r}, model={self.model!r}, key={key!r})"

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the object can't be used afterwards."""
        await self._client.aclose()

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        """Ask for a complete answer to an OpenAI request.

        `body` is the caller's; what only the local engine understands (``top_k``, ``min_p``,
        ``repetition_penalty``, ``router``) is left out, and so is streaming.

        Raises
        ------
        UpstreamUnavailable
            Unreachable, too slow, misconfigured, or its answer is no chat completion.
        UpstreamRejected
            It finds fault with the request itself (most 4xx).
        """
        payload = remote_body.request_body(body, self.model, stream=False)
        deadline = time.monotonic() + self.timeouts.total
        async with self._open("POST", "/chat/completions", deadline, payload) as response:
            self._expect(response, "json")
            raw = b"".join([piece async for piece in self._bytes(response, deadline)])
        try:
            return remote_body.parse_answer(raw, response.headers.get("content-type", ""))
        except BadBodyError as error:
            raise self._bad_body(error) from None

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Ask for a streamed answer; yield the upstream's chunks as they come.

        Usage is always asked for, so that costs are known. Whoever passes chunks on to a caller
        that did not set ``stream_options.include_usage`` leaves those out for which
        `is_usage_chunk` is true. The iterator ends normally only when the answer is complete.
        Close it (``contextlib.aclosing``) to hang up early.

        Raises
        ------
        UpstreamUnavailable
            As in `chat`; also when the stream breaks off before the answer is complete.
        UpstreamRejected
            As in `chat`.
        """
        payload = remote_body.request_body(body, self.model, stream=True)
        deadline = time.monotonic() + self.timeouts.total
        complete = remote_body.Completeness()
        async with self._open("POST", "/chat/completions", deadline, payload) as response:
            self._expect(response, "text/event-stream")
            async with aclosing(sse.events(self._bytes(response, deadline))) as events:
                async for data in events:
                    if data.strip() == sse.DONE:
                        return
                    try:
                        chunk = remote_body.parse_chunk(data)
                    except BadBodyError as error:
                        raise self._bad_body(error) from None
                    complete.add(chunk)
                    yield chunk
        if not complete:
            raise self._unavailable("cut the stream before the answer was complete")

    async def check(self) -> None:
        """Ask for the upstream's models, once: is it there, and does it take the key?

        Raises
        ------
        UpstreamUnavailable
            With what is wrong and what to set.
        """
        deadline = time.monotonic() + min(self.timeouts.total, 10.0)
        try:
            async with self._open("GET", "/models", deadline, retries=0) as response:
                self._expect(response, "json")
                raw = b"".join([piece async for piece in self._bytes(response, deadline)])
            remote_body.parse_object(raw, response.headers.get("content-type", ""))
        except UpstreamRejected as error:
            raise self._unavailable(f"answers {error.status} to GET /models{_HINT}") from error
        except BadBodyError as error:
            raise self._bad_body(error) from None

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        deadline: float,
        payload: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send until a 200 begins to arrive; give its response, body unread, and close it after."""
        remaining = deadline - time.monotonic()
        attempts = AsyncRetrying(
            stop=stop_after_attempt(1 + (self.retries if retries is None else retries))
            | stop_before_delay(remaining),
            wait=self._pause,
            retry=retry_if_exception_type(_PassingError),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            async with asyncio.timeout(remaining):
                response: httpx.Response = await attempts(self._attempt, method, path, payload)
        except TimeoutError:
            raise self._too_slow() from None
        except _PassingError as error:
            n = int(attempts.statistics["attempt_number"])
            again = f" (tried {n} times)" if n > 1 else ""
            raise UpstreamUnavailable(f"{error}{again}") from error.__cause__
        try:
            yield response
        finally:
            await response.aclose()

    async def _attempt(
        self, method: str, path: str, payload: Mapping[str, Any] | None
    ) -> httpx.Response:
        try:
            request = self._client.build_request(method, self.base_url + path, json=payload)
        except ValueError as error:  # NaN, or half of a surrogate pair: both pass Python's JSON
            message = f"the request holds what JSON can't express: {error}"
            raise UpstreamRejected(400, {"error": {"message": message}}) from error
        try:
            response = await self._client.send(request, stream=True)
        except _NOT_SENT as error:
            brief = f"can't be reached: {_reason(error)}"
            raise _PassingError(self._say(brief), brief) from error
        except httpx.TimeoutException as error:
            raise self._silent() from error
        except httpx.HTTPError as error:
            if isinstance(error, _RESET) or str(error).startswith("Server disconnected"):
                brief = f"hung up: {_reason(error)}"
                raise _PassingError(self._say(brief), brief) from error
            # From None: the error quotes what came, which we mask.
            raise self._unavailable(f"broke HTTP's rules: {_reason(error)}") from None
        if response.status_code != httpx.codes.OK:
            try:
                raise await self._refusal(response)
            finally:
                await response.aclose()
        return response

    async def _refusal(self, response: httpx.Response) -> Exception:
        """The error that an answer other than 200 stands for."""
        status = response.status_code
        text = await self._error_text(response)
        said = f"answered with status {status}{remote_body.excerpt(text)}"
        if status in _REPEATED:
            pause = remote_body.retry_after(response.headers)
            asks = "" if pause is None else f"; it asks to wait {pause:.0f} s"
            return _PassingError(self._say(said + asks), f"status {status}", pause)
        if status in _OPERATORS:
            return self._unavailable(f"{said}; {self._key_hint()}")
        if response.is_redirect:
            where = public_url(response.headers.get("location", "nowhere"))
            return self._unavailable(f"redirects to {where}; set `upstream` to its final address")
        if not 400 <= status < 500 or status in _NO_VERDICT:
            return self._unavailable(said)
        body = remote_body.json_object(text)
        if body is None and status in (404, 405):
            return self._unavailable(said + _HINT)
        return UpstreamRejected(status, body or {"error": {"message": text[:1000]}})

    async def _error_text(self, response: httpx.Response) -> str:
        """The beginning of an error's body, as far as it comes, without our key."""
        raw = b""
        try:
            async for piece in response.aiter_bytes():
                raw += piece
                if len(raw) > _ERROR_BYTES:
                    break
        except httpx.HTTPError as error:
            log.debug("the body of an error broke off: %s", error)
        return self._mask(raw[:_ERROR_BYTES].decode(errors="replace"))

    async def _bytes(self, response: httpx.Response, deadline: float) -> AsyncGenerator[bytes]:
        """The response's body, bounded in time and size. A break is an `UpstreamUnavailable`."""
        n = 0
        pieces = response.aiter_bytes()
        while True:
            try:
                # Not around the whole loop: the time-out must never strike in the consumer's code.
                async with asyncio.timeout(deadline - time.monotonic()):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise self._too_slow() from None
            except httpx.TimeoutException as error:
                raise self._silent() from error
            except httpx.HTTPError as error:
                raise self._unavailable(f"cut its answer: {_reason(error)}") from error
            if piece is None:
                return
            n += len(piece)
            if n > MAX_BYTES:
                raise self._unavailable(f"sent an answer of more than {MAX_BYTES >> 20} MiB")
            yield piece

    def _expect(self, response: httpx.Response, kind: str) -> None:
        content_type = response.headers.get("content-type", "")
        if content_type and kind not in content_type.lower():
            raise self._unavailable(f"answered with {content_type} instead of {kind}{_HINT}")

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, _PassingError) else None
        return max(asked or 0.0, self._backoff(state))

    def _key_hint(self) -> str:
        if not self._key_env:
            return "check its key"
        if not self._key:
            return f"the variable {self._key_env}, which should hold its key, is not set or empty"
        return f"check the key in {self._key_env}"

    def _mask(self, text: str) -> str:
        """`text` without our key, should the upstream have repeated it."""
        return text.replace(self._key, "***") if self._key else text

    def _say(self, what: str) -> str:
        return self._mask(f"the upstream {public_url(self.base_url)} {what}")

    def _unavailable(self, what: str) -> UpstreamUnavailable:
        return UpstreamUnavailable(self._say(what))

    def _bad_body(self, error: BadBodyError) -> UpstreamUnavailable:
        return self._unavailable(error.what + remote_body.excerpt(self._mask(error.body)))

    def _silent(self) -> UpstreamUnavailable:
        seconds = f"{self.timeouts.read:g} s (upstream_read_timeout)"
        return self._unavailable(f"was silent for {seconds}")

    def _too_slow(self) -> UpstreamUnavailable:
        seconds = f"{self.timeouts.total:g} s (upstream_total_timeout)"
        return self._unavailable(f"did not finish within {seconds}")


_HINT = "; is `upstream` the address of an OpenAI-compatible API, ending in its path such as /v1?"


class _PassingError(Exception):
    """What a repeat may cure.

    `brief` quotes nothing the upstream said, which may repeat a prompt: it is for logs.
    `retry_after` is in seconds.
    """

    def __init__(self, message: str, brief: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.brief = brief
        self.retry_after = retry_after


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates: 60 ms to read, so once for all upstreams."""
    return httpx.create_ssl_context()


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    why = error.brief if isinstance(error, _PassingError) else "unknown"
    log.info("asking the upstream again in %.1f s: %s", state.upcoming_sleep, why)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
