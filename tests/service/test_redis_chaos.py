"""A Redis that fails in every way, under all that the gateway uses it for.

One gateway, with the cache and its claims, rate limits, budgets and the ledger in one Redis: what
its clients get, that nothing leaks, and that it recovers by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from router.account import Account
from router.budget import open_budgets
from router.budgets import RedisStore
from router.config import Settings
from router.keystore import KeyStore
from router.ledger.redis import RedisLedger
from router.pipeline import Pipeline
from router.prices import Prices
from router.remote_body import RemoteAnswer
from service.cache import RedisCache
from service.limits import RedisLimits
from tests.redis_server import RedisServer
from tests.router.calibrations import INFO
from tests.router.fake_upstream import completion
from tests.router.test_pipeline import FakeEngine
from tests.router.traffic import LLM, held_out, unsure
from tests.service.scripted import client_of

TIMEOUT = 0.2
"""Seconds that each user of Redis waits for it; 0.5 to 2 where nothing else is said."""

PAUSE = 0.1


USERS = {
    "service.gateway.RedisCache": partial(RedisCache, timeout=TIMEOUT, pause=PAUSE),
    "service.limits.RedisLimits": partial(RedisLimits, timeout=TIMEOUT, pause=PAUSE),
    "router.budgets.choose.RedisStore": partial(RedisStore, timeout=TIMEOUT),
    "router.ledger.choose.RedisLedger": partial(RedisLedger, timeout=TIMEOUT),
}
"""All there are, less patient."""


class UnsureEngine(FakeEngine):
    """Has an answer that the calibration escalates."""

    info = INFO


class Upstream(LLM):
    """Answers once it is let go, if it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = 0

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        self.asked += 1
        await self.go_on.wait()
        answer = await super().chat(body)
        return RemoteAnswer(completion("Paris."), answer.text, answer.finish_reason, answer.usage)

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        self.asked += 1
        await self.go_on.wait()
        async for chunk in super().chunks(body):
            yield chunk


@dataclass
class World:
    """The gateway and its Redis."""

    client: httpx.AsyncClient
    upstream: Upstream
    redis: RedisServer
    asked: int = 0
    stranger: asyncio.Server | None = None
    talks: set[asyncio.Task[None]] = field(default_factory=set)

    async def no_stranger(self) -> None:
        """Redis is in its own place again."""
        if self.stranger is not None:
            self.stranger.close()
            for talk in self.talks:
                talk.cancel()
            await asyncio.gather(*self.talks, return_exceptions=True)
            self.stranger = None
            self.redis.start()

    def order(self, *command: str | int) -> Any:
        """Ask Redis over a connection of our own."""
        with Redis.from_url(self.redis.url) as redis:
            return redis.execute_command(*command)

    async def ask(self, question: str, **fields: Any) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": question}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    def new(self) -> str:
        """A question that was not asked before."""
        self.asked += 1
        return f"What is the capital of the country number {self.asked}?"

    async def feedback(self, id: str) -> httpx.Response:
        return await self.client.post("/v1/feedback", json={"id": id, "answer": "Paris"})

    async def kept(self, id: str) -> None:
        """Wait until the ledger has it."""
        while not self.order("EXISTS", f"router:ledger:1:entry:{id}"):
            await asyncio.sleep(0.01)

    async def budget(self) -> dict[str, Any]:
        """Where the only limit on money stands."""
        (limit,) = (await self.client.get("/v1/budget")).json()["limits"]
        return dict(limit)

    async def all_works(self) -> bool:
        """Whether an answer is cached, limits and money are counted in Redis, and labels kept."""
        question = self.new()
        first, again = await self.ask(question), await self.ask(question)
        if again.json()["router"]["cache"] != "hit":
            return False
        if (await self.feedback(first.json()["id"])).status_code != 200:
            return False
        kept = [key.decode().split(":1:")[0] for key in self.order("KEYS", "*")]
        return {"router:limits", "router:{budget}", "router:ledger"} <= set(kept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    held_out("threshold=0.5").save(folder)
    return folder


@pytest.fixture
async def world(
    folder: Path, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    for place, user in USERS.items():
        monkeypatch.setattr(place, user)
    monkeypatch.setattr("router.budget.SECONDS_BETWEEN_LOOKS", PAUSE)
    monkeypatch.setattr("service.books.SECONDS_TO_GATHER", 0.01)
    keys = KeyStore(tmp_path / "keys.db")
    account = Account(name="ada", requests_per_minute=100_000, tokens_per_minute=10**9)
    key, _ = keys.create(account, admin=True)
    money = Settings(redis_url=redis_server.url, budget_usd_per_day=1000.0)
    tasks = asyncio.all_tasks()
    pipeline = Pipeline(
        UnsureEngine(unsure(1.3)),
        calibration_folder=str(folder),
        upstream=(upstream := Upstream()),
        prices=Prices(1.0, 4.0),
        budgets=open_budgets(money),
    )
    async with client_of(
        pipeline, redis_url=redis_server.url, ledger="redis", keys=str(keys.path)
    ) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield (made := World(client, upstream, redis_server))
    await made.no_stranger()
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert left <= tasks, "a task was left behind"
    with Redis.from_url(redis_server.url) as redis:
        assert len(redis.client_list()) == 1, "a connection was left open"


Act = Callable[[World], Any]


@dataclass(frozen=True)
class Fault:
    """A way to fail, and the way back.

    `cache` is what a question gets that had been answered before, `feedback` and `purge` are the
    statuses of those requests; None: either way is right, as it depends on the moment.
    """

    begin: Act
    end: Act
    cache: str = "miss"
    feedback: int = 503
    purge: int = 503


def speaks(reply: bytes) -> Act:
    """Another server in Redis' place, which says this to whatever it is told."""

    async def begin(world: World) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            world.talks.add(task)
            with closing(writer):
                while await reader.read(65_536):
                    writer.write(reply)

        world.redis.stop()
        world.stranger = await asyncio.start_server(talk, "127.0.0.1", world.redis.port)

    return begin


def holds_garbage(world: World) -> None:
    """Whatever is kept under our keys is something else."""
    for key in world.order("KEYS", "*"):
        world.order("SET", key, "garbage")


def loses_its_data(world: World) -> None:
    world.order("FLUSHALL")


FAULTS = {
    "dies": Fault(lambda world: world.redis.stop(), lambda world: world.redis.start()),
    "hangs": Fault(lambda world: world.redis.hang(), lambda world: world.redis.go_on()),
    "is full": Fault(
        lambda world: world.order("CONFIG", "SET", "maxmemory", 1),
        lambda world: world.order("CONFIG", "SET", "maxmemory", 0),
        cache="hit",
        purge=200,
    ),
    "is read-only": Fault(
        lambda world: world.order("REPLICAOF", "127.0.0.1", "1"),
        lambda world: world.order("REPLICAOF", "NO", "ONE"),
        cache="hit",
    ),
    "has lost its data": Fault(loses_its_data, lambda _: None, feedback=404, purge=200),
    "holds garbage": Fault(holds_garbage, loses_its_data, purge=200),
    "is no Redis": Fault(speaks(b"SSH-2.0-OpenSSH_9.6\r\n"), World.no_stranger),
    "is a web server": Fault(speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n"), World.no_stranger),
    "says OK to everything": Fault(speaks(b"+OK\r\n"), World.no_stranger),
    "says half a sentence": Fault(speaks(b"$100\r\nhalf"), World.no_stranger),
    "says nonsense": Fault(speaks(b"\x00\xff" * 50 + b"\r\n"), World.no_stranger),
}


async def do(act: Act, world: World) -> None:
    done = act(world)
    if asyncio.iscoroutine(done):
        await done


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_it_fails_and_comes_back(fault: Fault, world: World) -> None:
    async with asyncio.timeout(20):
        known = world.new()
        before = await world.ask(known)
        await world.kept(before.json()["id"])
        assert (await world.ask(known)).json()["router"]["cache"] == "hit"
        await do(fault.begin, world)
        twice = world.new()
        again, one, other, streamed, private = await asyncio.gather(
            world.ask(known),
            world.ask(twice),
            world.ask(twice),
            world.ask(world.new(), stream=True),
            world.ask(world.new(), router={"local_only": True}),
        )
        for reply in (again, one, other, private):
            assert reply.status_code == 200
            assert reply.json()["choices"][0]["message"]["content"]
        assert streamed.text.rstrip().endswith("data: [DONE]")
        assert again.json()["router"]["cache"] == fault.cache
        assert one.json()["router"]["route"] == "remote"  # a share of the money is left
        assert one.headers["x-ratelimit-limit-requests"] == "100000"
        told = await world.feedback(before.json()["id"])
        assert told.status_code == fault.feedback
        purged = await world.client.delete("/v1/cache")
        assert purged.status_code == fault.purge
        for path in ("/readyz", "/metrics", "/v1/budget", "/v1/calibration"):
            assert (await world.client.get(path)).status_code == 200
        await do(fault.end, world)
        while not await world.all_works():
            await asyncio.sleep(0.02)


def restarts(world: World) -> None:
    world.redis.stop()
    world.redis.start()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "act", [loses_its_data, restarts, FAULTS["dies"].begin], ids=["flushed", "restarted", "gone"]
)
async def test_in_the_middle_of_a_request(act: Act, stream: bool, world: World) -> None:
    """The claim, the money set aside and the buckets are gone before the answer is there."""
    async with asyncio.timeout(20):
        await world.ask(world.new())
        world.upstream.go_on.clear()
        before = world.upstream.asked
        question = world.new()
        asking = [
            asyncio.create_task(world.ask(question, stream=one)) for one in (stream, False, stream)
        ]
        while world.upstream.asked == before:
            await asyncio.sleep(0.005)
        act(world)
        world.upstream.go_on.set()
        assert [reply.status_code for reply in await asyncio.gather(*asking)] == [200] * 3
        assert world.upstream.asked == before + 1
        if act is FAULTS["dies"].begin:
            world.redis.start()
        while not await world.all_works():
            await asyncio.sleep(0.02)
        while (await world.budget())["reserved"]:  # nothing stays set aside
            await asyncio.sleep(0.02)
        assert (await world.budget())["spent"] > 0


async def test_who_waits_for_another_gateway_and_leaves_stops_waiting(world: World) -> None:
    async with asyncio.timeout(20):
        question = world.new()
        await world.ask(question)
        (key,) = world.order("KEYS", "router:2:*")
        world.order("DEL", key)
        claim = key.replace(b"router:2:", b"router:claim:")
        world.order("SET", claim, "another gateway", "PX", 60_000)
        asked, before = world.upstream.asked, asyncio.all_tasks()
        task = asyncio.create_task(world.ask(question))
        await asyncio.sleep(0.1)
        assert not task.done()
        begun = asyncio.all_tasks() - before
        task.cancel()
        await asyncio.wait(begun)
        assert world.upstream.asked == asked
        world.order("DEL", claim)
        assert (await world.ask(question)).json()["router"]["cache"] == "miss"


async def test_an_answer_that_is_not_kept_leaves_no_claim(world: World) -> None:
    """Else whoever asks the same next would wait until the claim has run out."""
    async with asyncio.timeout(5):  # which takes six seconds
        world.upstream.down = True
        question = world.new()
        for _ in range(3):
            reply = await world.ask(question)
            assert reply.json()["router"]["reason"] == "upstream_down"
        while world.order("KEYS", "router:claim:*"):
            await asyncio.sleep(0.005)
