"""Which store of budgets the settings ask for."""

from __future__ import annotations

from pathlib import Path

from router.budgets.base import Store
from router.budgets.redis import RedisStore
from router.budgets.sqlite import SqliteStore
from router.config import Settings
from router.ledger.choose import OFF, default_path


def open_store(settings: Settings) -> Store:
    """Return the store that all gateways of these settings share.

    Redis where there is one, else a file beside the ledger; without a ledger, memory. Nothing is
    opened before the first use. Raises LedgerError when `redis_url` is no address of a Redis.
    """
    if settings.redis_url is not None:
        return RedisStore(settings.redis_url)
    if settings.ledger == OFF:
        return SqliteStore(None)
    ledger = Path(settings.ledger).expanduser() if settings.ledger else default_path()
    return SqliteStore(ledger.with_name(f"{ledger.stem}-budget.db"))
