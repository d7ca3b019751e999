"""Where money is counted: which limits apply, and the stores that all processes share."""

from __future__ import annotations

from router.budgets.base import Asked, Granted, Look, Seen, Settled, Sheet, Store
from router.budgets.choose import open_store
from router.budgets.limits import Limits, Purse, nano, usd
from router.budgets.redis import RedisStore
from router.budgets.sqlite import SqliteStore

__all__ = [
    "Asked",
    "Granted",
    "Limits",
    "Look",
    "Purse",
    "RedisStore",
    "Seen",
    "Settled",
    "Sheet",
    "SqliteStore",
    "Store",
    "nano",
    "open_store",
    "usd",
]
