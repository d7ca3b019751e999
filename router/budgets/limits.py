"""What may be spent by whom until when: limits in USD, by UTC day and month."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from router.account import Account

Scope = Literal["key", "gateway"]
Period = Literal["day", "month"]

NANO = 1_000_000_000
"""Money is counted in whole billionths of a USD: sums are exact, whatever their order."""


def nano(usd: float) -> int:
    """Return `usd` in billionths, rounded up: nothing that costs is counted as free."""
    return math.ceil(usd * NANO - 1e-6)


def usd(amount: int) -> float:
    """Return billionths as USD."""
    return amount / NANO


@dataclass(frozen=True, slots=True)
class Purse:
    """What one limit leaves for one period.

    Attributes
    ----------
    scope : whose it is.
    period : how long it has to last.
    owner : the account's id; empty for the gateway's.
    name : under which it is counted; another one each period.
    limit : in billionths of a USD.
    begins, ends : of the period, in seconds since 1970.
    """

    scope: Scope
    period: Period
    owner: str
    name: str
    limit: int
    begins: float
    ends: float

    @property
    def label(self) -> str:
        """As clients are told: ``key/day``."""
        return f"{self.scope}/{self.period}"

    @property
    def line(self) -> tuple[str, Scope, Period]:
        """What it shares with those of other periods."""
        return self.owner, self.scope, self.period


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway as a whole may spend, in USD by UTC day and month; 0 for no limit."""

    usd_per_day: float = 0.0
    usd_per_month: float = 0.0

    def purses(self, account: Account, now: float) -> tuple[Purse, ...]:
        """Return those that a query of `account` draws on; none where nothing limits it.

        An account's limit of 0 is one: nothing may be spent.
        """
        limits: tuple[tuple[Scope, Period, float | None], ...] = (
            ("key", "day", account.usd_per_day),
            ("key", "month", account.usd_per_month),
            ("gateway", "day", self.usd_per_day or None),
            ("gateway", "month", self.usd_per_month or None),
        )
        return tuple(
            _purse(scope, period, account.id if scope == "key" else "", most, now)
            for scope, period, most in limits
            if most is not None
        )


def _purse(scope: Scope, period: Period, owner: str, most: float, now: float) -> Purse:
    begins, ends = bounds(period, now)
    date = begins.date().isoformat()[: 10 if period == "day" else 7]
    who = f"key:{owner}" if scope == "key" else "gateway"
    return Purse(
        scope,
        period,
        owner,
        f"{who}/{date}",
        math.floor(most * NANO + 1e-6),
        begins.timestamp(),
        ends.timestamp(),
    )


def bounds(period: Period, now: float) -> tuple[datetime, datetime]:
    """Return the begin and the end of the UTC day or month in which `now` lies."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight, midnight + timedelta(days=1)
    first = midnight.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)
