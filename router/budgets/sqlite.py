"""Budgets in one SQLite file, for one machine and any number of processes; or in memory."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from router.budgets.base import (
    KEPT_SECONDS,
    PEER_SECONDS,
    Asked,
    Granted,
    Look,
    Seen,
    Settled,
    Sheet,
)
from router.budgets.limits import Purse
from router.errors import LedgerError

BUSY_SECONDS = 5.0
"""How long to wait for another process's write; one takes about a millisecond."""

PRUNE_EVERY = 256
"""Calls settled between two looks at what is too old."""

_MEMORY = ":memory:"
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS purse (
    name TEXT PRIMARY KEY, ends REAL NOT NULL, spent INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0,
    asked INTEGER NOT NULL DEFAULT 0, forced INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call (
    id TEXT PRIMARY KEY, at REAL NOT NULL, reserved INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS process (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


class SqliteStore:
    """Opens its file, made with its folder where missing, for this user alone, at the first use.

    A `path` of None keeps all in memory, where only this object finds it.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self.shared = path is not None
        self._path = path
        self._clock = clock
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._since_pruned = 0

    async def reserve(self, id: str, looks: Sequence[Look], amount: int) -> Granted:
        return await asyncio.to_thread(self._reserve, id, looks, amount)

    async def sync(
        self,
        process: str,
        settled: Sequence[Settled],
        asked: Sequence[Asked],
        looks: Sequence[Look],
    ) -> Seen:
        return await asyncio.to_thread(self._sync, process, settled, asked, looks)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _reserve(self, id: str, looks: Sequence[Look], amount: int) -> Granted:
        with self._transaction() as db:
            sheets = [_sheet(db, look) for look in looks]
            if db.execute("SELECT 1 FROM call WHERE id = ?", (id,)).fetchone():
                return Granted(None, tuple(sheets))
            for place, (look, sheet) in enumerate(zip(looks, sheets, strict=True)):
                if sheet.taken + amount > look.purse.limit:
                    return Granted(place, tuple(sheets))
            for look in looks:
                _add(db, look.purse, reserved=amount)
            db.execute("INSERT INTO call VALUES (?,?,?)", (id, self._clock(), amount))
            return Granted(None, tuple(_sheet(db, look) for look in looks))

    def _sync(
        self,
        process: str,
        settled: Sequence[Settled],
        asked: Sequence[Asked],
        looks: Sequence[Look],
    ) -> Seen:
        now = self._clock()
        with self._transaction() as db:
            for call in settled:
                self._settle(db, call, now)
            for some in asked:
                for purse in some.purses:
                    _add(db, purse, asked=some.n)
            self._since_pruned += len(settled)
            if self._since_pruned >= PRUNE_EVERY:
                self._since_pruned = 0
                db.execute("DELETE FROM purse WHERE ends < ?", (now - KEPT_SECONDS,))
                db.execute("DELETE FROM call WHERE at < ?", (now - KEPT_SECONDS,))
            db.execute("INSERT OR REPLACE INTO process VALUES (?,?)", (process, now))
            db.execute("DELETE FROM process WHERE at < ?", (now - PEER_SECONDS,))
            ((n,),) = db.execute("SELECT count(*) FROM process").fetchall()
            return Seen(tuple(_sheet(db, look) for look in looks), n)

    def _settle(self, db: sqlite3.Connection, call: Settled, now: float) -> None:
        found = db.execute("SELECT reserved FROM call WHERE id = ?", (call.id,)).fetchone()
        if found is not None and found[0] is None:
            return
        for purse in call.purses:
            _add(
                db,
                purse,
                spent=call.cost,
                reserved=-found[0] if found else 0,
                calls=int(call.cost > 0),
                forced=call.cost if call.forced else 0,
            )
        db.execute("INSERT OR REPLACE INTO call VALUES (?,?,NULL)", (call.id, now))

    def _close(self) -> None:
        with self._turn:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One step for everybody: other writers wait from here on, so that what is read holds."""
        with self._turn:
            if self._closed:
                raise LedgerError("the store of budgets is closed")
            try:
                if self._connection is None:
                    self._connection = _open(self._path)
                db = self._connection
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise LedgerError(f"can't count budgets in {self._path}: {error}") from error


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    db = sqlite3.connect(
        path or _MEMORY, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version > _VERSION:
            raise LedgerError(f"{path} was made by a newer version of this program")
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        db.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _sheet(db: sqlite3.Connection, look: Look) -> Sheet:
    """The purse's sheet; what the process knows better is put right first."""
    row = db.execute(
        "SELECT spent, reserved, calls, asked, forced FROM purse WHERE name = ?", (look.purse.name,)
    ).fetchone()
    found = Sheet(*row) if row else Sheet()
    better = found.at_least(look.known)
    if better != found:
        _add(db, look.purse, spent=better.spent - found.spent, calls=better.calls - found.calls)
    return better


def _add(
    db: sqlite3.Connection,
    purse: Purse,
    *,
    spent: int = 0,
    reserved: int = 0,
    calls: int = 0,
    asked: int = 0,
    forced: int = 0,
) -> None:
    db.execute(
        "INSERT INTO purse VALUES (?,?,?,?,?,?,?) ON CONFLICT (name) DO UPDATE SET "
        "spent = spent + excluded.spent, reserved = reserved + excluded.reserved, "
        "calls = calls + excluded.calls, asked = asked + excluded.asked, "
        "forced = forced + excluded.forced",
        (purse.name, purse.ends, spent, reserved, calls, asked, forced),
    )
