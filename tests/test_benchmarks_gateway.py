"""The load of the gateway's benchmark: what it counts as an answer, and what as an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks import gateway_table
from benchmarks.gateway_load import Load, run, text_of
from benchmarks.gateway_servers import DIRECT, LITELLM, PEER, asked, upstream
from benchmarks.gateway_soak import KINDS, Soak, soak
from benchmarks.gateway_upstream import ANSWER
from benchmarks.servers import OURS, Server


@pytest.fixture(scope="module")
def behind() -> Iterator[Server]:
    with upstream() as started:
        yield started


def test_never_the_releases_that_stole_credentials() -> None:
    assert not any(PEER.endswith(f"=={bad}") for bad in ("1.82.7", "1.82.8", "1.107.0"))
    assert "==" in PEER


@pytest.mark.parametrize("stream", [False, True])
def test_clients_ask_until_all_questions_are_asked(behind: Server, stream: bool) -> None:
    before = asked(behind)
    outcome = run(Load(behind.port, clients=4, most=40, stream=stream))
    assert outcome.errors == {}
    assert len(outcome.latencies) == len(outcome.firsts) == 40
    assert asked(behind) - before == 40


def test_at_a_rate_requests_do_not_wait_for_answers() -> None:
    with upstream(pause=0.02) as slow:  # a stream takes 0.7 s
        outcome = run(Load(slow.port, stream=True, rate=100, seconds=0.4))
    assert outcome.errors == {}
    assert len(outcome.latencies) > 1  # one after the other, only the first would be asked in time


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (
            b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP 503 with Retry-After",
        ),
        (b"HTTP/1.1 502 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", "HTTP 502"),
        (
            b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{"choices":[]}',
            "no answer in it",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cut"),
    ],
)
async def test_what_is_no_answer_is_an_error(response: bytes, fault: str) -> None:
    async with answering(response) as port:
        outcome = await asyncio.to_thread(run, Load(port, clients=2, most=6))
    assert outcome.errors == {fault: 6}
    assert outcome.latencies == []


async def test_nobody_there_is_an_error() -> None:
    async with answering(b"") as port:
        pass
    load = Load(port, rate=50, clients=0, seconds=0.2)
    outcome = await asyncio.to_thread(run, load)
    assert set(outcome.errors) == {"ConnectionRefusedError"}


@asynccontextmanager
async def answering(response: bytes) -> AsyncIterator[int]:
    """A server that answers every request with these bytes, and hangs up; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(response)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_stream_without_its_end_is_no_answer() -> None:
    event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    assert text_of(event * 2 + b"data: [DONE]\n\n") == "aa"
    with pytest.raises(ValueError, match="cut"):
        text_of(event * 2)


def test_every_question_is_another_unless_they_are_to_repeat() -> None:
    load = Load(1, first=100)
    assert load.request(0) != load.request(1)
    repeating = Load(1, different=2)
    assert repeating.request(0) == repeating.request(2) != repeating.request(1)
    assert ANSWER.startswith("word0 word1 ")


def test_a_soak_of_a_moment(capsys: pytest.CaptureFixture[str]) -> None:
    found = soak(0, seconds=0.2)
    assert found.errors == {}
    assert found.answers >= 4
    assert found.readings[0] > 1e7
    rates, reading = capsys.readouterr().out.splitlines()
    assert [kind.split()[0] for kind in rates.split(", ")] == list(KINDS)
    assert reading.endswith(" MiB")


def test_a_soak_passes_if_memory_is_flat_and_nothing_failed() -> None:
    flat = Soak([100_000_000, 102_000_000, 98_000_000], answers=3)
    assert flat.passed
    assert "passed" in flat.summary()
    assert not Soak([100, 104]).passed
    failed = Soak([100, 100])
    failed.errors["HTTP 502"] += 1
    assert not failed.passed
    assert "HTTP 502" in failed.summary()


def test_tables_give_medians_and_ratios_of_rounds() -> None:
    def rounds(*p50s: float, **more: Any) -> list[Mapping[str, Any]]:
        return [
            {"p50": p, "p95": 2 * p, "p99": 3 * p, "rate": 1e3 / p, "cpu_ms": p, "errors": {}}
            | more
            for p in p50s
        ]

    both = {OURS: rounds(3, 2, 4), LITELLM: rounds(9, 20, 11, errors={"cut": 2})}
    parts = {
        "latency": {"remote": {DIRECT: rounds(1, 1, 1), **both}},
        "rate": {"200/s": both},
        "throughput": {"16 clients": both},
        "cache": {"1 client": both},
        "streams": {**rounds(500)[0], "answers": 9, "streams": 9, "rss_before": 1, "rss_after": 2},
    }
    machine = {"physical_cores": 2, "cpu": "X", "load_before": 0.0}
    report = {"parts": parts, "machine": machine, "peer": PEER, "rounds": 3, "command": "c"}
    table = list(gateway_table.text(report))
    assert "| remote | 1.00 / 2.00 | 2.00 | 4.00 | 10.00 | 20.00 | 0.25 | 0.25 |" in table
    assert f"| 200/s | {LITELLM} | 91 | 11.00 | 22.00 | 33.00 | 6 cut |" in table
    assert "| 16 clients | 333 | 91 | 3.00 | 3.00 | 11.00 | 0 | 6 cut |" in table
    assert f"| 1 client | {OURS} | 3.00 | 6.00 | 333 | 333 | 0 |" in table
    assert "| 9 | 9 | 0 | 0.5 | 1.5 | 0 before, 0 after |" in table
