"""Days of traffic in a moment: the money lasts, is used, and is never passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from router.account import Account
from router.budget import Budgets, Hold, Pacer
from router.budgets import Limits, SqliteStore
from router.judge import AS_CALIBRATED
from tests.router.calibrations import falling
from tests.router.traffic import SURER, USUAL, WORSE, held_out

MIDNIGHT = 1_699_920_000.0  # 14 November 2023
DAY = 86_400.0
COST = 0.01
WANTED = 0.5
"""The calibration's own threshold, which half of the usual answers do not reach."""

Rhythm = Callable[[float], float]
"""Seconds since the first midnight -> queries a second."""


def steady(_: float) -> float:
    return 0.03


def office_hours(at: float) -> float:
    return 0.06 if 8 <= (at % DAY) / 3600 < 18 else 0.006


def ever_more(at: float) -> float:
    return 0.015 * 2 ** (at / DAY)


def bursts(at: float) -> float:
    return 0.3 if at % 21_600 < 1200 else 0.015


@dataclass
class Day:
    spent: float = 0.0
    refused_at: list[float] = field(default_factory=list)
    """Share of the day that had gone by."""
    wanted: int = 0
    """Escalations, had there been no limit."""
    moved: int = 0


async def days_of(
    rhythm: Rhythm,
    n_days: int,
    budgets: Budgets,
    clock: list[float],
    *,
    kind: tuple[float, float] = USUAL,
    forced: float = 0.0,
) -> list[Day]:
    """Poisson traffic of one account, five calls under way at a time; what each day was like."""
    rng = np.random.default_rng(7)
    pacer, calibrator = Pacer(held_out()), falling(1.0)
    account = Account(id="ada", usd_per_day=1.0)
    days = [Day() for _ in range(n_days + 1)]
    under_way: list[tuple[Hold, float, int]] = []
    at, looked = 0.0, -math.inf
    peak = max(rhythm(t) for t in np.linspace(0.0, n_days * DAY, 10_000))
    while at < n_days * DAY:
        at += rng.exponential(1.0 / peak)
        if rng.random() * peak > rhythm(at):
            continue
        clock[0] = MIDNIGHT + at
        if at - looked > 60.0:
            await budgets.sync()
            looked = at
        day = days[int(at // DAY)]
        spending = budgets.of(account)
        assert spending is not None
        is_forced = rng.random() < forced
        p = float(calibrator.predict(np.array([rng.uniform(*kind)]))[0])
        stance = spending.limiting(AS_CALIBRATED, pacer)
        if not is_forced:
            spending.asked()
            pacer.saw(p)
        threshold = min(WANTED, stance.at_most if stance.at_most is not None else math.inf)
        day.wanted += p < WANTED or is_forced
        day.moved += threshold < WANTED
        if p >= threshold and not is_forced:
            continue
        hold = await spending.reserve(COST, forced=is_forced)
        if hold is None:
            day.refused_at.append(at % DAY / DAY)
            continue
        under_way.append((hold, COST * rng.uniform(0.5, 1.5), int(at // DAY)))
        if len(under_way) > 5:
            done, cost, of = under_way.pop(0)
            done.settle(cost)
            days[of].spent += cost
    return days[:n_days]


def budgets_at(clock: list[float]) -> Budgets:
    return Budgets(SqliteStore(None, clock=lambda: clock[0]), Limits(), clock=lambda: clock[0])


@pytest.mark.parametrize("rhythm", [steady, office_hours, ever_more, bursts])
@pytest.mark.parametrize("kind", [USUAL, WORSE], ids=["usual", "worse"])
async def test_the_money_lasts_is_used_and_never_passed(
    rhythm: Rhythm, kind: tuple[float, float]
) -> None:
    clock = [MIDNIGHT]
    budgets = budgets_at(clock)
    days = await days_of(rhythm, 2, budgets, clock, kind=kind)
    await budgets.close()
    for day in days:
        assert day.wanted * COST > 2.0  # twice of what there is
        assert day.moved > 0
        assert day.spent <= 1.0 + 5 * 0.5 * COST
        assert day.spent >= 0.9
        assert min(day.refused_at, default=1.0) >= 0.95


async def test_where_the_money_is_enough_nothing_moves() -> None:
    clock = [MIDNIGHT]
    budgets = budgets_at(clock)
    days = await days_of(lambda _: 0.0015, 3, budgets, clock)  # about 65 escalations a day
    await budgets.close()
    budgets = budgets_at(clock)
    quiet = await days_of(steady, 1, budgets, clock, kind=SURER)  # none
    await budgets.close()
    assert [day.refused_at for day in days] == [[], [], []]
    for day in days:
        assert day.spent == pytest.approx(day.wanted * COST, abs=6 * COST + 0.1)
    assert quiet[0].moved == 0


async def test_what_is_forced_is_set_aside() -> None:
    """A fifth of the queries asks for the remote model by name: more than half of the money."""
    clock = [MIDNIGHT]
    budgets = budgets_at(clock)
    days = await days_of(lambda _: 0.0035, 3, budgets, clock, kind=WORSE, forced=0.2)
    await budgets.close()
    for day in days[1:]:
        assert day.spent >= 0.9
        assert min(day.refused_at, default=1.0) >= 0.9
