"""What every store of budgets can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from router.budgets.limits import Purse

KEPT_SECONDS = 2 * 86_400
"""How long a settled call is remembered, so that settling it again changes nothing; and how long a
purse is kept after its period, for calls that end late."""

PEER_SECONDS = 60.0
"""How long a process that does not tell of itself counts as running."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is known of a purse. Money in billionths of a USD; all but `reserved` only grow.

    Attributes
    ----------
    spent : by calls that have ended.
    reserved : for those under way, and for those whose process died before it told the price.
    calls : that have ended and cost something.
    asked : queries that a threshold decided, kept or not.
    forced : of `spent`, by calls that no threshold could have kept.
    """

    spent: int = 0
    reserved: int = 0
    calls: int = 0
    asked: int = 0
    forced: int = 0

    @property
    def taken(self) -> int:
        """What is not to be had any more."""
        return self.spent + self.reserved

    def at_least(self, other: Sheet) -> Sheet:
        """This sheet, or `other` where that knows of more: for a store that lost its data."""
        return replace(self, spent=max(self.spent, other.spent), calls=max(self.calls, other.calls))


@dataclass(frozen=True, slots=True)
class Look:
    """A purse, and what the process already knows of it."""

    purse: Purse
    known: Sheet = Sheet()


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that has ended, and what it cost. Telling it twice counts once."""

    id: str
    purses: tuple[Purse, ...]
    cost: int
    forced: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries that a threshold decided."""

    purses: tuple[Purse, ...]
    n: int


@dataclass(frozen=True, slots=True)
class Granted:
    """What became of a reservation.

    `refused` is the place of the purse that holds too little, None when the money was set aside.
    `sheets` are those of the purses afterwards.
    """

    refused: int | None
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The purses that were looked at, and how many processes share them."""

    sheets: tuple[Sheet, ...]
    processes: int


class Store(Protocol):
    """Counts money for all processes that share it. Every method raises LedgerError if it can't.

    Each reservation is one step: no two of them take the same money. `known` raises what the store
    has to what the process has seen of it, should it have lost its data.
    """

    @property
    def shared(self) -> bool:
        """Whether restarts and other processes find what is counted here."""

    async def reserve(self, id: str, looks: Sequence[Look], amount: int) -> Granted:
        """Set `amount` aside in all purses, or in none of them.

        Said again under the same `id`, or after that was settled, it changes nothing.
        """

    async def sync(
        self,
        process: str,
        settled: Sequence[Settled],
        asked: Sequence[Asked],
        looks: Sequence[Look],
    ) -> Seen:
        """Take in what happened, and look at the purses. `process` names who tells."""

    async def close(self) -> None:
        """Release what is open. Methods must not be called afterwards."""
