"""What every ledger can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from router.ledger.entries import Counts, Decided, Label

State = dict[str, Any]
"""A small object of JSON's types."""

Change = Callable[[State | None], State]
"""Returns the state that follows on one; None is the first. May be called more than once."""

DEFAULT_DAYS = 30
DEFAULT_ROWS = 100_000
"""About 100 MB of decisions with their answers."""


class Ledger(Protocol):
    """Keeps decisions, labels and states. Every method raises LedgerError when it can't.

    Safe to use from many tasks of one event loop, and from many processes.
    """

    @property
    def on_this_machine(self) -> bool:
        """Whether what is kept is sure to stay on this machine."""

    async def record(self, *decided: Decided) -> None:
        """Keep decisions; one whose id is there already is left as it is."""

    async def label(self, label: Label) -> bool:
        """Take in a label; see `router.ledger.entries.joined` for which one holds.

        Returns whether that changed anything. A label without its decision changes nothing.
        """

    async def find(self, id: str) -> Decided | None:
        """Return a decision, or None when it is unknown or no longer kept."""

    async def labelled(self, since: float = 0.0) -> list[tuple[Decided, Label]]:
        """Return the labelled decisions made at `since` or later, the oldest first."""

    async def latest(self, n: int, since: float = 0.0) -> list[tuple[Decided, Label | None]]:
        """Return the last `n` decisions made at `since` or later, the newest first."""

    async def counts(self) -> Counts:
        """Return how much is kept."""

    async def prune(self, before: float) -> int:
        """Forget decisions made before then, labels and all; return how many."""

    async def state(self, name: str) -> State | None:
        """Return a shared state; None before its first update."""

    async def update_state(self, name: str, change: Change) -> State:
        """Replace a shared state by what `change` makes of it, as one step for all processes."""

    async def close(self) -> None:
        """Release the file or the connections."""
