"""Symbols: letters, positions, patterns and sequences, handled by their form alone."""

from __future__ import annotations

import string
from random import Random

from calibration.datasets.builtin.family import (
    WORKED,
    Family,
    choice,
    number,
    pick,
    pick_some,
    text,
    whole,
)
from calibration.datasets.builtin.material import COLOURS, DAYS, KINDS, MONTHS
from calibration.items import Item

_WORDS: tuple[str, ...] = (
    *("cat", "dog", "sun", "tree", "fish", "bird", "house", "table", "river", "bread", "chair"),
    *("garden", "window", "flower", "bottle", "summer", "yellow", "mountain", "kitchen", "lantern"),
    *("elephant", "umbrella", "notebook", "hospital", "triangle", "computer", "sandwich", "dolphin"),
    *("orange", "island", "uncle", "jacket", "violin", "queen", "zebra", "igloo", "napkin", "pocket"),
    *("milk", "rain", "snow", "wind", "moon", "star", "lamp", "door", "hand", "foot", "nose", "king"),
    *("ship", "boat", "coin", "ring", "frog", "duck", "goat", "bear", "wolf", "lion", "tiger"),
    *("apple", "grape", "onion", "paper", "pencil", "spoon", "plate", "glass", "shirt", "glove"),
    *("ladder", "rocket", "wagon", "planet", "needle", "engine", "actor", "knife", "honey", "lemon"),
)


def _letter(rng: Random) -> Item:
    word = pick(rng, _WORDS)
    place, letter = pick(
        rng, (("first", word[0]), ("first", word[0]), ("last", word[-1]), ("second", word[1]))
    )
    return text(f'What is the {place} letter of the word "{word}"? Answer with one letter.', letter)


def _next_in_order(rng: Random) -> Item:
    cycle, what = pick(
        rng,
        (
            (tuple(string.ascii_uppercase), "letter of the alphabet"),
            (tuple(string.ascii_uppercase), "letter of the alphabet"),
            (MONTHS, "month of the year"),
            (DAYS, "day of the week"),
        ),
    )
    step = pick(rng, (1, -1))
    low, high = (0, len(cycle) - 2) if step == 1 else (1, len(cycle) - 1)
    i = whole(rng, low, high)
    where = "after" if step == 1 else "before"
    return text(f"Which {what} comes right {where} {cycle[i]}? Answer with just the {what.split()[0]}.", cycle[i + step])


def _sequence(rng: Random) -> Item:
    step = pick(rng, (1, 1, 2, 5, 10, 3, -1, -2))
    shown = whole(rng, 4, 5)
    start = whole(rng, 1, 20) if step > 0 else whole(rng, 12, 30)
    terms = [start + i * step for i in range(shown + 1)]
    return number(
        f"Which number comes next: {', '.join(map(str, terms[:-1]))}? Answer with just the number.",
        terms[-1],
    )


def _count(rng: Random) -> Item:
    kind = pick(rng, tuple(KINDS))
    n = whole(rng, 2, 6)
    members = pick_some(rng, KINDS[kind], n)
    return number(
        f"How many words are in this list: {', '.join(members)}? Answer with just the number.", n
    )


def _pattern(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3))
    parts = pick_some(rng, COLOURS, n)
    shown = whole(rng, 2 * n, 3 * n)
    row = [parts[i % n] for i in range(shown)]
    return text(
        f"A row of beads repeats a pattern: {', '.join(row)}. Which colour comes next? "
        "Answer with just the colour.",
        parts[shown % n],
    )


def _reversed(rng: Random) -> Item:
    word = pick(rng, [w for w in _WORDS if len(w) <= 8])
    right = word[::-1]
    mixed = [right[1] + right[0] + right[2:], word[1:] + word[0], word[-1] + word[:-1], word]
    wrong = [w for w in dict.fromkeys(mixed) if w != right]
    return choice(
        rng,
        f'Which of these is the word "{word}" written backwards?',
        right,
        pick_some(rng, wrong, pick(rng, (1, 2))),
    )


def _initials(rng: Random) -> Item:
    words = pick_some(rng, _WORDS, pick(rng, (2, 3)))
    joined = "".join(w[0] for w in words)
    return text(
        f"Take the first letter of each of these words: {', '.join(words)}. Say the letters one by "
        "one, then end with all of them joined together.",
        joined,
        max_tokens=WORKED,
    )


def _position(rng: Random) -> Item:
    n = whole(rng, 3, 6)
    words = pick_some(rng, _WORDS, n)
    place, i = pick(rng, (("first", 0), ("second", 1), ("third", 2), ("last", n - 1)))
    return text(
        f"Here is a list: {', '.join(words)}. What is the {place} word in the list? "
        "Answer with one word.",
        words[i],
    )


_DOMAIN = "symbols"

FAMILIES: tuple[Family, ...] = (
    Family("letter", _DOMAIN, "a letter at a place in a word", "free", _letter),
    Family("next-in-order", _DOMAIN, "letters, days and months in order", "free", _next_in_order),
    Family("sequence", _DOMAIN, "the next number of a sequence", "free", _sequence),
    Family("count", _DOMAIN, "how many words a list has", "free", _count),
    Family("pattern", _DOMAIN, "the next bead of a pattern", "free", _pattern),
    Family("reversed", _DOMAIN, "a word written backwards", "choice", _reversed),
    Family("initials", _DOMAIN, "first letters joined, step by step", "steps", _initials),
    Family("position", _DOMAIN, "a word at a place in a list", "free", _position),
)
