"""The ledger in Redis: for gateways on several machines.

A hash an entry, which expires by itself, and two sets ordered by time: the entries with a label and
those without. Redis may lie on another machine, so the text of an answer that must not leave this
one is not to be recorded here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, get_args

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, WatchError

from router.bounded import bounded
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

log = logging.getLogger("router.ledger")

PREFIX = "router:ledger:1:"
"""The number is the version of what is stored."""

TIMEOUT = 2.0
"""Seconds an operation may take."""

MOST_TRIES = 200
"""How often an update starts anew because another process came first."""

_BATCH = 500


class RedisLedger:
    """Entries go after `days`; of more than `rows` the oldest go, those without a label first.

    Raises LedgerError when `url` is no address of a Redis server; whether one is there shows at the
    first use.
    """

    on_this_machine = False

    def __init__(
        self,
        url: str,
        *,
        days: float = DEFAULT_DAYS,
        rows: int = DEFAULT_ROWS,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._days = days
        self._rows = rows
        self._timeout = timeout
        self._clock = clock
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=8,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                decode_responses=True,
                # Once more at once: after a restart of Redis the pool's connections are dead.
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            )
        except ValueError as error:
            raise LedgerError(f"`redis_url` is not an address of a Redis server: {error}") from None
        self._redis = Redis(connection_pool=pool)

    async def record(self, *decided: Decided) -> None:
        async with self._read_faults():
            pipe = self._redis.pipeline(transaction=True)
            for one in decided:
                key, seconds = _entry(one.id), self._seconds_left(one)
                if seconds > 0:
                    pipe.hsetnx(key, "decided", _dump(one))
                    pipe.expire(key, seconds)
                    pipe.zadd(_UNLABELLED, {one.id: one.at}, nx=True)
            await pipe.execute()
            await self._tidy()

    async def label(self, label: Label) -> bool:
        key = _entry(label.id)
        new: Label | None = None

        def step(pipe: Pipeline, found: Any) -> bool:
            nonlocal new
            kept, before = found
            if kept is None:
                return False
            decided = _load(kept)
            old = None if before is None else _load_label(before)
            new = joined(old, label)
            if new is old:
                return False
            pipe.hset(key, "label", json.dumps(dataclasses.asdict(new)))
            pipe.zrem(_UNLABELLED, label.id)
            pipe.zadd(_LABELLED, {label.id: decided.at})
            return True

        async def read(pipe: Pipeline) -> Any:
            return await _awaited(pipe.hmget(key, ["decided", "label"]))

        with _ours():
            return await self._compare_and_set(key, read, step)

    async def find(self, id: str) -> Decided | None:
        async with self._read_faults():
            kept = await _awaited(self._redis.hget(_entry(id), "decided"))
            return None if kept is None else _load(kept)

    async def labelled(self, since: float = 0.0) -> list[tuple[Decided, Label]]:
        found: list[tuple[Decided, Label]] = []
        async with self._read_faults():
            ids: list[str] = await _awaited(self._redis.zrangebyscore(_LABELLED, since, "+inf"))
            for start in range(0, len(ids), _BATCH):
                pipe = self._redis.pipeline(transaction=False)
                for id in ids[start : start + _BATCH]:
                    pipe.hmget(_entry(id), ["decided", "label"])
                for kept, label in await pipe.execute():
                    if kept is not None and label is not None:  # else it has just expired
                        found.append((_load(kept), _load_label(label)))
        return found

    async def latest(self, n: int, since: float = 0.0) -> list[tuple[Decided, Label | None]]:
        found: list[tuple[Decided, Label | None]] = []
        async with self._read_faults():
            ids: list[tuple[str, float]] = []
            for name in (_UNLABELLED, _LABELLED):
                ids += await _awaited(
                    self._redis.zrevrangebyscore(
                        name, "+inf", since, start=0, num=n, withscores=True
                    )
                )
            ids.sort(key=lambda pair: (pair[1], pair[0]), reverse=True)
            for start in range(0, min(n, len(ids)), _BATCH):
                pipe = self._redis.pipeline(transaction=False)
                for id, _ in ids[start : min(n, start + _BATCH)]:
                    pipe.hmget(_entry(id), ["decided", "label"])
                for kept, label in await pipe.execute():
                    if kept is not None:  # else it has just expired
                        found.append((_load(kept), None if label is None else _load_label(label)))
        return found

    async def counts(self) -> Counts:
        labelled = await self.labelled()
        async with self._read_faults():
            unlabelled = await self._redis.zcard(_UNLABELLED)
        by_source: dict[Source, int] = dict.fromkeys(get_args(Source), 0)
        for _, label in labelled:
            by_source[label.source] += 1
        return Counts(unlabelled + len(labelled), by_source)

    async def prune(self, before: float) -> int:
        n = 0
        async with self._read_faults():
            for name in (_UNLABELLED, _LABELLED):
                found = self._redis.zrangebyscore(name, "-inf", f"({before!r}")
                n += await self._forget(name, await _awaited(found))
        return n

    async def state(self, name: str) -> State | None:
        async with self._read_faults():
            text = await self._redis.get(_STATE + name)
        return _load_state(name, text)

    async def update_state(self, name: str, change: Change) -> State:
        key = _STATE + name
        new: State = {}

        async def read(pipe: Pipeline) -> Any:
            return await pipe.get(key)

        def step(pipe: Pipeline, text: Any) -> bool:
            nonlocal new
            new = change(_load_state(name, text))
            pipe.set(key, json.dumps(new))
            return True

        await self._compare_and_set(key, read, step)
        return new

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _compare_and_set(
        self,
        key: str,
        read: Callable[[Pipeline], Any],
        step: Callable[[Pipeline, Any], bool],
    ) -> bool:
        """Read `key`, let `step` queue what to write, write it if `key` is still as it was read.

        Returns what `step` returned; nothing is written when that is False.
        """
        async with self._faults(), self._redis.pipeline(transaction=True) as pipe:
            for attempt in range(MOST_TRIES):
                await pipe.watch(key)
                found = await read(pipe)
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py gives it no types
                if not step(pipe, found):
                    return False
                try:
                    await pipe.execute()
                except WatchError:  # wait, by chance, that they don't meet again
                    await asyncio.sleep(random.uniform(0, 0.001 * min(attempt + 1, 20)))
                else:
                    return True
        raise LedgerError(f"{key} was changed by others {MOST_TRIES} times while being updated")

    async def _tidy(self) -> None:
        oldest = self._clock() - self._days * 86_400
        for name in (_UNLABELLED, _LABELLED):  # the entries have expired; their ids are left
            await self._redis.zremrangebyscore(name, "-inf", f"({oldest!r}")
        excess = -self._rows
        for name in (_UNLABELLED, _LABELLED):
            excess += await self._redis.zcard(name)
        for name in (_UNLABELLED, _LABELLED):
            if excess > 0:
                ids = await _awaited(self._redis.zrange(name, 0, excess - 1))
                excess -= await self._forget(name, ids)

    async def _forget(self, name: str, ids: list[str]) -> int:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            pipe = self._redis.pipeline(transaction=True)
            pipe.delete(*(_entry(id) for id in batch))
            pipe.zrem(name, *batch)
            await pipe.execute()
        return len(ids)

    def _seconds_left(self, decided: Decided) -> int:
        return int(decided.at + self._days * 86_400 - self._clock())

    @contextlib.asynccontextmanager
    async def _read_faults(self) -> AsyncIterator[None]:
        async with self._faults():
            with _ours():
                yield

    @contextlib.asynccontextmanager
    async def _faults(self) -> AsyncIterator[None]:
        try:
            async with bounded(5 * self._timeout):
                yield
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            what = str(error) or type(error).__name__
            raise LedgerError(f"the ledger's Redis failed: {what}") from error


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    """Inside, what Redis says is taken for what was written. Raises LedgerError where it isn't."""
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        raise LedgerError(f"Redis holds no ledger of ours: {error!r}") from error


_UNLABELLED = PREFIX + "unlabelled"
_LABELLED = PREFIX + "labelled"
_STATE = PREFIX + "state:"


def _entry(id: str) -> str:
    return f"{PREFIX}entry:{id}"


async def _awaited(reply: Any) -> Any:
    """Await what redis-py's annotations call "a value or something to await"."""
    return await reply


def _dump(decided: Decided) -> str:
    fields = {f.name: getattr(decided, f.name) for f in dataclasses.fields(decided)}
    return json.dumps(fields | {"scores": scores_to_json(decided.scores)})


def _load(text: str) -> Decided:
    fields = json.loads(text)
    return Decided(**{**fields, "scores": scores_from_json(fields["scores"])})


def _load_label(text: str) -> Label:
    return Label(**json.loads(text))


def _load_state(name: str, text: Any) -> State | None:
    """The state that was kept; None, so that it begins anew, for what is none."""
    if text is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        state = json.loads(text)
        if isinstance(state, dict):
            return state
    log.warning("what Redis keeps as %s is none of ours; it begins anew", name)
    return None
