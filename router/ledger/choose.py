"""Which ledger the settings ask for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from router.config import Settings
from router.data_folder import data_folder
from router.errors import ConfigError, LedgerError
from router.ledger.base import Ledger
from router.ledger.redis import RedisLedger
from router.ledger.sqlite import SqliteLedger

log = logging.getLogger("router.ledger")

OFF = "off"
REDIS = "redis"


async def open_ledger(settings: Settings) -> Ledger | None:
    """Open the ledger that `settings` ask for; None when it is off.

    The default file is nobody's wish: where it can't be used (a home that is read-only), that is
    logged, and the ledger is off.

    Raises
    ------
    ConfigError
        ``redis`` is asked for without a `redis_url`.
    LedgerError
        The file that was asked for can't be used, or `redis_url` is no address.
    """
    days = settings.ledger_days
    if settings.ledger == OFF:
        return None
    if settings.ledger == REDIS:
        if settings.redis_url is None:
            raise ConfigError("ledger = 'redis' needs `redis_url`; set it, or give a file")
        return RedisLedger(settings.redis_url, days=days)
    if settings.ledger:
        return await SqliteLedger.open(settings.ledger, days=days)
    try:
        return await SqliteLedger.open(default_path(), days=days)
    except LedgerError as error:
        log.warning("feedback and audits are off: %s", error)
        return None


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the file in the user's data folder: ``$XDG_DATA_HOME/seek-stronger/ledger.db``."""
    return data_folder(environ) / "ledger.db"
