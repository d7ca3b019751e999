"""The places where money is counted, and a real Redis for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.budgets import RedisStore, SqliteStore, Store
from tests.redis_server import RedisServer

Opens = Callable[[], Store]
"""Opens one more store on the same place, as another process would."""


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> Iterator[RedisServer]:
    """A running, empty Redis, which the test may stop, hang and start."""
    yield redis_process
    redis_process.stop()
    redis_process.start()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where it is: a file, or a Redis."""
    if request.param == "sqlite":
        return tmp_path / "budget.db"
    return request.getfixturevalue("redis_server").url


def open_at(place: Path | str) -> Store:
    return SqliteStore(place) if isinstance(place, Path) else RedisStore(place)
