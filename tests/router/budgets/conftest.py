"""The places where money is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.budgets import RedisStore, SqliteStore, Store


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where it is: a file, or a Redis."""
    if request.param == "sqlite":
        return tmp_path / "budget.db"
    return request.getfixturevalue("redis_server").url


def open_at(place: Path | str) -> Store:
    return SqliteStore(place) if isinstance(place, Path) else RedisStore(place)
