"""Prompt lookup finds what was said before; the pace guesses as much as pays, in simulated time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.draft import Ask, Drafter, Pace, PromptLookup, StepCost
from router.engine.sequences import common_prefix

FIXED, PER_ROW = 4.8e-3, 4.4e-3
"""Seconds, measured on two cores with the default model: 9.2 ms for one row, 4.4 for each more."""

MOST = 8

small_texts = st.lists(st.integers(0, 3), max_size=40)


def lookup(
    tokens: Sequence[int], most: int = 3, *, longest: int = 4, shortest: int = 2
) -> list[int]:
    drafter: Drafter = PromptLookup(1, longest=longest, shortest=shortest)
    [guesses] = drafter.propose([Ask(0, tokens, most)])
    drafter.close()
    return guesses


def test_lookup_guesses_what_followed_before() -> None:
    assert lookup([1, 2, 3, 4, 5, 9, 1, 2]) == [3, 4, 5]


def test_lookup_prefers_the_longer_match_then_the_later() -> None:
    assert lookup([7, 1, 2, 50, 8, 1, 2, 60, 7, 1, 2], 1) == [50]
    assert lookup([7, 1, 2, 50, 8, 1, 2, 60, 9, 1, 2], 1) == [60]


def test_lookup_needs_as_many_equal_tokens_as_it_was_told() -> None:
    text = [1, 2, 3, 9, 2]
    assert lookup(text) == []
    assert lookup(text, shortest=1) == [3, 9, 2]
    assert lookup([1, 2]) == lookup([1]) == []


def test_lookup_goes_round_where_the_text_does() -> None:
    assert lookup([5, 6, 7, 5, 6, 7, 5, 6], 7) == [7, 5, 6, 7, 5, 6, 7]
    assert lookup([4, 4, 4], 5) == [4] * 5


@pytest.mark.parametrize(("longest", "shortest"), [(1, 2), (3, 0)])
def test_lookup_refuses_lengths_that_make_no_sense(longest: int, shortest: int) -> None:
    with pytest.raises(ValueError, match="shortest"):
        PromptLookup(1, longest=longest, shortest=shortest)


def searched(tokens: list[int], most: int, longest: int, shortest: int) -> list[int]:
    """What lookup promises, by looking at every place of the text."""
    for n in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for start in range(len(tokens) - 1, n - 1, -1):
            if tokens[start - n : start] == tokens[-n:]:
                text = list(tokens)
                while len(text) < len(tokens) + most:
                    text.append(text[start - len(tokens)])
                return text[len(tokens) :]
    return []


@given(
    st.lists(st.tuples(st.integers(0, 2), small_texts, st.integers(0, 45)), max_size=12),
    st.integers(1, 6),
)
def test_lookup_equals_a_search_whatever_its_slots_held(
    turns: list[tuple[int, list[int], int]], most: int
) -> None:
    """Slots grow, are cut, change in the middle or pass to other texts, in any order."""
    drafter = PromptLookup(3)
    slots: list[list[int]] = [[], [], []]
    for seq, more, keep in turns:
        slots[seq] = slots[seq][:keep] + more
        if slots[seq]:
            asks = [Ask(seq, tuple(slots[seq]), most)]
            assert drafter.propose(asks) == [searched(slots[seq], most, 4, 2)]


def test_lookup_answers_asks_in_their_order() -> None:
    drafter = PromptLookup(3)
    asks = [Ask(2, [1, 2, 3, 1, 2], 1), Ask(0, [9], 4), Ask(1, [1, 2, 5, 1, 2], 2)]
    assert drafter.propose(asks) == [[3], [], [5, 1]]


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


@given(st.lists(st.tuples(st.integers(1, 80), st.floats(1e-6, 10)), max_size=60))
def test_cost_is_positive_and_never_falls_with_the_rows(steps: list[tuple[int, float]]) -> None:
    cost = StepCost()
    for rows, seconds in steps:
        cost.took(rows, seconds)
    foreseen = [cost.seconds(rows) for rows in range(1, 100)]
    assert foreseen[0] > 0
    assert all(one <= other * (1 + 1e-9) for one, other in itertools.pairwise(foreseen))


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
    """Speed of lookup and pace together, relative to no guessing, on an answer known before."""
    cost, drafter, pace = learnt(), PromptLookup(1), Pace(MOST)
    n, seconds = 1, 0.0
    while n < len(answer):
        length = min(pace.length(cost, 0), len(answer) - n)
        asks = [Ask(0, prompt + answer[:n], length)] if length else []
        guesses = next(iter(drafter.propose(asks)), [])
        accepted = common_prefix(guesses, answer[n:])
        pace.verified(len(guesses), accepted)
        seconds += cost.seconds(1 + len(guesses))
        n += min(accepted + 1, len(answer) - n)
    return (len(answer) - 1) * cost.seconds(1) / seconds


def test_copying_and_editing_gain_and_free_text_loses_nothing() -> None:
    edited = [-word if i % 30 == 7 else word for i, word in enumerate(WORDS)]
    assert spoken(WORDS, WORDS) > 1.75
    assert spoken(WORDS, WORDS[:100]) > 1.6
    assert spoken(WORDS, edited) > 1.5
    free = np.random.default_rng(9).zipf(1.3, 1500) % 2000  # some pairs of words come again
    assert spoken(WORDS, free.tolist()) > 0.97
