"""What every store of budgets does, on both; and what only one of them can get wrong."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.account import ANONYMOUS, Account
from router.budgets import (
    Asked,
    Limits,
    Look,
    RedisStore,
    Seen,
    Settled,
    Sheet,
    SqliteStore,
    Store,
    nano,
    open_store,
)
from router.config import Settings
from router.errors import LedgerError
from tests.redis_server import RedisServer
from tests.router.budgets.conftest import open_at

NOON = 1_700_049_600.0  # 15 November 2023, 12:00 UTC
ACCOUNT = Account(id="ada", usd_per_day=1.0)
PURSES = Limits(usd_per_day=2.0).purses(ACCOUNT, NOON)
LOOKS = tuple(Look(purse) for purse in PURSES)
KEY, GATEWAY = PURSES


@asynccontextmanager
async def store_at(place: Path | str) -> AsyncIterator[Store]:
    store = open_at(place)
    yield store
    await store.close()


async def reserve(store: Store, id: str, usd: float) -> int | None:
    return (await store.reserve(id, LOOKS, nano(usd))).refused


async def settle(store: Store, id: str, usd: float, *, forced: bool = False) -> Seen:
    return await store.sync("one", [Settled(id, PURSES, nano(usd), forced)], [], LOOKS)


async def test_money_is_set_aside_and_spent(place: Path | str) -> None:
    async with store_at(place) as store:
        granted = await store.reserve("a", LOOKS, nano(0.4))
        assert granted.refused is None
        assert granted.sheets == (Sheet(0, nano(0.4)),) * 2
        seen = await settle(store, "a", 0.3, forced=True)
        assert seen == Seen((Sheet(nano(0.3), 0, 1, 0, nano(0.3)),) * 2, 1)
        assert (await settle(store, "b", 0.0)).sheets == seen.sheets


async def test_what_one_purse_lacks_is_taken_from_none(place: Path | str) -> None:
    async with store_at(place) as store:
        assert await reserve(store, "a", 0.7) is None
        granted = await store.reserve("b", LOOKS, nano(0.4))
        assert granted.refused == 0
        assert granted.sheets == (Sheet(0, nano(0.7)),) * 2
        assert (await store.reserve("c", [Look(GATEWAY)], nano(1.3))).refused is None
        assert (await store.reserve("d", [Look(GATEWAY)], 1)).refused == 0
        assert await reserve(store, "e", 0.01) == 1


async def test_the_whole_limit_may_be_spent(place: Path | str) -> None:
    async with store_at(place) as store:
        for n in range(10):
            assert await reserve(store, str(n), 0.1) is None
        assert await reserve(store, "more", 1e-9) == 0


async def test_what_is_said_twice_counts_once(place: Path | str) -> None:
    async with store_at(place) as store:
        for _ in range(3):
            assert await reserve(store, "a", 0.6) is None
        await settle(store, "a", 0.5)
        seen = await settle(store, "a", 0.5)
        assert seen.sheets == (Sheet(nano(0.5), 0, 1),) * 2
        await store.reserve("a", LOOKS, nano(0.1))  # arrives late
        assert (await settle(store, "a", 0.5)).sheets == seen.sheets


async def test_other_processes_and_restarts_find_what_was_counted(place: Path | str) -> None:
    async with store_at(place) as first, store_at(place) as second:
        await reserve(first, "a", 0.6)
        assert await reserve(second, "b", 0.6) == 0
        await settle(first, "a", 0.6)
        seen = await second.sync("two", [], [Asked(PURSES, 3)], LOOKS)
        assert seen == Seen((Sheet(nano(0.6), 0, 1, 3),) * 2, 2)
        await reserve(first, "dies", 0.2)
    async with store_at(place) as later:  # what was under way stays counted
        assert await reserve(later, "c", 0.3) == 0
        assert (await later.sync("one", [], [], LOOKS)).sheets[0].reserved == nano(0.2)


async def test_another_day_and_another_account_are_counted_apart(place: Path | str) -> None:
    async with store_at(place) as store:
        await reserve(store, "a", 1.0)
        tomorrow = Limits().purses(ACCOUNT, NOON + 86_400)
        other = Limits().purses(Account(id="bob", usd_per_day=1.0), NOON)
        for purses in (tomorrow, other):
            looks = [Look(purse) for purse in purses]
            assert (await store.reserve(purses[0].name, looks, nano(1.0))).refused is None


@dataclass
class Model:
    """What a store ought to hold."""

    spent: int = 0
    reserved: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle"]),
        st.integers(0, 9),
        st.integers(0, 400_000_000),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_no_sequence_of_calls_makes_it_count_wrongly(
    operations: list[tuple[str, int, int]],
) -> None:
    """Each id stands for a call: set aside at most once, settled at most once, in any order."""
    looks = [Look(KEY)]

    async def play() -> None:
        store, model = SqliteStore(None), Model()
        for what, number, amount in operations:
            id = str(number)
            if what == "reserve":
                taken = model.spent + sum(model.reserved.values())
                known = id in model.reserved or id in model.settled
                granted = await store.reserve(id, looks, amount)
                assert (granted.refused is None) == (known or taken + amount <= KEY.limit)
                if not known and granted.refused is None:
                    model.reserved[id] = amount
                (sheet,) = granted.sheets
            else:
                ((sheet,), _) = await _settled(store, id, amount)
                if id not in model.settled:
                    model.settled.add(id)
                    model.reserved.pop(id, None)
                    model.spent += amount
            assert (sheet.spent, sheet.reserved) == (model.spent, sum(model.reserved.values()))
        await store.close()

    async def _settled(store: Store, id: str, amount: int) -> tuple[tuple[Sheet, ...], int]:
        seen = await store.sync("one", [Settled(id, (KEY,), amount, False)], [], looks)
        return seen.sheets, seen.processes

    asyncio.run(play())


SPENDER = """
import asyncio, sys
from pathlib import Path
from router.account import Account
from router.budgets import Limits, Look, RedisStore, Settled, SqliteStore, nano

async def spend():
    place, now, name = sys.argv[1:]
    store = RedisStore(place) if "://" in place else SqliteStore(Path(place))
    account = Account(id="ada", usd_per_day=1.0)
    purses = Limits(usd_per_day=2.0).purses(account, float(now))
    looks = [Look(purse) for purse in purses]

    async def one(n):
        id = f"{name}-{n}"
        granted = await store.reserve(id, looks, nano(0.005))
        if granted.refused is None:
            await store.sync(name, [Settled(id, purses, nano(0.005), False)], [], looks)
        return granted.refused is None

    done = [await asyncio.gather(*(one(10 * m + n) for n in range(10))) for m in range(10)]
    print(sum(map(sum, done)))
    await store.close()

asyncio.run(spend())
"""


async def test_several_processes_never_spend_more_than_there_is(place: Path | str) -> None:
    command = [sys.executable, "-c", SPENDER, str(place), str(NOON)]
    running = [
        subprocess.Popen([*command, f"p{n}"], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    granted = [int((await asyncio.to_thread(process.communicate))[0]) for process in running]
    assert sum(granted) == 200  # of the 400 that were asked for, 1 USD / 0.005
    async with store_at(place) as store:
        seen = await store.sync("last", [], [], LOOKS)
    assert seen.sheets == (Sheet(nano(1.0), 0, 200),) * 2


async def test_a_store_that_lost_its_data_is_told_what_was_spent(
    redis_server: RedisServer,
) -> None:
    store = RedisStore(redis_server.url)
    await reserve(store, "a", 0.5)
    await reserve(store, "b", 0.2)
    seen = await settle(store, "a", 0.5)
    redis_server.stop()
    redis_server.start()
    looks = [Look(purse, sheet) for purse, sheet in zip(PURSES, seen.sheets, strict=True)]
    granted = await store.reserve("c", looks, nano(0.6))
    assert (granted.refused, granted.sheets[0].spent) == (0, nano(0.5))
    assert (await settle(store, "b", 0.2)).sheets[0].taken == nano(0.7)
    await store.close()


async def test_a_redis_that_is_gone_hangs_or_holds_something_else(
    redis_server: RedisServer,
) -> None:
    store = RedisStore(redis_server.url, timeout=0.2)
    await reserve(store, "a", 0.1)
    redis_server.hang()
    with pytest.raises(LedgerError):
        await reserve(store, "b", 0.1)
    redis_server.go_on()
    assert await reserve(store, "c", 0.1) is None
    await store._redis.set("router:{budget}:1:purse:" + KEY.name, "garbage")
    with pytest.raises(LedgerError, match="WRONGTYPE"):
        await reserve(store, "d", 0.1)
    await store._redis.delete("router:{budget}:1:purse:" + KEY.name)
    await store._redis.hset("router:{budget}:1:purse:" + KEY.name, "asked", "many")
    with pytest.raises(LedgerError):
        await reserve(store, "e", 0.1)
    redis_server.stop()
    with pytest.raises(LedgerError):
        await settle(store, "a", 0.1)
    await store.close()


async def test_what_is_old_goes_from_the_file(tmp_path: Path) -> None:
    now = [NOON]
    store = SqliteStore(tmp_path / "budget.db", clock=lambda: now[0])
    await reserve(store, "a", 0.1)
    now[0] += 4 * 86_400
    calls = [Settled(f"old-{n}", (), 0, False) for n in range(256)]
    await store.sync("two", calls, [], [])
    assert (await store.sync("two", [], [], LOOKS)).sheets == (Sheet(),) * 2
    await store.close()


async def test_the_file_is_its_users_and_a_bad_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "new" / "budget.db"
    async with store_at(path) as store:
        await reserve(store, "a", 0.1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LedgerError, match="closed"):
        await reserve(store, "b", 0.1)
    path.write_text("no database")
    async with store_at(path) as store:
        with pytest.raises(LedgerError, match="not a database"):
            await reserve(store, "a", 0.1)


def test_the_settings_choose(tmp_path: Path) -> None:
    redis = Settings(redis_url="redis://127.0.0.1:1/0", ledger="off")
    assert isinstance(open_store(redis), RedisStore)
    assert not open_store(Settings(ledger="off")).shared
    open_store(Settings(ledger=str(tmp_path / "ledger.db")))
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is needed
    with pytest.raises(LedgerError, match="redis_url"):
        RedisStore("http://127.0.0.1")


def test_the_purses_of_a_query() -> None:
    limits = Limits(usd_per_day=5.0, usd_per_month=50.0)
    account = Account(id="ada", usd_per_day=0.0, usd_per_month=3.5)
    purses = limits.purses(account, NOON)
    assert [(purse.name, purse.limit) for purse in purses] == [
        ("key:ada/2023-11-15", 0),
        ("key:ada/2023-11", 3_500_000_000),
        ("gateway/2023-11-15", 5_000_000_000),
        ("gateway/2023-11", 50_000_000_000),
    ]
    assert [purse.ends - purse.begins for purse in purses[2:]] == [86_400, 30 * 86_400]
    assert Limits().purses(ANONYMOUS, NOON) == ()
    december = Limits(usd_per_month=1.0).purses(ANONYMOUS, NOON + 40 * 86_400)
    assert december[0].ends - december[0].begins == 31 * 86_400
