"""One remote LLM: a server that speaks an API we know, over connections that are kept.

What is repeated, and what never is:

- repeated: a connection that was refused, timed out while being made, or was reset before an
  answer began; and the statuses 429, 502, 503, 504 and 529, after the time that ``Retry-After``
  asks for;
- never: a request whose answer was too slow or broke off (it may have been billed), any other
  status, and a stream that has begun.

All attempts and the pauses between them share one deadline. An upstream with a `Health` is left
alone while its breaker is open or it has asked for a rest; repeats are taken from its budget.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import math
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
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
from router.errors import UpstreamBusy, UpstreamRejected, UpstreamUnavailable
from router.prices import FREE, Prices
from router.remote_body import BadBodyError, RemoteAnswer, is_usage_chunk, usage_of
from router.stages import UpstreamCall
from router.upstreams.anthropic import Anthropic
from router.upstreams.call import Call, PassingError, TimeLeft, Timeouts
from router.upstreams.dialect import Dialect, OpenAI
from router.upstreams.entry import Api, UpstreamEntry
from router.upstreams.faults import Faults, reason
from router.upstreams.health import Health
from router.upstreams.stream import RemoteStream
from router.upstreams.transport import KEEP_SECONDS, AiohttpTransport
from router.urls import public_url

__all__ = ["RemoteAnswer", "Timeouts", "Upstream", "is_usage_chunk", "usage_of"]

log = logging.getLogger("router.remote")

MAX_BYTES = 16 << 20
"""Longest answer that is read, in bytes; one that is longer is an error."""

MAX_CALLS = 1024
"""Requests to one upstream at the same time; one more is an `UpstreamBusy`."""

_LONGEST_BACKOFF = 8.0
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "seek-stronger"}
_USUAL = Timeouts()
_DIALECTS: Mapping[Api, Dialect] = {"openai": OpenAI(), "anthropic": Anthropic()}


class Upstream:
    """One server.

    Parameters
    ----------
    base_url : address with its path, such as ``https://host/v1``.
    model : replaces the request's ``model``; empty passes the caller's own on.
    key : says who asks; None sends none. It appears in no repr, log or exception.
    name : what logs, metrics and answers call it.
    api : what it speaks.
    models : the request's ``model`` -> the one to ask for; goes before `model`.
    prices : of its tokens.
    timeouts, retries : see the module's docstring; `retries` counts the repeats.
    key_env : name of the variable the key came from, for messages.
    backoff : seconds before the first repeat; each further one waits twice as long, up to 8 s, and
        a random part more.
    patience : seconds that a repeat waits at most where the upstream asks to wait; for longer, none
        is made.
    health : tells whether it is to be left alone now; None: never.
    transport : stands in for the network, in tests.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        key: str | None = None,
        *,
        name: str = "upstream",
        api: Api = "openai",
        models: Mapping[str, str] | None = None,
        prices: Prices = FREE,
        timeouts: Timeouts = _USUAL,
        retries: int = 2,
        key_env: str = "",
        backoff: float = 0.25,
        patience: float = math.inf,
        health: Health | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.name = name
        self.prices = prices
        self.timeouts = timeouts
        self.retries = retries
        self.health = health
        self.api = api
        self._dialect = _DIALECTS[api]
        self._models = dict(models or {})
        self._key = key
        self._faults = Faults(self.base_url, key, key_env, timeouts, self._dialect, health)
        self._backoff = wait_exponential_jitter(
            multiplier=backoff, max=_LONGEST_BACKOFF, jitter=backoff
        )
        self._patience = patience
        self._headers = httpx.Headers({**_HEADERS, **self._dialect.headers(key)})
        silence = httpx.Timeout(timeouts.read, connect=timeouts.connect, pool=timeouts.connect)
        self._extensions = {"timeout": silence.as_dict()}
        self._transport = transport or _transport_to(self.base_url)

    @classmethod
    def from_entry(
        cls, entry: UpstreamEntry, *, health: Health | None = None, patience: float = math.inf
    ) -> Upstream:
        """Return the upstream of one table, with the key from the environment.

        Raises ConfigError when the key can't be sent.
        """
        return cls(
            entry.url,
            entry.model,
            entry.key(),
            name=entry.name,
            api=entry.api,
            models=entry.models,
            prices=entry.prices,
            timeouts=Timeouts(
                connect=entry.connect_timeout or _USUAL.connect,
                read=entry.read_timeout or _USUAL.read,
                total=entry.total_timeout or _USUAL.total,
            ),
            retries=2 if entry.retries is None else entry.retries,
            key_env=entry.key_env,
            patience=patience,
            health=health,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Upstream | None:
        """Return the first upstream of `settings` by priority, without a breaker; or None.

        Raises ConfigError when its key can't be sent.
        """
        entries = settings.upstream_entries()
        return cls.from_entry(entries[0]) if entries else None

    def __repr__(self) -> str:
        key = "***" if self._key else None
        return f"Upstream({public_url(self.base_url)!r}, model={self.model!r}, key={key!r})"

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the object can't be used afterwards."""
        await self._transport.aclose()

    async def chat(self, body: Mapping[str, Any], *, deadline: float | None = None) -> RemoteAnswer:
        """Ask for a complete answer to an OpenAI request.

        `body` is the caller's; what only the local engine understands (``top_k``, ``min_p``,
        ``repetition_penalty``, ``router``) is left out, and so is streaming. `deadline` is a moment
        of `time.monotonic` that may end it before its own time is over.

        Raises
        ------
        UpstreamUnavailable
            Unreachable, too slow, misconfigured, left alone for now, or its answer is no chat
            completion; `UpstreamBusy` when we ask it for too much at once.
        UpstreamRejected
            It finds fault with the request itself (most 4xx), or has no words for it
            (`NotExpressible`).
        """
        payload = self._dialect.request(body, self._model_for(body), stream=False)
        time_left = TimeLeft.of(self.timeouts.total, deadline)
        async with self._open("POST", self._dialect.path, time_left, payload) as call:
            raw = await self._whole(call, time_left)
            try:
                kind = call.response.headers.get("content-type", "")
                answer = self._dialect.answer(raw, kind)
            except BadBodyError as error:
                raise self._faults.bad_body(error) from None
            call.begun()
            call.stage.took(answer.usage)
        cost = self.prices.cost(answer.usage) if self.prices.known else None
        return dataclasses.replace(answer, upstream=self.name, cost_usd=cost)

    def stream(self, body: Mapping[str, Any], *, deadline: float | None = None) -> RemoteStream:
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
        return RemoteStream(self._chunks(body, deadline), self.name, self.prices)

    async def _chunks(
        self, body: Mapping[str, Any], deadline: float | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        payload = self._dialect.request(body, self._model_for(body), stream=True)
        time_left = TimeLeft.of(self.timeouts.total, deadline)
        reader = self._dialect.chunks()
        async with self._open("POST", self._dialect.path, time_left, payload) as call:
            self._expect(call.response, "text/event-stream")
            async with aclosing(sse.events(self._bytes(call, time_left))) as events:
                async for data in events:
                    try:
                        chunks = list(reader.read(data))
                    except BadBodyError as error:
                        raise self._faults.bad_body(error) from None
                    for chunk in chunks:
                        call.begun()
                        call.stage.chunk(chunk)
                        yield chunk
                    if reader.ended:
                        return
            if not reader.complete:
                raise self._faults.unavailable(
                    "cut the stream before the answer was complete", "cut"
                )

    async def check(self) -> None:
        """Ask for the upstream's models, once: is it there, and does it take the key?

        Raises
        ------
        UpstreamUnavailable
            With what is wrong and what to set.
        """
        time_left = TimeLeft.of(min(self.timeouts.total, 10.0), None)
        try:
            async with self._open("GET", "/models", time_left, retries=0) as call:
                raw = await self._whole(call, time_left)
                remote_body.parse_object(raw, call.response.headers.get("content-type", ""))
                call.begun()
        except UpstreamRejected as error:
            hint = self._dialect.hint
            raise self._faults.unavailable(
                f"answers {error.status} to GET /models{hint}"
            ) from error
        except BadBodyError as error:
            raise self._faults.bad_body(error) from None

    def _stage(self, payload: Mapping[str, Any] | None) -> UpstreamCall:
        asked = payload or {}
        return UpstreamCall(
            name=self.name,
            api=self.api,
            base_url=self.base_url,
            model=str(asked.get("model", "")),
            stream=bool(asked.get("stream")),
        )

    def _model_for(self, body: Mapping[str, Any]) -> str:
        return self._models.get(str(body.get("model", "")), self.model)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        time_left: TimeLeft,
        payload: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
    ) -> AsyncIterator[Call]:
        """Send until a 200 begins to arrive; give its response, body unread, and close it after."""
        enough = stop_after_attempt(
            1 + (self.retries if retries is None else retries)
        ) | stop_before_delay(time_left.seconds)
        attempts = AsyncRetrying(
            stop=lambda state: enough(state) or not self._may_repeat(state),
            wait=self._pause,
            retry=retry_if_exception_type(PassingError),
            before_sleep=self._log_retry,
            reraise=True,
        )
        call = Call(self.health, self._stage(payload))
        if self.health is not None:
            self.health.called()
        try:
            try:
                async with asyncio.timeout(time_left.seconds):
                    call.response = await attempts(self._attempt, call, method, path, payload)
            except TimeoutError:
                raise self._faults.too_slow(call, time_left) from None
            except PassingError as error:
                n = int(attempts.statistics["attempt_number"])
                again = f" (tried {n} times)" if n > 1 else ""
                raise UpstreamUnavailable(f"{error}{again}", error.retry_after) from error.__cause__
            call.stage.began(call.response.status_code, attempts.statistics["attempt_number"])
            yield call
        except UpstreamUnavailable as error:
            call.failed()
            call.stage.failed(error)
            raise
        except UpstreamRejected as error:
            call.begun()
            call.stage.failed(error)
            raise
        finally:
            await call.close()

    async def _attempt(
        self, call: Call, method: str, path: str, payload: Mapping[str, Any] | None
    ) -> httpx.Response:
        call.enter(self._faults.left_alone)
        try:
            return await self._send(method, path, payload, call.stage.headers)
        except UpstreamBusy:
            call.given_up()
            raise
        except PassingError as error:
            call.passed(error)
            raise

    async def _send(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        try:
            request = httpx.Request(
                method,
                self.base_url + path,
                headers={**self._headers, **headers} if headers else self._headers,
                json=payload,
                extensions=self._extensions,
            )
        except ValueError as error:  # NaN, or half of a surrogate pair: both pass Python's JSON
            message = f"the request holds what JSON can't express: {error}"
            raise UpstreamRejected(400, {"error": {"message": message}}) from error
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            fault = self._faults.sending(error)
            if isinstance(fault, UpstreamUnavailable):
                raise fault from None  # the cause quotes what came, which may hold our key
            raise fault from error
        if response.status_code != httpx.codes.OK:
            try:
                raise await self._faults.refusal(response)
            finally:
                await response.aclose()
        return response

    async def _whole(self, call: Call, time_left: TimeLeft) -> bytes:
        """All of a JSON body."""
        self._expect(call.response, "json")
        return b"".join([piece async for piece in self._bytes(call, time_left)])

    async def _bytes(self, call: Call, time_left: TimeLeft) -> AsyncGenerator[bytes]:
        """The response's body, bounded in time and size. A break is an `UpstreamUnavailable`."""
        n = 0
        pieces = call.response.aiter_bytes()
        while True:
            try:
                # Not around the whole loop: the time-out must never strike in the consumer's code.
                async with asyncio.timeout(time_left.seconds):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise self._faults.too_slow(call, time_left) from None
            except httpx.TimeoutException as error:
                raise self._faults.silent() from error
            except httpx.HTTPError as error:
                raise self._faults.unavailable(f"cut its answer: {reason(error)}") from error
            if piece is None:
                return
            n += len(piece)
            if n > MAX_BYTES:
                raise self._faults.unavailable(f"sent an answer of more than {MAX_BYTES >> 20} MiB")
            yield piece

    def _expect(self, response: httpx.Response, kind: str) -> None:
        content_type = response.headers.get("content-type", "")
        if content_type and kind not in content_type.lower():
            raise self._faults.unavailable(
                f"answered with {content_type} instead of {kind}{self._dialect.hint}"
            )

    def _pause(self, state: RetryCallState) -> float:
        return max(_asked_pause(state), self._backoff(state))

    def _may_repeat(self, state: RetryCallState) -> bool:
        if _asked_pause(state) > self._patience:
            return False
        return self.health is None or self.health.may_retry()

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        why = error.brief if isinstance(error, PassingError) else "unknown"
        seconds = state.upcoming_sleep
        log.info("asking the upstream %s again in %.1f s: %s", self.name, seconds, why)


@functools.cache
def trusted_certificates() -> ssl.SSLContext:
    """The trusted certificates: 60 ms to read, so once for all upstreams."""
    return httpx.create_ssl_context()


def _transport_to(url: str) -> httpx.AsyncBaseTransport:
    """Return what carries requests to `url`: through the environment's proxy, if it names one."""
    to = httpx.URL(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(to.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(to.host):
        return AiohttpTransport(trusted_certificates(), max_connections=MAX_CALLS)
    return httpx.AsyncHTTPTransport(
        verify=trusted_certificates(),
        limits=httpx.Limits(max_connections=MAX_CALLS, keepalive_expiry=KEEP_SECONDS),
        proxy=proxy if "://" in proxy else f"http://{proxy}",
    )


def _asked_pause(state: RetryCallState) -> float:
    """Seconds that the last attempt's answer asked to wait."""
    error = state.outcome.exception() if state.outcome else None
    return (error.retry_after or 0.0) if isinstance(error, PassingError) else 0.0
