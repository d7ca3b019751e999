"""Prompt lookup finds what was said before, follows it, and knows how often it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.draft import Ask, Drafter
from router.engine.lookup import PromptLookup

small_texts = st.lists(st.integers(0, 3), max_size=40)


def lookup(tokens: Sequence[int], most: int = 3) -> list[int]:
    drafter: Drafter = PromptLookup(1)
    [guesses] = drafter.propose([Ask(0, tokens, most)])
    drafter.close()
    return guesses


def test_it_guesses_what_followed_before() -> None:
    assert lookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == [4, 5, 6]


def test_it_prefers_the_longer_match_then_the_later() -> None:
    assert lookup([7, 0, 1, 2, 50, 8, 0, 1, 2, 60, 7, 0, 1, 2], 1) == [50]
    assert lookup([7, 0, 1, 2, 50, 8, 0, 1, 2, 60, 9, 0, 1, 2], 1) == [60]


def test_it_needs_three_equal_tokens() -> None:
    assert lookup([1, 2, 3, 9, 2, 3]) == []
    assert lookup([1, 2]) == lookup([1]) == []


def test_it_goes_round_where_the_text_does() -> None:
    assert lookup([5, 6, 7, 5, 6, 7, 5, 6], 7) == [7, 5, 6, 7, 5, 6, 7]
    assert lookup([4, 4, 4, 4], 5) == [4] * 5


def searched(tokens: list[int], most: int) -> list[int]:
    """What lookup promises of a text that it sees at once, by looking at every place."""
    best, best_run = 0, 2
    for place in range(len(tokens) - 1, 2, -1):
        run = 0
        while run < min(8, place) and tokens[place - 1 - run] == tokens[-1 - run]:
            run += 1
        if run > best_run:
            best, best_run = place, run
    text = list(tokens)
    while best and len(text) < len(tokens) + most:
        text.append(text[best - len(tokens)])
    return text[len(tokens) :]


@given(small_texts.filter(bool), small_texts, st.integers(1, 6))
def test_a_new_text_is_searched(text: list[int], before: list[int], most: int) -> None:
    """Whatever the slot held; the text goes on as any that is longer, changed or cut."""
    drafter = PromptLookup(1)
    for other in (before, [*before, 9], [8, *text]):
        if other:
            drafter.propose([Ask(0, other, most)])
    assert drafter.propose([Ask(0, [7, *text], most)]) == [searched([7, *text], most)]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.data())
def test_it_does_not_matter_when_it_is_asked(text: list[int], data: st.DataObject) -> None:
    """While guessing does not pay, or there is no room for it, nobody asks."""
    often, seldom = PromptLookup(1), PromptLookup(1)
    first = data.draw(st.integers(1, len(text)))
    [_] = seldom.propose([Ask(0, text[:first], 4)])
    for n in range(first, len(text) + 1):
        asks = [Ask(0, tuple(text[:n]), 4)]
        guesses = often.propose(asks)
        assert n < len(text) or guesses == seldom.propose(asks)


def test_slots_are_apart_and_asks_answered_in_their_order() -> None:
    drafter = PromptLookup(3)
    asks = [Ask(2, [1, 2, 3, 4, 1, 2, 3], 1), Ask(0, [9], 4), Ask(1, [1, 2, 3, 5, 1, 2, 3], 2)]
    assert drafter.propose(asks) == [[4], [], [5, 1]]


WORDS = np.random.default_rng(8).integers(0, 2000, 200).tolist()


def after_copying(n: int, *more: int) -> list[int]:
    """What is guessed after the first `n` words again, and then `more`, seen one by one."""
    drafter = PromptLookup(1)
    text = [*WORDS, *WORDS[:n], *more]
    for end in range(len(WORDS), len(text) + 1):
        [guesses] = drafter.propose([Ask(0, text[:end], 4)])
    return guesses


def test_a_copy_goes_on_behind_a_replaced_token() -> None:
    assert after_copying(20) == WORDS[20:24]
    assert after_copying(20, 3000) == WORDS[21:25]
    assert after_copying(20, 3000, 3001) == WORDS[22:26]


def test_a_copy_that_does_not_go_on_is_given_up() -> None:
    assert after_copying(20, 3000, 3001, 3002, 3003) == []


def test_a_copy_that_leaves_words_out_is_found_again() -> None:
    assert after_copying(20, *WORDS[50:53]) == WORDS[53:57]


def test_a_copy_keeps_to_its_place_where_the_text_says_the_same_twice() -> None:
    """As in a list of records that begin alike: the later one is not what comes next."""
    alike = [1, 2, 3, 4]
    prompt = [*alike, 10, 11, *alike, 20, 21, *alike, 30, 31, 9]
    drafter = PromptLookup(1)
    for n in range(len(prompt), len(prompt) + 11):
        [guesses] = drafter.propose([Ask(0, (prompt * 2)[:n], 2)])
    assert guesses == [20, 21]


def chances_on(text: list[int], start: int) -> list[list[float]]:
    """The chances told at each token from `start` on."""
    told: list[list[float]] = []

    def note(chances: Sequence[float]) -> int:
        told.append(list(chances))
        return 0

    drafter = PromptLookup(1)
    for end in range(start, len(text)):
        drafter.propose([Ask(0, text[:end], 5, note)])
    return told


def test_chances_grow_while_a_copy_goes_on_although_nothing_was_guessed() -> None:
    told = chances_on(WORDS + WORDS, len(WORDS) + 3)
    assert told[0] == sorted(told[0])
    assert told[0][0] == pytest.approx(0.55)
    assert told[100][0] > 0.97 > told[4][0]


def test_chances_fall_where_what_was_said_never_comes_again() -> None:
    """Each three words come twice, and are never followed by the same."""
    text = [word for i in range(300) for word in (1, 2, 3, 10 + i)]
    told = [chances for chances in chances_on(text, 8) if chances]
    assert told[-1][0] < 0.25 < told[0][0]


def test_only_what_pays_is_guessed() -> None:
    drafter = PromptLookup(1)
    text = [*WORDS, *WORDS[:10]]
    assert drafter.propose([Ask(0, text, 5, lambda _: 2)]) == [WORDS[10:12]]
    assert drafter.propose([Ask(0, text, 5, lambda _: 0)]) == [[]]
    assert drafter.propose([Ask(0, text, 5, len)]) == [WORDS[10:15]]
