"""The ledger in one SQLite file: the default, for one machine and any number of processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import aiosqlite

from router.errors import LedgerError
from router.ledger.base import DEFAULT_DAYS, DEFAULT_ROWS, Change, State
from router.ledger.entries import (
    Counts,
    Decided,
    Label,
    Source,
    joined,
    scores_from_json,
    scores_to_json,
)

BUSY_SECONDS = 5.0
"""How long to wait for another process's write; one takes about a millisecond."""

PRUNE_EVERY = 256
"""Decisions recorded between two looks at what is too old or too much."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decided (
    id TEXT PRIMARY KEY, at REAL NOT NULL, calibration TEXT, route TEXT NOT NULL,
    reason TEXT NOT NULL, degraded INTEGER NOT NULL, p_correct REAL, threshold REAL,
    scores TEXT NOT NULL, text TEXT, audited REAL NOT NULL, calibrated_sampler INTEGER NOT NULL,
    cost_usd REAL NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0, prompt TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decided_at ON decided (at);
CREATE TABLE IF NOT EXISTS label (
    id TEXT PRIMARY KEY REFERENCES decided ON DELETE CASCADE,
    correct INTEGER NOT NULL, source TEXT NOT NULL, at REAL NOT NULL, inclusion REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_FROM_1_TO_2 = """
ALTER TABLE decided ADD COLUMN cost_usd REAL NOT NULL DEFAULT 0;
ALTER TABLE decided ADD COLUMN seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE decided ADD COLUMN prompt TEXT;
"""
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON")
_DECIDED = (
    "decided.id, decided.at, calibration, route, reason, degraded, p_correct, threshold, "
    + ("scores, text, audited, calibrated_sampler, cost_usd, seconds, prompt")
)
_N_DECIDED = _DECIDED.count(",") + 1
_LABEL = "label.id, correct, source, label.at, inclusion"


class SqliteLedger:
    """Made by `open`. Pruned by itself: decisions older than `days` go, then what exceeds `rows`.

    Of what exceeds `rows` the oldest go first, those without a label before those with one.
    """

    on_this_machine = True

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        days: float,
        rows: int,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._days = days
        self._rows = rows
        self._clock = clock
        self._turn = asyncio.Lock()  # a transaction belongs to a connection, not to a task
        self._since_pruned = 0
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        days: float = DEFAULT_DAYS,
        rows: int = DEFAULT_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> SqliteLedger:
        """Open the file, made with its folder where missing, for this user's eyes alone.

        Raises LedgerError when it can't be written, or is no ledger of this version or an older.
        """
        path = Path(path).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            sqlite3.connect(path).close()  # where that fails, aiosqlite leaves a thread behind
            connection = await aiosqlite.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from error
        try:
            await _prepare(connection)
            ledger = cls(connection, days=days, rows=rows, clock=clock)
            await ledger._tidy()
        except BaseException as error:
            await connection.close()
            if isinstance(error, sqlite3.Error | LedgerError):
                raise _unusable(path, error) from error
            raise
        return ledger

    async def record(self, *decided: Decided) -> None:
        async with self._transaction():
            await self._connection.executemany(
                f"INSERT OR IGNORE INTO decided VALUES ({','.join('?' * _N_DECIDED)})",
                [_row(one) for one in decided],
            )
        self._since_pruned += len(decided)
        if self._since_pruned >= PRUNE_EVERY:
            await self._tidy()

    async def label(self, label: Label) -> bool:
        async with self._transaction():
            if not await self._rows_of("SELECT 1 FROM decided WHERE id = ?", label.id):
                return False
            found = await self._rows_of(f"SELECT {_LABEL} FROM label WHERE id = ?", label.id)
            old = _label(found[0]) if found else None
            new = joined(old, label)
            if new is old:
                return False
            await self._connection.execute(
                "INSERT OR REPLACE INTO label VALUES (?,?,?,?,?)",
                (new.id, new.correct, new.source, new.at, new.inclusion),
            )
        return True

    async def find(self, id: str) -> Decided | None:
        async with self._reading():
            found = await self._rows_of(f"SELECT {_DECIDED} FROM decided WHERE id = ?", id)
        return _decided(found[0]) if found else None

    async def labelled(self, since: float = 0.0) -> list[tuple[Decided, Label]]:
        async with self._reading():
            found = await self._rows_of(
                f"SELECT {_DECIDED}, {_LABEL} FROM decided JOIN label USING (id) "
                "WHERE decided.at >= ? ORDER BY decided.at, decided.id",
                since,
            )
        return [(_decided(row), _label(row[_N_DECIDED:])) for row in found]

    async def latest(self, n: int, since: float = 0.0) -> list[tuple[Decided, Label | None]]:
        async with self._reading():
            found = await self._rows_of(
                f"SELECT {_DECIDED}, {_LABEL} FROM decided LEFT JOIN label USING (id) "
                "WHERE decided.at >= ? ORDER BY decided.at DESC, decided.id DESC LIMIT ?",
                since,
                n,
            )
        return [
            (_decided(row), None if row[_N_DECIDED] is None else _label(row[_N_DECIDED:]))
            for row in found
        ]

    async def counts(self) -> Counts:
        async with self._reading():
            ((n,),) = await self._rows_of("SELECT count(*) FROM decided")
            by_source = await self._rows_of("SELECT source, count(*) FROM label GROUP BY source")
        zero: dict[Source, int] = dict.fromkeys(get_args(Source), 0)
        return Counts(n, zero | dict(by_source))

    async def prune(self, before: float) -> int:
        async with self._transaction():
            return await self._delete("at < ?", before)

    async def state(self, name: str) -> State | None:
        async with self._reading():
            return await self._state(name)

    async def update_state(self, name: str, change: Change) -> State:
        async with self._transaction():
            new = change(await self._state(name))
            await self._connection.execute(
                "INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(new))
            )
        return new

    async def close(self) -> None:
        async with self._turn:
            self._closed = True
            await self._connection.close()

    async def _tidy(self) -> None:
        self._since_pruned = 0
        await self.prune(self._clock() - self._days * 86_400)
        async with self._transaction():
            ((n,),) = await self._rows_of("SELECT count(*) FROM decided")
            await self._delete(
                "id IN (SELECT decided.id FROM decided LEFT JOIN label USING (id) "
                "ORDER BY label.id IS NOT NULL, decided.at LIMIT ?)",
                max(0, n - self._rows),
            )

    async def _state(self, name: str) -> State | None:
        found = await self._rows_of("SELECT value FROM state WHERE name = ?", name)
        return json.loads(found[0][0]) if found else None

    async def _delete(self, where: str, value: float) -> int:
        cursor = await self._connection.execute(f"DELETE FROM decided WHERE {where}", (value,))
        return cursor.rowcount

    async def _rows_of(self, statement: str, *values: object) -> list[Any]:
        return list(await self._connection.execute_fetchall(statement, values))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        async with self._turn:
            if self._closed:
                raise LedgerError("the ledger is closed")
            try:
                yield
            except sqlite3.Error as error:
                raise LedgerError(f"the ledger's file failed: {error}") from error

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """One step for everybody: other writers wait from here on, so that what is read holds."""
        async with self._reading():
            try:
                await self._connection.execute("BEGIN IMMEDIATE")
                yield
                await self._connection.execute("COMMIT")
            except BaseException:
                # Also when cancelled while BEGIN waits for its lock: it is queued behind it.
                with contextlib.suppress(sqlite3.Error):
                    await self._connection.execute("ROLLBACK")
                raise


async def _prepare(connection: aiosqlite.Connection) -> None:
    for pragma in _PRAGMAS:
        await connection.execute(f"PRAGMA {pragma}")
    rows = list(await connection.execute_fetchall("PRAGMA user_version"))
    if rows[0][0] > _VERSION:
        raise LedgerError("a newer version of this program made it")
    await connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    # Asked of the table, since two processes may find an old file at the same time.
    columns = await connection.execute_fetchall("PRAGMA table_info(decided)")
    if len(list(columns)) < _N_DECIDED:
        await connection.executescript(f"BEGIN IMMEDIATE; {_FROM_1_TO_2} COMMIT;")
    await connection.execute(f"PRAGMA user_version = {_VERSION}")


def _unusable(path: Path, error: Exception) -> LedgerError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return LedgerError(
        f"can't use {path} as the ledger: {reason}; give another file with `ledger`, or 'off'"
    )


def _row(decided: Decided) -> tuple[object, ...]:
    return (
        decided.id,
        decided.at,
        decided.calibration,
        decided.route,
        decided.reason,
        decided.degraded,
        decided.p_correct,
        decided.threshold,
        scores_to_json(decided.scores),
        None if decided.text is None else decided.text.encode("utf-8", "replace").decode(),
        decided.audited,
        decided.calibrated_sampler,
        decided.cost_usd,
        decided.seconds,
        None if decided.prompt is None else decided.prompt.encode("utf-8", "replace").decode(),
    )


def _decided(row: Any) -> Decided:
    return Decided(
        id=row[0],
        at=row[1],
        calibration=row[2],
        route=row[3],
        reason=row[4],
        degraded=bool(row[5]),
        p_correct=row[6],
        threshold=row[7],
        scores=scores_from_json(row[8]),
        text=row[9],
        audited=row[10],
        calibrated_sampler=bool(row[11]),
        cost_usd=row[12],
        seconds=row[13],
        prompt=row[14],
    )


def _label(row: Any) -> Label:
    return Label(id=row[0], correct=bool(row[1]), source=row[2], at=row[3], inclusion=row[4])
