"""Where decisions and their labels are kept, with the small states that processes share.

A file of the user's by default (SQLite), or Redis. What is kept: the decision behind every answer,
the local answer's text, and whether it was right where someone told. Never the question, and never
the LLM's answer.
"""

from __future__ import annotations

from router.ledger.base import Ledger
from router.ledger.choose import default_path, open_ledger
from router.ledger.entries import Counts, Decided, Label, Source
from router.ledger.redis import RedisLedger
from router.ledger.sqlite import SqliteLedger

__all__ = [
    "Counts",
    "Decided",
    "Label",
    "Ledger",
    "RedisLedger",
    "Source",
    "SqliteLedger",
    "default_path",
    "open_ledger",
]
