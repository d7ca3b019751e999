"""The engine benchmark: prompts, what the client makes of a stream, medians, tables, processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import engine, processes
from benchmarks.engine import ALL, QUICK, STAR, Cell, Work, main, measure_cell, raw_figures
from benchmarks.engine_load import Load, Reply, body, load, reply
from benchmarks.engine_prompts import Messages, Prompt, PromptMaker
from benchmarks.engine_table import row, summarise, text
from benchmarks.servers import (
    BARE,
    OURS,
    REPLAYED,
    STOCK,
    XLLAMACPP,
    Server,
    ServerError,
    Setup,
    running,
)
from router.engine.messages import Message

# Prompts


def words(messages: Sequence[Message]) -> int:
    """Stands for a tokenizer."""
    return 10 + sum(len(message.content.split()) for message in messages)


def of(messages: Messages) -> str:
    return messages[-1].content


@pytest.mark.parametrize("tokens", [300, 1500])
def test_prompts_have_about_the_wanted_length(tokens: int) -> None:
    maker = PromptMaker(words)
    assert all(abs(words(maker.make(Prompt(tokens))) - tokens) <= 25 for _ in range(10))


def test_a_short_prompt_is_the_story_alone() -> None:
    found = PromptMaker(words).make(Prompt(30))
    assert of(found).startswith("Write a long story about the ")
    assert words(found) < 30


def test_no_two_prompts_begin_alike() -> None:
    maker = PromptMaker(words)
    found = [of(maker.make(Prompt(300))).split() for _ in range(40)]
    # One note has about 15 words; two that are the same would be followed by others.
    assert len({" ".join(each[:30]) for each in found}) == 40
    assert len({of(maker.make(Prompt(30))) for _ in range(200)}) == 200


def test_shared_prompts_differ_after_one_long_system_prompt() -> None:
    maker = PromptMaker(words)
    (system, first), (same, second) = (maker.make(Prompt(300, shared=True)) for _ in range(2))
    assert system == same
    assert system.role == "system"
    assert abs(len(system.content.split()) - 300) <= 25
    assert first != second


def test_the_same_seed_makes_the_same_prompts() -> None:
    one, other = PromptMaker(words), PromptMaker(words)
    assert [one.make(Prompt(300)) for _ in range(3)] == [other.make(Prompt(300)) for _ in range(3)]


# What the client sees


def event(text: str | None = None, **fields: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n'
USAGE = event(usage={"completion_tokens": 7, "prompt_tokens": 31})
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_the_first_token_is_timed_by_the_first_text() -> None:
    arrivals = [
        (10.5, HEAD + chunk(ROLE) + chunk(event(""))),
        (11.0, chunk(event("One"))[:9]),
        (12.0, chunk(event("One"))[9:]),
        (13.0, chunk(event("ce")) + chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n"),
    ]
    assert reply(10.0, arrivals) == Reply(2.0, 3.0, tokens=7, prompt_tokens=31)


def test_events_may_be_cut_anywhere() -> None:
    raw = HEAD + b"".join(map(chunk, (event("a"), ROLE + event("b")))) + chunk(DONE) + b"0\r\n\r\n"
    arrivals = [(float(i), raw[i : i + 1]) for i in range(len(raw))]
    found = reply(0.0, arrivals)
    assert found.first_seconds == len(HEAD) + len(chunk(event("a"))) - 3  # before its CRLF
    assert (found.tokens, found.prompt_tokens) == (2, None)


def test_events_of_a_body_without_chunks_end_with_carriage_returns_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    events = [each.replace(b"\n", b"\r\n") for each in (ROLE, event("a"), event("b"), DONE)]
    arrivals = [(float(i), data) for i, data in enumerate([head, *events])]
    assert reply(0.0, arrivals) == Reply(2.0, 4.0, tokens=2)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "hung up"),
        (HEAD + chunk(event("a")), "cut"),
        (HEAD + chunk(event("a"))[:-9], "cut"),
        (HEAD + chunk(event("a")) + b"0\r\n\r\n", "cut"),
        (HEAD + chunk(DONE) + b"0\r\n\r\n", "no text"),
        (HEAD + chunk(event(error={"message": "out of breath"})) + b"0\r\n\r\n", "out of breath"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 503: busy"),
    ],
)
def test_anything_but_a_whole_answer_is_an_error(raw: bytes, says: str) -> None:
    with pytest.raises(ServerError, match=says):
        reply(0.0, [(1.0, raw)])


Handler = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[int]:
    """A server of one endpoint; the port it listens on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        await handler(json.loads(await reader.readexactly(length)), writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def tell(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + chunk(ROLE) + chunk(event("a")) + chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n")


def bodies(n: int) -> list[dict[str, Any]]:
    return [body([Message("user", str(i))], 7, stream=True) for i in range(n)]


async def test_every_request_is_asked_once_by_so_many_clients() -> None:
    asked: list[dict[str, Any]] = []
    together = asyncio.Barrier(3)

    async def handler(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        await together.wait()  # answers nobody before all three clients wait
        await tell(request, writer)

    async with served(handler) as port:
        found = await load(port, bodies(6), clients=3)
    assert sorted(each["messages"][0]["content"] for each in asked) == list("012345")
    assert all(each["stream"] and each["temperature"] == 0 for each in asked)
    assert len(found.replies) == 6
    assert found.tokens == 42


async def test_clients_do_not_ask_again_when_time_is_up() -> None:
    async with served(tell) as port:
        found = await load(port, bodies(9), clients=2, limit_seconds=0)
    assert len(found.replies) == 2


async def test_a_server_that_is_gone_is_an_error() -> None:
    async with served(tell) as port:
        pass
    with pytest.raises(ServerError, match="Connect"):
        await load(port, bodies(1), clients=1)


async def test_a_server_that_talks_nonsense_is_an_error() -> None:
    async def handler(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(b"data: {hello\n\n") + b"0\r\n\r\n")

    async with served(handler) as port:
        with pytest.raises(ServerError, match="not what OpenAI's would be"):
            await load(port, bodies(1), clients=1)


def test_a_load_tells_rate_and_percentiles() -> None:
    found = Load(4.0, [Reply(0.1 * i, 1.0 * i, tokens=10) for i in range(1, 5)])
    assert found.rate == 10.0
    assert found.latency(50) == 2.5
    assert found.first(100) == pytest.approx(0.4)


# Cells


def test_names_of_cells_are_read_back() -> None:
    for name in {*QUICK, *STAR, *ALL} - {"gateway"}:
        assert Cell.read(name).name == name
    assert Cell.read("8xshared+64").prompt == Prompt(300, shared=True)
    assert (len(STAR), len(ALL)) == (14, 38)
    assert {*QUICK, *STAR} <= {*ALL}


@pytest.mark.parametrize("name", ["8x30", "0x30+64", "8xlong+64", "8x30+64 "])
def test_what_is_no_cell_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no load"):
        Cell.read(name)


def test_every_client_asks_at_least_twice() -> None:
    for name in {*ALL} - {"gateway"}:
        cell = Cell.read(name)
        assert cell.requests >= 2 * cell.clients


def test_the_plan_holds_each_prompt_once(model_path: Path) -> None:
    work = Work.plan(["2x30+16", "1xshared+8", "gateway"], model_path, 5.0)
    assert {name: len(asked) for name, asked in work.cells.items()} == {
        "2x30+16": 4,
        "1xshared+8": 4,
    }
    assert work.gateway
    asked = itertools.chain(work.warm_up, *work.cells.values())
    every = [str(each["messages"]) for each in asked]
    assert len({*every}) == len(every) == 16
    assert {each["max_tokens"] for each in work.cells["2x30+16"]} == {16}


# What comes of the rounds


def figures(rate: float, first: float = 1.0, tokens: int = 64) -> dict[str, Any]:
    replies = [Reply(first, 2.0, tokens, 31), Reply(first, 2.0, 64, 33)]
    found = raw_figures(
        Load((tokens + 64) / rate, replies), cpu_seconds=1.28, peak_bytes=200_000_000
    )
    return {**json.loads(json.dumps(found)), "rate": rate}


def test_medians_are_over_rounds_and_ratios_of_the_rounds_own() -> None:
    ours = [figures(100.0), figures(60.0), figures(90.0)]
    found = row([figures(50.0), figures(60.0, tokens=9), figures(30.0)], ours, 64)
    assert found["rate"] == 50.0
    assert (found["rate_lowest"], found["rate_highest"]) == (30.0, 60.0)
    assert found["rate_ratio"] == 2.0  # of 2, 1 and 3; not 90 / 50
    assert found["prompt_tokens"] == 32
    assert (found["cut_short"], found["requests"]) == (1, 6)


def test_a_round_that_failed_leaves_the_others() -> None:
    failed = {"error": "HTTP 500"}
    ours = [figures(100.0), failed, figures(90.0)]
    found = row([failed, figures(60.0), figures(30.0)], ours, 64)
    assert found["rate"] == 45.0
    assert found["rate_ratio"] == 3.0  # of the only round that both have
    assert found["errors"] == ["HTTP 500"]
    assert row([failed], [figures(1.0)], 64) == {"errors": ["HTTP 500"]}


def rounds() -> list[dict[str, Any]]:
    centre = {OURS: figures(106.0, 0.9), XLLAMACPP: figures(100.0), STOCK: figures(50.0)}
    shared = {OURS: figures(100.0), XLLAMACPP: figures(80.0), STOCK: {"error": "gone"}}
    servers = {name: {"8x30+64": centre[name], "8xshared+64": shared[name]} for name in centre}
    return [{"servers": servers, "gateway": gateway(own=1.4e-3)}]


def gateway(own: float) -> dict[str, float]:
    return {"own": own, "beside": 3.1e-3, "hit": 0.4e-3, "bare": 0.3e-3}


def test_goals_are_judged_where_they_were_measured() -> None:
    goals = {each["goal"]: each["reached"] for each in summarise(rounds())["goals"]}
    assert goals == {
        "ours >= 1.0x xllamacpp at 8 clients": True,
        "ours >= 1.3x xllamacpp at 8 clients with one system prompt": False,
        "ours >= 2.8x llama_cpp.server at 8 clients": False,
        "time to the first token <= 1.0x xllamacpp's at 8 clients": True,
        "the gateway's own work < 1.5 ms of CPU a request": True,
    }


def report() -> dict[str, Any]:
    build = {"version": "thing 1", "features": ["AVX2", "AVX512"]}
    return {
        "command": "again",
        "machine": {"cpu": "abacus", "physical_cores": 2, "load_before": 0.7},
        "settings": {"model": "/there/tiny.gguf", "threads": 2, "slots": 16, "context": 2048},
        "builds": {OURS: build, XLLAMACPP: {**build, "features": ["AVX2"]}},
        "rounds": rounds(),
        **summarise(rounds()),
    }


def test_the_report_says_what_a_reader_should_know() -> None:
    lines = list(text(report()))
    assert lines[0] == "abacus, 2 physical cores; tiny.gguf; thing 1, thing 1."
    assert "goal: ours >= 1.0x xllamacpp at 8 clients: 1.060 reached" in lines
    assert "goal: ours >= 2.8x llama_cpp.server at 8 clients: 2.120 missed" in lines
    own = "1.40 ms of CPU time a request (1.40-1.40), 0.40 ms from its cache"
    assert f"the gateway's own work: {own}" in lines
    assert "while a model computes beside it, which competes for the CPU's caches: 3.10 ms" in lines
    assert "a route of FastAPI's that does nothing: 0.30 ms" in lines
    assert f"{STOCK} failed in 8xshared+64, 1 of the rounds: gone" in lines
    assert "xllamacpp's llama.cpp is compiled without AVX512; ours has that" in lines
    assert any("busy" in line for line in lines)


def test_markdown_has_the_rows_of_the_page() -> None:
    lines = list(text(report(), markdown=True))
    shown = "106.0 (106-106) | 100.0 (100-100) | 1.06 | 50.0 (50-50) | 2.12"
    assert f"| 8 | 32 | 64 | {shown} |" in lines
    assert "| 8 | 32, shared | 64 | 100.0 (100-100) | 80.0 (80-80) | 1.25 | failed |  |" in lines
    assert "| 8 | 32 | 64 | seek-stronger | 0.90 |  | 2.00 | 2.00 | 10.0 | 200 |" in lines
    assert "- goal: the gateway's own work < 1.5 ms of CPU a request: 1.400 reached" in lines


def test_the_gateway_may_be_measured_alone() -> None:
    alone: list[dict[str, Any]] = [
        {"servers": {}, "gateway": gateway(own=1.6e-3)},
        {"servers": {}},
    ]
    lines = list(text({**report(), "rounds": alone, **summarise(alone)}))
    assert "goal: the gateway's own work < 1.5 ms of CPU a request: 1.600 missed" in lines
    assert not any("clients" in line for line in lines)


def test_a_written_report_is_printed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps(report()))
    assert main(["--read", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == list(text(report()))


# Servers and processes


def test_a_server_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of memory\nexit 1\n")
    python.chmod(0o755)
    setup = Setup(Path("tiny.gguf"), 1, python)
    with pytest.raises(ServerError, match="does not start: out of memory"), running(STOCK, setup):
        pass


def test_a_replayed_gateway_gives_all_the_first_answer(model_path: Path) -> None:
    setup = Setup(model_path, 1, None, context=256, slots=1)
    with running(REPLAYED, setup) as server, httpx.Client(base_url=server.url) as client:
        asked = [
            body([Message("user", f"Say {word}.")], 4, stream=False) for word in ("a", "one more")
        ]
        first, second = (client.post("/v1/chat/completions", json=each).json() for each in asked)
    assert first["choices"] == second["choices"]
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]


def test_the_web_stack_alone_answers_too() -> None:
    with running(BARE, Setup(Path("none.gguf"), 1, None)) as server:
        asked = body([Message("user", "Say a.")], 1, stream=False)
        answered = httpx.post(f"{server.url}/v1/chat/completions", json=asked)
    assert answered.json()["choices"][0]["message"]["content"]


def test_without_a_python_for_them_peers_fail_in_every_cell() -> None:
    work = Work([], {"1x30+8": [], "2x30+8": []}, 5.0, gateway=False)
    found = dict(engine.measure(XLLAMACPP, Setup(Path("tiny.gguf"), 1, None), work))
    assert list(found) == ["1x30+8", "2x30+8"]
    assert all("error" in each for each in found.values())


def test_a_cell_that_fails_is_told_and_not_raised() -> None:
    work = Work([], {"1x30+8": bodies(1)}, 5.0, gateway=False)
    nobody = Server("nobody", port=1, pid=os.getpid())
    assert "Connect" in measure_cell(nobody, "1x30+8", work)["error"]


PARENT = """
import subprocess, sys
code = "print(sum(range(4_000_000)), flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
input()
child.communicate()
"""


def test_processes_are_counted_with_their_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()  # the child has done its sum
        found = processes.tree(parent.pid)
        assert found[0] == parent.pid
        assert len(found) == 2
        own, every = processes.cpu_seconds(parent.pid), processes.tree_cpu_seconds(parent.pid)
        assert 0 <= own < every
        processes.forget_peaks(parent.pid)
        assert processes.tree_peak_bytes(parent.pid) >= processes.tree_bytes(parent.pid) > 1_000_000
        parent.communicate(b"\n")
    assert processes.tree(parent.pid) == []
    with pytest.raises(ProcessLookupError):
        processes.cpu_seconds(parent.pid)
