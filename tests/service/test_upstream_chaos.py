"""An upstream that fails in every way: what the client gets, that nothing leaks, that it recovers.

The gateway and its connections are real, and so is the server that misbehaves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.pipeline import Pipeline
from router.remote import Timeouts, Upstream
from router.upstreams.breaker import BreakerRules
from router.upstreams.health import Health
from router.upstreams.pool import Member, UpstreamPool
from tests.router.calibrations import INFO
from tests.router.fake_upstream import (
    DONE,
    Server,
    Step,
    answer,
    chunk,
    completion,
    scripted,
    streamed,
)
from tests.router.faulty_upstream import BROKEN_ANSWER, BROKEN_STREAM, NO_STREAM
from tests.router.test_pipeline import FakeEngine
from tests.router.traffic import held_out, unsure
from tests.service.scripted import client_of

PATIENT = Timeouts(connect=5.0, read=1.0, total=2.0)
QUICK = Timeouts(connect=1.0, read=0.2, total=0.4)
"""Where nothing that comes in time is waited for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration by which the local answers of these tests are to be escalated."""
    folder = tmp_path_factory.mktemp("calibration")
    held_out("threshold=0.5").save(folder)
    return folder


UNSURE = unsure(1.3)


class Engine(FakeEngine):
    """Unsure of everything."""

    info = INFO


@dataclass
class Gateway:
    client: httpx.AsyncClient
    pool: UpstreamPool
    server: Server

    async def ask(self, **fields: Any) -> httpx.Response:
        message = {"role": "user", "content": "What is the capital of France?"}
        body = {"model": "auto", "messages": [message], **fields}
        return await self.client.post(
            "/v1/chat/completions", json=body, headers={"Cache-Control": "no-store"}
        )

    async def recovers(self, step: Step, **fields: Any) -> httpx.Response:
        """The upstream is well again: wait until it answers, and return the answer."""
        self.server.steps[:] = [step]
        async with asyncio.timeout(10):
            while True:
                reply = await self.ask(**fields)
                if '"route":"remote"' in reply.text.replace(" ", ""):
                    return reply
                await asyncio.sleep(0.02)

    async def is_idle(self) -> None:
        """Nothing is under way at the upstream, and nothing here either."""
        async with asyncio.timeout(5):
            while self.server.busy or _tasks():
                await asyncio.sleep(0.01)


def _tasks() -> list[str]:
    """Tasks that work for a request."""
    ours = (task.get_coro() for task in asyncio.all_tasks() if task is not asyncio.current_task())
    names = [getattr(coroutine, "__qualname__", "") for coroutine in ours]
    return [name for name in names if name not in _STANDING]


_STANDING = {"scripted.<locals>.serve", "Books._write", "KeyRing._follow", "LifespanOn.main"}


@asynccontextmanager
async def gateway(
    folder: Path,
    step: Step,
    url: str | None = None,
    rules: BreakerRules | None = None,
    timeouts: Timeouts = PATIENT,
) -> AsyncIterator[Gateway]:
    async with scripted(step) as server:
        upstream = Upstream(
            url or server.url,
            "large",
            "sk-of-the-upstream",
            name="main",
            timeouts=timeouts,
            retries=1,
            backoff=0.001,
            patience=0.05,
            health=Health(
                "main",
                rules=rules or BreakerRules(in_a_row=2, cool_down=0.02, longest=0.05),
                longest_rest=0.1,
            ),
        )
        pool = UpstreamPool([Member(upstream)], total=timeouts.total)
        pipeline = Pipeline(Engine(UNSURE), calibration_folder=str(folder), upstream=pool)
        await pipeline.start()
        async with client_of(pipeline, ledger="off") as client:
            yield Gateway(client, pool, server)


WELL = answer(completion("Paris."))
WELL_STREAMED = streamed(chunk("Paris."), chunk(finish="stop"), DONE)


def events(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


@pytest.mark.parametrize("step", BROKEN_ANSWER.values(), ids=BROKEN_ANSWER)
async def test_an_answer(step: Step, folder: Path) -> None:
    async with gateway(folder, step, timeouts=QUICK) as made:
        for _ in range(3):  # the last ones find the breaker open
            auto = await made.ask()
            assert auto.status_code == 200
            router = auto.json()["router"]
            assert (router["route"], router["reason"]) == ("local", "upstream_down")
            assert router["degraded"] is True
            assert router["upstream"] is None
            assert auto.json()["choices"][0]["message"]["content"] == UNSURE.text
        remote = await made.ask(model="remote")
        assert remote.status_code == 502
        assert remote.json()["error"]["code"] == "upstream_unavailable"
        assert "sk-of-the-upstream" not in remote.text
        await made.is_idle()
        well = (await made.recovers(WELL)).json()
        assert well["choices"][0]["message"]["content"] == "Paris."
        assert well["router"]["upstream"] == "main"
        await made.is_idle()


@pytest.mark.parametrize("step", NO_STREAM.values(), ids=NO_STREAM)
async def test_a_stream_that_never_begins(step: Step, folder: Path) -> None:
    async with gateway(folder, step, timeouts=QUICK) as made:
        auto = await made.ask(stream=True)
        assert auto.status_code == 200
        assert '"reason":"upstream_down"' in auto.text.replace(" ", "")
        assert events(auto)[-1] == "[DONE]"
        remote = await made.ask(model="remote", stream=True)
        assert remote.status_code == 502
        assert remote.json()["error"]["code"] == "upstream_unavailable"
        await made.is_idle()
        await made.recovers(WELL_STREAMED, stream=True)
        await made.is_idle()


@pytest.mark.parametrize("step", BROKEN_STREAM.values(), ids=BROKEN_STREAM)
async def test_a_stream_that_breaks_never_looks_complete(step: Step, folder: Path) -> None:
    async with gateway(folder, step) as made:
        response = await made.ask(stream=True)
        assert response.status_code == 200
        told = events(response)
        assert json.loads(told[0])["choices"][0]["delta"]["content"].startswith("four")
        assert "error" in json.loads(told[-1])
        assert "[DONE]" not in told
        assert UNSURE.text not in response.text  # never switched to the local answer
        await made.is_idle()
        await made.recovers(WELL_STREAMED, stream=True)
        await made.is_idle()


async def test_an_upstream_that_refuses_connections_and_comes_back(folder: Path) -> None:
    async with scripted(WELL) as gone:
        pass
    async with gateway(folder, WELL, gone.url) as made:
        router = (await made.ask()).json()["router"]
        assert (router["reason"], router["degraded"]) == ("upstream_down", True)
        assert (await made.ask(model="remote")).status_code == 502
        listener = await asyncio.start_server(
            _answers_once, "127.0.0.1", int(gone.url.split(":")[2].partition("/")[0])
        )
        async with listener:
            await made.recovers(WELL)
        await made.is_idle()


async def _answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await WELL(writer)
    writer.close()


async def test_while_it_is_sick_nobody_waits_for_it(folder: Path) -> None:
    """With an open breaker a hundred requests are answered without one call."""
    rules = BreakerRules(in_a_row=1, cool_down=3600.0)
    async with gateway(folder, BROKEN_ANSWER["hangs"], rules=rules) as made:
        await made.ask()
        n = len(made.server.requests)
        replies = await asyncio.gather(*(made.ask() for _ in range(100)))
        assert {reply.json()["router"]["reason"] for reply in replies} == {"upstream_down"}
        assert len(made.server.requests) == n
        waits = await made.ask(model="remote")
        assert waits.status_code == 502
        assert int(waits.headers["Retry-After"]) > 3000


async def test_an_operator_sees_it(folder: Path) -> None:
    rules = BreakerRules(in_a_row=1, cool_down=3600.0)
    async with gateway(folder, BROKEN_ANSWER["500s"], rules=rules) as made:
        well = (await made.client.get("/readyz")).json()
        await made.ask()
        await made.ask()
        ready = await made.client.get("/readyz")
        lines = (await made.client.get("/metrics")).text.splitlines()
    assert well["upstreams"] == {"main": "closed"}
    assert (ready.status_code, ready.json()["upstreams"]) == (200, {"main": "open"})
    for line in (
        'router_upstream_breaker{state="open",upstream="main"} 1.0',
        'router_upstream_breaker{state="closed",upstream="main"} 0.0',
        'router_upstream_breaker_transitions_total{state="open",upstream="main"} 1.0',
        'router_upstream_calls_total{result="failed",upstream="main"} 1.0',
        'router_upstream_calls_total{result="refused",upstream="main"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_of_the_upstream_is_never_served_from_the_cache(
    status: int, folder: Path
) -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error", "code": "no"}}
    async with gateway(folder, answer(error, status)) as made:
        body = {"model": "remote", "messages": [{"role": "user", "content": "Hello"}]}
        for _ in range(2):
            reply = await made.client.post("/v1/chat/completions", json=body)
            assert reply.status_code == (400 if status == 400 else 502)
        made.server.steps[:] = [WELL]
        async with asyncio.timeout(10):
            while (reply := await made.client.post("/v1/chat/completions", json=body)).is_error:
                await asyncio.sleep(0.02)
        assert reply.json()["choices"][0]["message"]["content"] == "Paris."
        assert reply.json()["router"]["cache"] == "miss"


async def test_who_leaves_ends_the_call(folder: Path) -> None:
    async with gateway(folder, BROKEN_ANSWER["hangs"]) as made:
        task = asyncio.create_task(made.ask(model="remote"))
        while not made.server.busy:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            while made.server.busy:
                await asyncio.sleep(0.005)
        assert made.pool.report()[0].standing == "closed"


HOSTILE: list[dict[str, Any]] = [
    {"base_url": "http://127.0.0.1:1/v1"},
    {"api_base": "http://127.0.0.1:1/v1"},
    {"extra_headers": {"X-Evil": "1"}},
    {"user": "x\r\nX-Evil: 1"},
    {"metadata": {"url": "http://127.0.0.1:1/", "Authorization": "Bearer evil"}},
    {"router": {"upstream": "http://127.0.0.1:1/v1"}},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=lambda fields: next(iter(fields)))
async def test_nothing_in_a_request_chooses_where_it_goes_or_as_whom(
    fields: dict[str, Any], folder: Path
) -> None:
    async with gateway(folder, WELL) as made:
        body = {
            "model": "remote",
            "messages": [{"role": "user", "content": "http://127.0.0.1:1/"}],
            **fields,
        }
        headers = {
            "Authorization": "Bearer of-the-caller",
            "Cookie": "a=b",
            "X-Evil": "1",
        }
        response = await made.client.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code in (200, 400)
        for request in made.server.requests:
            assert request.line == "POST /v1/chat/completions HTTP/1.1"
            assert request.headers["authorization"] == "Bearer sk-of-the-upstream"
            assert f"http://{request.headers['host']}/v1" == made.server.url
            assert not {"x-evil", "cookie"} & request.headers.keys()


async def test_one_callers_cookies_do_not_follow_the_next(folder: Path) -> None:
    step = answer(completion("Paris."), Set_Cookie="session=of-the-first; Path=/")
    async with gateway(folder, step) as made:
        await made.ask(model="remote")
        await made.ask(model="remote")
        assert ["cookie" in request.headers for request in made.server.requests] == [False] * 2
