"""What every ledger does, on both; and what only one of them can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from router.config import Settings
from router.errors import ConfigError, LedgerError
from router.ledger import (
    Decided,
    Label,
    Ledger,
    RedisLedger,
    SqliteLedger,
    default_path,
    open_ledger,
)
from router.ledger.entries import joined
from router.ledger.redis import PREFIX
from tests.redis_server import RedisServer

NOW = 1_700_000_000.0
DAY = 86_400.0


def decided(id: str = "chatcmpl-1", at: float = NOW, **fields: Any) -> Decided:
    whole = {
        "calibration": "sha256:feed",
        "route": "local",
        "reason": "confident",
        "p_correct": 0.83,
        "threshold": 0.71,
        "scores": {"perplexity": 0.12, "margin": 1e-9},
        "text": "Grüße!\n\x00 'quoted'",
        "audited": 0.01,
    }
    return Decided(id=id, at=at, **{**whole, **fields})


def label(id: str = "chatcmpl-1", correct: bool = True, **fields: Any) -> Label:
    whole = {"source": "audit", "at": NOW + 5, "inclusion": 0.01}
    return Label(id=id, correct=correct, **{**whole, **fields})


def by_user(correct: bool, at: float = NOW + 9) -> Label:
    return label(correct=correct, source="user", at=at, inclusion=None)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Place:
    """Where ledgers of one kind are; each one opened is as another process's."""

    def __init__(self, at: Path | str) -> None:
        self.at = at
        self.clock = Clock()

    @asynccontextmanager
    async def open(self, days: float = 30, rows: int = 1000) -> AsyncIterator[Ledger]:
        ledger: Ledger
        if isinstance(self.at, Path):
            ledger = await SqliteLedger.open(self.at, days=days, rows=rows, clock=self.clock)
        else:  # patient, for busy machines
            ledger = RedisLedger(self.at, days=days, rows=rows, timeout=10, clock=self.clock)
        yield ledger
        await ledger.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(tmp_path / "folder" / "ledger.db")
    server: RedisServer = request.getfixturevalue("redis")
    async with Redis.from_url(server.url) as client:
        await client.flushdb()
    return Place(server.url)


async def test_what_is_recorded_is_found_by_another_process(place: Place) -> None:
    full = decided()
    empty = Decided("chatcmpl-2", NOW, None, "remote", "gated", True, calibrated_sampler=False)
    place.clock.now = NOW + DAY
    async with place.open() as one, place.open() as other:
        await one.record(full, empty)
        assert await other.find(full.id) == full
        assert await other.find(empty.id) == empty
        assert await other.find("chatcmpl-3") is None
        await one.record()
    async with place.open() as later:
        assert await later.find(full.id) == full


async def test_scores_that_are_unknown_stay_unknown(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(decided(scores={"a": math.nan, "b": -math.inf, "c": 0.1 + 0.2}))
        found = await ledger.find("chatcmpl-1")
    assert found is not None
    assert found.scores["c"] == 0.1 + 0.2
    assert math.isnan(found.scores["a"])
    assert math.isnan(found.scores["b"])


async def test_half_a_surrogate_pair_is_no_reason_to_lose_the_rest(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(decided(text="broken \ud83d"), decided("chatcmpl-2"))
        found = await ledger.find("chatcmpl-1")
        assert await ledger.find("chatcmpl-2")
    assert found is not None
    assert found.text is not None
    assert found.text.startswith("broken ")


async def test_a_decision_is_kept_as_it_was_first_recorded(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(decided())
        await ledger.label(label())
        await ledger.record(decided(text="other"))
        assert await ledger.find("chatcmpl-1") == decided()
        assert len(await ledger.labelled()) == 1


async def test_labels_are_idempotent_and_the_last_word_is_the_users(place: Place) -> None:
    async with place.open() as ledger:
        assert not await ledger.label(label())  # of nothing
        await ledger.record(decided())
        assert await ledger.label(label())
        assert not await ledger.label(label())
        assert not await ledger.label(label(at=NOW + 6))
        assert await ledger.labelled() == [(decided(), label())]
        assert await ledger.label(by_user(False))
        assert not await ledger.label(by_user(False))
        assert not await ledger.label(label(at=NOW + 20))  # an audit after the user
        assert await ledger.label(by_user(True, NOW + 30))
        assert not await ledger.label(by_user(False, NOW + 29))  # sent before, came late
        ((_, held),) = await ledger.labelled()
    # That it was labelled by an audit's chance, not as a volunteer, is still known.
    assert held == dataclasses.replace(by_user(True, NOW + 30), inclusion=0.01)


def test_an_audit_after_the_user_leaves_its_inclusion() -> None:
    user = by_user(False)
    assert joined(user, label(correct=True)) == dataclasses.replace(user, inclusion=0.01)
    assert joined(None, user) is user


@pytest.mark.parametrize("inclusion", [0.0, -0.1, 1.01, math.nan])
def test_an_inclusion_is_a_probability(inclusion: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        label(inclusion=inclusion)


async def test_labelled_since_and_counts(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(*(decided(f"id-{i}", NOW + i) for i in range(6)))
        for i, source in ((4, "audit"), (1, "user"), (2, "upstream"), (3, "audit")):
            await ledger.label(label(f"id-{i}", correct=i % 2 == 0, source=source))
        found = await ledger.labelled(NOW + 2)
        counts = await ledger.counts()
    assert [(one.id, held.correct) for one, held in found] == [
        ("id-2", True),
        ("id-3", False),
        ("id-4", True),
    ]
    assert counts.decided == 6
    assert counts.labelled == {"user": 1, "audit": 2, "upstream": 1}


async def test_the_latest_come_first_with_their_labels(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(*(decided(f"chatcmpl-{i}", at=NOW + i, seconds=0.5) for i in range(5)))
        await ledger.label(label("chatcmpl-2"))
        found = await ledger.latest(3)
        assert [one.id for one, _ in found] == ["chatcmpl-4", "chatcmpl-3", "chatcmpl-2"]
        assert [told is not None for _, told in found] == [False, False, True]
        assert found[0][0].seconds == 0.5
        assert len(await ledger.latest(10, since=NOW + 3)) == 2
        assert await ledger.latest(10, since=NOW + 9) == []


async def test_pruning_takes_labels_along(place: Place) -> None:
    async with place.open() as ledger:
        await ledger.record(*(decided(f"id-{i}", NOW + i) for i in range(4)))
        await ledger.label(label("id-0"))
        await ledger.label(label("id-3"))
        assert await ledger.prune(NOW + 2) == 2
        assert await ledger.find("id-1") is None
        assert await ledger.find("id-2") is not None
        assert [one.id for one, _ in await ledger.labelled()] == ["id-3"]
        assert (await ledger.counts()).decided == 2


async def test_what_is_old_goes_by_itself(place: Place) -> None:
    async with place.open(days=2) as ledger:
        await ledger.record(decided("old", NOW - 1.5 * DAY), decided("young"))
        await ledger.label(label("old"))
        assert (await ledger.counts()).decided == 2
    place.clock.now = NOW + DAY
    async with place.open(days=2) as ledger:
        await ledger.record(decided("new", NOW + DAY))
        assert (await ledger.counts()).decided == 2
        assert await ledger.labelled() == []


async def test_what_is_too_much_goes_without_labels_first(place: Place) -> None:
    async with place.open(rows=300) as ledger:
        await ledger.record(*(decided(f"id-{i}", NOW + i) for i in range(100)))
        await ledger.label(label("id-7"))
        await ledger.record(*(decided(f"id-{i}", NOW + i) for i in range(100, 400)))
        assert (await ledger.counts()).decided == 300
        assert await ledger.find("id-7") is not None
        assert await ledger.find("id-99") is None
        assert await ledger.find("id-101") is not None


async def test_a_state_is_shared(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        assert await one.state("controller") is None
        assert await one.update_state("controller", lambda _: {"t": 0.5, "n": [1, None]})
        assert await other.state("controller") == {"t": 0.5, "n": [1, None]}
        assert await other.state("drift") is None
        now = await other.update_state("controller", lambda s: {**(s or {}), "t": 0.6})
        assert now == await one.state("controller") == {"t": 0.6, "n": [1, None]}


async def test_no_update_of_a_state_is_lost(place: Place) -> None:
    async with place.open() as one, place.open() as other:

        async def count(ledger: Ledger) -> None:
            for _ in range(20):
                await ledger.update_state("n", lambda s: {"n": (s or {"n": 0})["n"] + 1})

        await asyncio.gather(*(count(ledger) for ledger in (one, other) for _ in range(3)))
        assert await one.state("n") == {"n": 120}


async def test_no_label_is_lost_between_processes(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        await one.record(decided())
        changed = await asyncio.gather(
            *(ledger.label(by_user(True)) for ledger in (one, other) for _ in range(10))
        )
        assert sum(changed) == 1


async def test_a_change_that_fails_changes_nothing(place: Place) -> None:
    def fail(_: object) -> dict[str, object]:
        raise KeyError("mine")

    async with place.open() as ledger:
        await ledger.update_state("n", lambda _: {"n": 1})
        with pytest.raises(KeyError, match="mine"):
            await ledger.update_state("n", fail)
        with pytest.raises(TypeError, match="JSON"):
            await ledger.update_state("n", lambda _: {"n": object()})
        assert await ledger.update_state("n", lambda s: dict(s or {})) == {"n": 1}


async def test_giving_up_an_update_leaves_the_ledger_usable(place: Place) -> None:
    async with place.open() as ledger:
        for pause in range(6):
            task = asyncio.create_task(ledger.update_state("n", lambda _: {"n": 1}))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert await ledger.update_state("n", lambda _: {"n": 2}) == {"n": 2}
        async with place.open() as other:
            assert await other.update_state("n", lambda s: dict(s or {})) == {"n": 2}


class TestSqlite:
    async def test_only_this_user_may_read_it(self, tmp_path: Path) -> None:
        place = Place(tmp_path / "folder" / "ledger.db")
        async with place.open() as ledger:
            await ledger.record(decided())
            for path in (tmp_path / "folder").iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ledger.on_this_machine

    async def test_a_killed_process_loses_nothing_it_had_recorded(self, tmp_path: Path) -> None:
        code = (
            "import asyncio, os, sys\n"
            "from router.ledger import Decided, SqliteLedger\n"
            "async def main():\n"
            "    ledger = await SqliteLedger.open(sys.argv[1], days=10_000)\n"
            f"    await ledger.record(Decided('a', {NOW}, None, 'local', 'confident'))\n"
            "    await ledger._connection.execute('BEGIN IMMEDIATE')\n"
            "    os._exit(9)\n"
            "asyncio.run(main())\n"
        )
        path = tmp_path / "ledger.db"
        assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
        async with Place(path).open(days=10_000) as ledger:
            assert await ledger.find("a")
            await ledger.record(decided())

    async def test_what_is_no_ledger_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("no data base, but somebody's notes " * 50)
        with pytest.raises(LedgerError, match=r"can't use .*notes\.txt as the ledger: .*not a"):
            await SqliteLedger.open(path)
        assert path.read_text().startswith("no data base")

    async def test_an_older_ledger_is_taken_over(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "CREATE TABLE decided (id TEXT PRIMARY KEY, at REAL NOT NULL, calibration TEXT,"
                " route TEXT NOT NULL, reason TEXT NOT NULL, degraded INTEGER NOT NULL,"
                " p_correct REAL, threshold REAL, scores TEXT NOT NULL, text TEXT,"
                " audited REAL NOT NULL, calibrated_sampler INTEGER NOT NULL) WITHOUT ROWID;"
                f"INSERT INTO decided VALUES ('a', {NOW}, NULL, 'local', 'confident', 0, 0.5, 0.4,"
                " '{}', 'x', 0, 1); PRAGMA user_version = 1;"
            )
        for _ in range(2):
            ledger = await SqliteLedger.open(path, clock=lambda: NOW)
            found = await ledger.find("a")
            await ledger.close()
            assert found == Decided(
                "a", NOW, None, "local", "confident", p_correct=0.5, threshold=0.4, text="x"
            )

    async def test_a_newer_ledger_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(LedgerError, match="newer version"):
            await SqliteLedger.open(path)

    async def test_a_folder_that_can_not_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(LedgerError, match="give another file with `ledger`, or 'off'"):
            await SqliteLedger.open(tmp_path / "file" / "ledger.db")

    async def test_faults_are_ledger_errors(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        async with Place(path).open() as ledger:
            with sqlite3.connect(path) as connection:
                connection.execute("DROP TABLE label")
            connection.close()
            await ledger.record(decided())
            for broken in (ledger.label(label()), ledger.labelled(), ledger.counts()):
                with pytest.raises(LedgerError, match="no such table"):
                    await broken
            assert await ledger.find("chatcmpl-1") is not None
        for closed in (ledger.find("a"), ledger.record(decided())):
            with pytest.raises(LedgerError, match="closed"):
                await closed


class TestRedis:
    async def test_entries_expire(self, redis: RedisServer) -> None:
        place = Place(redis.url)
        async with place.open(days=2) as ledger, Redis.from_url(redis.url) as client:
            await client.flushdb()
            await ledger.record(decided(at=NOW - DAY), decided("late", at=NOW - 3 * DAY))
            assert 0 < await client.ttl(f"{PREFIX}entry:chatcmpl-1") <= DAY
            assert await ledger.find("late") is None
            assert (await ledger.counts()).decided == 1
            await ledger.label(label())
            await client.delete(f"{PREFIX}entry:chatcmpl-1")
            assert await ledger.labelled() == []
            assert not ledger.on_this_machine

    async def test_faults_are_ledger_errors_and_pass(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path)
        server.start()
        ledger = RedisLedger(server.url, timeout=10, clock=Clock())
        await ledger.record(decided())
        server.stop()
        for broken in (ledger.find("a"), ledger.label(label()), ledger.state("n")):
            with pytest.raises(LedgerError, match="Redis failed"):
                await broken
        server.start()
        await ledger.record(decided())
        assert await ledger.find("chatcmpl-1")
        await ledger.close()
        server.stop()

    async def test_an_update_that_never_gets_through_says_so(
        self, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("router.ledger.redis.MOST_TRIES", 3)
        key = f"{PREFIX}state:busy"
        async with Place(redis.url).open() as ledger, Redis.from_url(redis.url) as client:
            with SyncRedis.from_url(redis.url) as other:

                def disturb(_: object) -> dict[str, object]:
                    other.set(key, "{}")
                    return {"mine": 1}

                with pytest.raises(LedgerError, match="changed by others 3 times"):
                    await ledger.update_state("busy", disturb)
            assert await client.get(key) == b"{}"

    async def test_what_is_none_of_ours_is_said_or_begins_anew(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Place(redis.url).open() as ledger, Redis.from_url(redis.url) as client:
            await ledger.record(decided("spoilt"))
            await client.hset(f"{PREFIX}entry:spoilt", "decided", "{nonsense")
            for broken in (ledger.find("spoilt"), ledger.label(label("spoilt"))):
                with pytest.raises(LedgerError, match="no ledger of ours"):
                    await broken
            for nonsense in ("{nonsense", "[1]"):
                await client.set(f"{PREFIX}state:spoilt", nonsense)
                assert await ledger.state("spoilt") is None
                assert await ledger.update_state("spoilt", lambda s: {"was": s}) == {"was": None}
            await client.delete(f"{PREFIX}entry:spoilt")
        assert "begins anew" in caplog.text

    def test_an_address_that_is_none(self) -> None:
        with pytest.raises(LedgerError, match="redis_url"):
            RedisLedger("gopher://x")


class TestChoice:
    async def test_off(self) -> None:
        assert await open_ledger(Settings(ledger="off")) is None

    async def test_a_file(self, tmp_path: Path) -> None:
        ledger = await open_ledger(Settings(ledger=str(tmp_path / "mine.db")))
        assert isinstance(ledger, SqliteLedger)
        await ledger.close()
        assert (tmp_path / "mine.db").exists()

    async def test_a_file_that_was_asked_for_must_be_usable(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerError, match="as the ledger"):
            await open_ledger(Settings(ledger=str(tmp_path)))

    async def test_a_file_that_can_not_be_opened_leaves_no_thread(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        for _ in range(20):
            with pytest.raises(LedgerError, match="unable to open"):
                await SqliteLedger.open(tmp_path)
            assert set(threading.enumerate()) <= before

    async def test_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        ledger = await open_ledger(Settings())
        assert isinstance(ledger, SqliteLedger)
        await ledger.close()
        assert (tmp_path / "seek-stronger" / "ledger.db").exists()

    async def test_a_default_that_can_not_be_used_is_off_with_a_word(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "seek-stronger").write_text("in the way")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert await open_ledger(Settings()) is None
        assert "feedback and audits are off" in caplog.text

    async def test_redis(self) -> None:
        ledger = await open_ledger(Settings(ledger="redis", redis_url="redis://127.0.0.1:1/0"))
        assert isinstance(ledger, RedisLedger)
        await ledger.close()
        with pytest.raises(ConfigError, match="redis_url"):
            await open_ledger(Settings(ledger="redis"))

    def test_the_default_path(self) -> None:
        home = Path.home() / ".local" / "share" / "seek-stronger" / "ledger.db"
        assert default_path({}) == default_path({"XDG_DATA_HOME": "relative"}) == home
        assert default_path({"XDG_DATA_HOME": "/x"}) == Path("/x/seek-stronger/ledger.db")
