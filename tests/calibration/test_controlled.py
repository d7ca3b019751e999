"""The controller on a set left out: it holds what a threshold of the hold-out does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.controlled import SETTLED, STREAM, hold_ratios
from calibration.controller import EscalationController
from calibration.metrics import FloatArray

WANTED = (0.1, 0.5, 0.9)
RNG = np.random.default_rng(0)
POOL = RNG.random(300)


@pytest.mark.parametrize(
    "own",
    [RNG.random(100), 5 + RNG.random(100), -5 + RNG.random(100), np.full(100, 0.5)],
    ids=["alike", "less sure", "surer", "all the same"],
)
def test_every_ratio_is_held_wherever_the_scores_lie(own: FloatArray) -> None:
    held = hold_ratios(POOL, own, WANTED, seed=0)
    assert [one.wanted for one in held] == list(WANTED)
    for one in held:
        bound = EscalationController(one.wanted, [0.5]).bound(SETTLED)
        assert abs(one.first - one.wanted) <= bound + 1e-9
        # Of the later ones: what is left of the whole, from both ends.
        assert abs(one.later - one.wanted) <= 2 * bound * SETTLED / (STREAM - SETTLED)
        assert abs(one.later - one.wanted) <= 0.03


def test_the_order_of_scores_alone_counts() -> None:
    own = RNG.random(100)
    plain = hold_ratios(POOL, own, WANTED, seed=0)
    assert hold_ratios(3 * POOL - 7, 3 * own - 7, WANTED, seed=0) == plain
    assert hold_ratios(POOL, own, WANTED, seed=1) != plain


def test_the_unknown_are_escalated() -> None:
    own = np.where(np.arange(100) < 40, math.nan, RNG.random(100))
    (held,) = hold_ratios(POOL, own, [0.1], seed=0)
    assert held.later == pytest.approx(0.4, abs=0.1)


def test_a_pool_of_equal_or_unknown_scores() -> None:
    for pool in (np.full(5, 0.5), np.array([0.5, math.nan]), np.array([math.nan] * 3)):
        (held,) = hold_ratios(pool, RNG.random(100), [0.3], seed=0)
        assert held.later == pytest.approx(0.3, abs=0.03)
