"""Guesses are as many as pay, in simulated time: by the pace, and by what a lookup knows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.draft import Ask, Pace, StepCost
from router.engine.lookup import PromptLookup
from router.engine.sequences import common_prefix

FIXED, PER_ROW = 4.8e-3, 4.4e-3
"""Seconds, measured on two cores with the default model: 9.2 ms for one row, 4.4 for each more."""

MOST = 8

small_texts = st.lists(st.integers(0, 3), max_size=40)


@given(small_texts, small_texts)
def test_the_common_prefix_is_what_both_begin_with(a: list[int], b: list[int]) -> None:
    for one, other in ((a, b), (a, a + b), (a + b, a), (a, tuple(a[:-1]))):
        n = common_prefix(one, other)
        assert list(one[:n]) == list(other[:n])
        assert n in (len(one), len(other)) or one[n] != other[n]


def learnt(fixed: float = FIXED, per_row: float = PER_ROW, per_guess: float = 0.0) -> StepCost:
    cost = StepCost()
    for i in range(300):
        cost.took(1 + i % 9, fixed + per_row * (1 + i % 9))
    cost.per_guess = per_guess
    return cost


def test_cost_finds_the_line() -> None:
    cost = learnt()
    for rows in (1, 5, 9, 16):
        assert cost.seconds(rows) == pytest.approx(FIXED + PER_ROW * rows, rel=0.01)


def test_cost_unseen_grows_with_the_rows_but_less_than_they_do() -> None:
    cost = StepCost()
    assert 0 < cost.seconds(1) < cost.seconds(2) < 2 * cost.seconds(1)
    for _ in range(1000):  # one size says nothing about others
        cost.took(1, 0.08)
    assert cost.seconds(1) == pytest.approx(0.08)
    assert cost.seconds(1) < cost.seconds(2) < 2 * cost.seconds(1)


@pytest.mark.parametrize("rows", [1, 9])
def test_cost_is_not_upset_by_one_slow_step(rows: int) -> None:
    cost = learnt()
    cost.took(rows, 60.0)
    for n in (1, 2, 9):
        assert cost.seconds(n) == pytest.approx(FIXED + PER_ROW * n, rel=0.15)


def test_cost_soon_forgets_a_slow_beginning() -> None:
    cost = StepCost()
    cost.took(1, 10.0)  # the first step loads the weights
    for i in range(60):
        cost.took(1 + i % 9, FIXED + PER_ROW * (1 + i % 9))
    for n in (1, 9):
        assert cost.seconds(n) == pytest.approx(FIXED + PER_ROW * n, rel=0.15)


def test_cost_follows_a_machine_that_changes() -> None:
    cost = learnt()
    for factor in (3.0, 0.5):
        for i in range(300):
            cost.took(1 + i % 9, factor * (FIXED + PER_ROW * (1 + i % 9)))
        for n in (1, 9):
            assert cost.seconds(n) == pytest.approx(factor * (FIXED + PER_ROW * n), rel=0.05)


def test_cost_learns_sizes_that_are_off_the_line() -> None:
    """Kernels take rows by fours."""
    cost = StepCost()
    for i in range(300):
        rows = 1 + i % 16
        cost.took(rows, 10e-3 + 4e-3 * (-(-rows // 4) * 4))
    for rows in (4, 5, 8, 9):
        steps = 10e-3 + 4e-3 * (-(-rows // 4) * 4)
        assert cost.seconds(rows) == pytest.approx(steps, rel=0.07)
    assert cost.worth([0.95] * 15, 0) % 4 == 3  # together with the row that is decoded anyway


@given(st.lists(st.tuples(st.integers(1, 80), st.floats(1e-6, 10)), max_size=60))
def test_cost_is_positive(steps: list[tuple[int, float]]) -> None:
    cost = StepCost()
    for rows, seconds in steps:
        cost.took(rows, seconds)
    assert all(cost.seconds(rows) > 0 for rows in range(1, 100))


def test_worth_by_hand() -> None:
    cost = learnt(10e-3, 5e-3)  # a step takes 15 ms, each guess 5 more
    assert cost.worth([], 0) == cost.worth([0.3], 0) == 0
    assert cost.worth([0.4], 0) == 1
    assert cost.worth([0.4, 0.4], 0) == 1
    assert cost.worth([1.0] * 5, 0) == 5
    assert cost.worth([0.3, 1.0, 1.0], 0) == 0
    assert cost.worth([0.33, 1.0, 1.0], 0) == 0
    assert cost.worth([0.7], 3) == 1
    assert cost.worth([0.6], 3) == 0  # the other three wait for it too
    cost.per_guess = 5e-3
    assert cost.worth([0.6], 0) == 0
    assert cost.worth([0.7], 0) == 1


Acceptance = Callable[[int], float]
"""Tokens so far -> the probability that a guess is accepted."""


class Simulation:
    """An answer of one request, guesses accepted at random, time as `cost` says."""

    def __init__(
        self, acceptance: Acceptance, n_tokens: int, *, seed: int, cost: StepCost, others: int = 0
    ) -> None:
        self.lengths: list[int] = []
        self.ends: list[int] = []
        """Of each step: how many tokens there were after it."""
        self.seconds = 0.0
        rng = np.random.default_rng(seed)
        pace = Pace(MOST)
        n = 0
        while n < n_tokens:
            length = pace.length(cost, others)
            accepted = 0
            while accepted < length and rng.random() < acceptance(n):
                accepted += 1
            pace.verified(length, accepted)
            self.seconds += cost.seconds(others + 1 + length) + length * cost.per_guess
            n += 1 + accepted
            self.lengths.append(length)
            self.ends.append(n)
        self.n_tokens = n


def speed(acceptance: float, n_tokens: int, *, cost: StepCost, others: int = 0) -> float:
    """Tokens a second, for all sequences together, as a multiple of those without guessing."""
    tokens, seconds = 0, 0.0
    for seed in range(max(2, 4000 // n_tokens)):
        run = Simulation(lambda _: acceptance, n_tokens, seed=seed, cost=cost, others=others)
        tokens += run.n_tokens + others * len(run.lengths)
        seconds += run.seconds
    return tokens / seconds * cost.seconds(others + 1) / (others + 1)


def best_fixed_speed(acceptance: float, cost: StepCost) -> float:
    expected = np.cumsum(acceptance ** np.arange(MOST + 1.0))
    seconds = [cost.seconds(1 + k) + k * cost.per_guess for k in range(MOST + 1)]
    return float(np.max(expected / seconds) * cost.seconds(1))


@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
def test_pace_loses_next_to_nothing_where_guessing_does_not_pay(acceptance: float) -> None:
    assert speed(acceptance, 5000, cost=learnt()) >= 0.98
    assert speed(acceptance, 64, cost=learnt()) >= 0.965


@pytest.mark.parametrize(
    ("acceptance", "share"), [(0.6, 0.96), (0.8, 0.97), (0.9, 0.98), (0.95, 0.98), (1.0, 0.99)]
)
def test_pace_is_near_the_best_fixed_number(acceptance: float, share: float) -> None:
    cost = learnt()
    assert speed(acceptance, 5000, cost=cost) >= share * best_fixed_speed(acceptance, cost)


def test_perfect_guesses_come_close_to_the_physical_limit() -> None:
    assert best_fixed_speed(1.0, learnt()) == pytest.approx(1.865, abs=0.01)
    assert speed(1.0, 200, cost=learnt()) > 1.82


def test_pace_grows_to_the_most_at_once_when_all_is_accepted() -> None:
    lengths = Simulation(lambda _: 1.0, 100, seed=0, cost=learnt()).lengths
    assert lengths[:4] == [1, 2, 4, 8]
    assert set(lengths[3:]) <= {7, 8}
    assert lengths[-1] == 8


@pytest.mark.parametrize("change", [100, 307, 1011])
def test_pace_notices_when_a_text_becomes_easy_to_guess(change: int) -> None:
    run = Simulation(lambda n: float(n >= change), change + 200, seed=0, cost=learnt())
    long = next(end for end, length in zip(run.ends, run.lengths, strict=True) if length >= 4)
    assert long - change <= 50


def test_pace_notices_when_a_text_becomes_hard_to_guess() -> None:
    cost = learnt()
    run = Simulation(lambda n: float(n < 300), 600, seed=0, cost=cost)
    lengths = [length for end, length in zip(run.ends, run.lengths, strict=True) if end > 308]
    assert max(lengths[2:]) <= 4
    assert lengths[20] == 0
    wasted = sum(lengths[:60]) * (cost.seconds(2) - cost.seconds(1)) / cost.seconds(1)
    assert wasted < 15  # steps


def test_pauses_grow_while_trials_fail() -> None:
    run = Simulation(lambda _: 0.0, 400, seed=0, cost=learnt())
    at = [i for i, length in enumerate(run.lengths) if length]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 12
    assert 25 <= pauses[-1] <= 50


def test_a_trial_waits_for_guesses() -> None:
    pace, cost = Pace(MOST), learnt()
    for _ in range(100):  # the drafter knows nothing: that is no failure
        assert pace.length(cost, 0) == 1
        pace.verified(0, 0)


def test_others_tokens_count_as_much() -> None:
    cost = learnt()
    for others in (1, 3, 7):
        for acceptance in (0.0, 0.5, 0.8, 1.0):
            assert speed(acceptance, 500, cost=cost, others=others) > 0.985
    assert speed(1.0, 500, cost=cost, others=3) > 1.1


def test_rows_that_cost_nothing_are_used() -> None:
    """As on a GPU, where a step takes as long with 9 rows as with one."""
    cost = learnt(10e-3, 0.1e-3)
    assert speed(0.3, 2000, cost=cost) > 0.97 * best_fixed_speed(0.3, cost) > 1.3


def test_what_the_drafter_takes_counts() -> None:
    as_dear_as_a_step = learnt(per_guess=FIXED + PER_ROW)
    assert set(Simulation(lambda _: 1.0, 50, seed=0, cost=as_dear_as_a_step).lengths) == {0}
    dear = learnt(10e-3, 0.1e-3, per_guess=1e-3)
    assert speed(0.0, 2000, cost=dear) >= 0.97
    assert speed(0.9, 2000, cost=dear) > 0.97 * best_fixed_speed(0.9, dear)


def test_pace_keeps_to_its_most() -> None:
    assert {Pace(1).length(learnt(), 0)} == {1}
    pace = Pace(3)
    for _ in range(10):
        length = pace.length(learnt(), 0)
        pace.verified(length, length)
    assert length == 3
    with pytest.raises(ValueError, match="at least one"):
        Pace(0)


WORDS = np.random.default_rng(8).integers(0, 2000, 600).tolist()


def spoken(prompt: list[int], answer: list[int]) -> float:
    """Speed with lookup, relative to no guessing, on an answer known before."""
    cost, drafter = learnt(), PromptLookup(1)
    n, seconds = 1, 0.0
    while n < len(answer):
        worth = partial(cost.worth, others=0)
        asks = [Ask(0, prompt + answer[:n], min(MOST, len(answer) - n), worth)]
        [guesses] = drafter.propose(asks)
        accepted = common_prefix(guesses, answer[n:])
        seconds += cost.seconds(1 + len(guesses))
        n += min(accepted + 1, len(answer) - n)
    return (len(answer) - 1) * cost.seconds(1) / seconds


def test_copying_and_editing_gain_and_free_text_loses_nothing() -> None:
    edited = [-word if i % 30 == 7 else word for i, word in enumerate(WORDS)]
    assert spoken(WORDS, WORDS) > 1.8
    assert spoken(WORDS, WORDS[:100]) > 1.7
    assert spoken(WORDS, edited) > 1.5
    free = np.random.default_rng(9).zipf(1.3, 1500) % 2000  # some runs of words come again
    assert spoken(WORDS, free.tolist()) > 0.99


@pytest.mark.parametrize("repeated", [3, 4, 6])
def test_text_that_repeats_itself_in_vain_loses_little(repeated: int) -> None:
    """The worst there is: always a place with so many equal tokens, and never right."""
    text = [word for i in range(200) for word in (*range(repeated), 10 + i)]
    assert spoken([], text[:128]) > 0.95
    assert spoken([], text) > 0.98
