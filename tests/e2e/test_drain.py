"""SIGTERM: not ready first, what is under way finishes, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.e2e.conftest import Gateway
from tests.redis_server import RedisServer

STORY = "Write a long story about a lighthouse keeper and his dog."


def body(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"{STORY} {fields}"}
    return {"model": "local", "messages": [message], **fields}


async def begun(client: httpx.AsyncClient, n: int) -> None:
    """Wait until the engine works on so many."""
    async with asyncio.timeout(20):
        while f'router_engine{{what="active"}} {n}.0' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)


async def ended(gateway: Gateway) -> int:
    assert gateway.process is not None
    return await asyncio.to_thread(gateway.process.wait, 20)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def log_of(gateway: Gateway) -> str:
    return gateway.log.read_text()


async def test_what_is_under_way_finishes_and_nothing_new_begins(
    tmp_path: Path, redis: RedisServer
) -> None:
    ledger = tmp_path / "ledger.db"
    options = {"redis-url": redis.url, "ledger": str(ledger), "drain-seconds": "30"}
    gateway = Gateway(options, tmp_path / "log")
    gateway.start()
    assert gateway.process is not None
    engine = gateway.engine_pid()
    with Redis.from_url(redis.url) as server:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            whole = asyncio.create_task(
                client.post("/v1/chat/completions", json=body(max_tokens=60))
            )
            streamed = asyncio.create_task(
                client.post("/v1/chat/completions", json=body(max_tokens=120, stream=True))
            )
            await begun(client, 2)
            assert len(server.client_list()) > 1
            gateway.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while (ready := await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
            refused = await client.post("/v1/chat/completions", json=body(max_tokens=1))
            answer, stream = await whole, await streamed
        assert ready.json()["missing"] == ["the gateway is stopping"]
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert int(refused.headers["Retry-After"]) >= 1
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"]
        assert stream.text.rstrip().endswith("data: [DONE]")
        assert await ended(gateway) == 0
        assert len(server.client_list()) == 1  # this one
    assert not is_there(engine)
    assert not ledger.with_name("ledger.db-wal").exists()  # it was closed
    with contextlib.closing(sqlite3.connect(ledger)) as kept:
        assert kept.execute("SELECT count(*) FROM decided").fetchone() == (2,)
    assert "Traceback" not in log_of(gateway)


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_takes_too_long_is_cut_and_told_so(tmp_path: Path, signals: int) -> None:
    options = {"ledger": "off", "drain-seconds": "0.5" if signals == 1 else "60"}
    gateway = Gateway(options, tmp_path / "log")
    gateway.start()
    assert gateway.process is not None
    engine = gateway.engine_pid()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        whole = asyncio.create_task(client.post("/v1/chat/completions", json=body()))
        streamed = asyncio.create_task(client.post("/v1/chat/completions", json=body(stream=True)))
        await begun(client, 2)
        gateway.process.send_signal(signal.SIGTERM)
        if signals == 2:
            async with asyncio.timeout(5):
                while (await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
            gateway.process.send_signal(signal.SIGINT)
        answer, stream = await whole, await streamed
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert '"code":"stopping"' in stream.text.replace(" ", "")
    assert "[DONE]" not in stream.text
    assert await ended(gateway) == 0
    assert not is_there(engine)
    assert "Traceback" not in log_of(gateway)
