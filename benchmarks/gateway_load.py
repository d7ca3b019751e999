"""Puts a gateway under load over HTTP, from a process of its own that does little else.

It sends requests that were made before and only notes what comes and when. What came is checked
once the load is over. `python -m benchmarks.gateway_load` reads a `Load` as JSON, and writes an
`Outcome`; `run` does that from another program.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, cast

import httptools
import numpy as np
import uvloop

from benchmarks.gateway_upstream import ANSWER

ANSWER_SECONDS = 60
"""After which an answer that is not there counts as an error."""


@dataclass(frozen=True)
class Load:
    """What is asked, how often and of whom.

    Attributes
    ----------
    model : what the request names; with ``tools``, it also describes a tool.
    clients : connections of which each asks again once it is answered. With `rate`, those to
        begin with.
    rate : requests a second, at random moments (a Poisson process); 0: as fast as it goes.
    seconds : after which nobody asks any more.
    most : requests after which nobody asks any more.
    first : the number of the first question; each number is a question of its own.
    different : after so many questions they begin again; 0: none is asked twice.
    """

    port: int
    model: str = "remote"
    tools: bool = False
    stream: bool = False
    clients: int = 1
    rate: float = 0.0
    seconds: float = 60.0
    most: int = 1_000_000
    first: int = 0
    different: int = 0

    def request(self, number: int) -> bytes:
        """The request that asks this question."""
        question = self.first + (number % self.different if self.different else number)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "user", "content": f"What is the answer to question {question}?"}
            ],
            "temperature": 0,
        }
        if self.tools:
            body["tools"] = [_TOOL]
        if self.stream:
            body["stream"] = True
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}


@dataclass
class Outcome:
    """What came of a load.

    Attributes
    ----------
    latencies : seconds from each request to the last byte of its answer; of whole ones only.
    firsts : seconds to the first byte of the answer's body.
    errors : what else came, how often.
    seconds : from the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Whole answers a second."""
        return len(self.latencies) / self.seconds

    def ms(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds; NaN when there are none."""
        return float(np.percentile(self.latencies, percent)) * 1e3 if self.latencies else np.nan


@dataclass
class _Exchange:
    """A request that was sent, and what came."""

    sent: float
    first: float = 0.0
    end: float = 0.0
    status: int = 0
    retry_after: bool = False
    body: list[bytes] = field(default_factory=list)
    lost: str = ""


class _Connection(asyncio.Protocol):
    """Sends one request at a time; tells its `loading` when it is free."""

    def __init__(self, loading: _Loading) -> None:
        self._loading = loading
        self._exchange: _Exchange | None = None
        self._closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._exchange = _Exchange(perf_counter())
        self._closes = False
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and self._exchange is not None:
            self._exchange.retry_after = True
        elif name.lower() == b"connection" and value.lower() == b"close":
            self._closes = True

    def on_body(self, body: bytes) -> None:
        assert self._exchange is not None
        if not self._exchange.body:
            self._exchange.first = perf_counter()
        self._exchange.body.append(body)

    def on_message_complete(self) -> None:
        assert self._exchange is not None
        exchange, self._exchange = self._exchange, None
        exchange.end = perf_counter()
        exchange.status = self._parser.get_status_code()
        if self._closes:
            self._transport.close()
        self._loading.done(exchange, None if self._closes else self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.end = perf_counter()
            exchange.lost = f"cut: {type(exc).__name__}" if exc else "cut"
            self._loading.done(exchange, None)
        else:
            self._loading.gone(self)


class _Loading:
    """One load under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._exchanges: list[_Exchange] = []
        self._free: list[_Connection] = []
        self._n_asked = 0
        self._n_under_way = 0
        self._ended = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()
        self._requests = self._made()

    async def carry_out(self) -> Outcome:
        load = self._load
        for _ in range(load.clients):
            self._free.append(await self._connect())
        gc.disable()
        start = perf_counter()
        self._until = start + load.seconds
        if load.rate:
            await self._at_random(load.rate)
        else:
            for connection in [self._free.pop() for _ in range(load.clients)]:
                self._ask(connection)
        if self._n_under_way == 0:
            self._ended.set()
        try:
            async with asyncio.timeout(load.seconds + ANSWER_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            pass
        end = max((exchange.end for exchange in self._exchanges), default=perf_counter())
        outcome = _outcome(self._exchanges, end - start)
        if self._n_under_way:
            outcome.errors["no answer"] = self._n_under_way
        return outcome

    def done(self, exchange: _Exchange, connection: _Connection | None) -> None:
        self._exchanges.append(exchange)
        self._n_under_way -= 1
        if self._load.rate or not self._goes_on():
            if connection is not None:
                self._free.append(connection)
        elif connection is not None:
            self._ask(connection)
        else:
            self._ask_anew()
        if self._n_under_way == 0 and not self._goes_on():
            self._ended.set()

    def gone(self, connection: _Connection) -> None:
        """A connection was closed while nothing was asked."""
        if connection in self._free:
            self._free.remove(connection)

    async def _at_random(self, rate: float) -> None:
        pauses = random.Random(self._load.first)
        moment = perf_counter()
        while True:
            moment += pauses.expovariate(rate)
            await asyncio.sleep(max(0.0, moment - perf_counter()))
            if not self._goes_on():
                return
            if self._free:
                self._ask(self._free.pop())
            else:
                self._ask_anew()

    def _goes_on(self) -> bool:
        return self._n_asked < self._load.most and perf_counter() < self._until

    def _ask(self, connection: _Connection) -> None:
        self._n_asked += 1
        self._n_under_way += 1
        connection.ask(next(self._requests))

    def _ask_anew(self) -> None:
        """Ask by a connection that is yet to be made."""
        self._n_asked += 1
        self._n_under_way += 1
        task = asyncio.ensure_future(self._connect_and_ask(next(self._requests)))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_ask(self, request: bytes) -> None:
        began = perf_counter()
        try:
            connection = await self._connect()
        except OSError as error:
            self.done(_Exchange(began, end=perf_counter(), lost=type(error).__name__), None)
            return
        connection.ask(request)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), "127.0.0.1", self._load.port
        )
        return connection

    def _made(self) -> Iterator[bytes]:
        number = 0
        while True:
            yield self._load.request(number)
            number += 1


def _outcome(exchanges: list[_Exchange], seconds: float) -> Outcome:
    errors: Counter[str] = Counter()
    outcome = Outcome(seconds=seconds)
    for each in exchanges:
        fault = _fault(each)
        if fault:
            errors[fault] += 1
        else:
            outcome.latencies.append(each.end - each.sent)
            outcome.firsts.append(each.first - each.sent)
    outcome.errors = dict(errors)
    return outcome


def _fault(exchange: _Exchange) -> str:
    """What is wrong with an answer; nothing when it is whole and the one that the upstream gave."""
    if exchange.lost:
        return exchange.lost
    if exchange.status != 200:
        return f"HTTP {exchange.status}" + " with Retry-After" * exchange.retry_after
    try:
        return "" if text_of(b"".join(exchange.body)) == ANSWER else "another answer"
    except (ValueError, KeyError, IndexError, TypeError):
        return "no answer in it"


def text_of(body: bytes) -> str:
    """The text of an answer, whole or streamed. Raises ValueError for a stream that was cut."""
    if not body.startswith(b"data:"):
        return str(json.loads(body)["choices"][0]["message"]["content"])
    lines = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    if lines[-1] != b"[DONE]":
        raise ValueError("the stream was cut")
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices") or ()]
    return "".join(delta.get("content") or "" for delta in deltas)


def run(load: Load) -> Outcome:
    """Carry out `load` from a process of its own. Raises CalledProcessError when that fails."""
    command = [sys.executable, "-m", "benchmarks.gateway_load"]
    done = subprocess.run(
        command, input=json.dumps(asdict(load)), capture_output=True, text=True, check=True
    )
    return Outcome(**json.loads(done.stdout))


async def _main(load: Load) -> Outcome:
    return await _Loading(load).carry_out()


if __name__ == "__main__":
    json.dump(asdict(uvloop.run(_main(Load(**json.load(sys.stdin))))), sys.stdout)
