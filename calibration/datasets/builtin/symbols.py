"""Symbols: letters, positions, patterns and sequences, handled by their form alone."""

from __future__ import annotations

import string
from random import Random

from calibration.datasets.builtin.family import (
    Family,
    number,
    pick,
    pick_some,
    text,
    whole,
)
from calibration.datasets.builtin.material import CITIES, COLOURS, DAYS, MONTHS, NAMES
from calibration.items import Item

_WORDS: tuple[str, ...] = (
    *("cat", "dog", "sun", "tree", "fish", "bird", "house", "table", "river", "bread", "chair"),
    *("garden", "window", "flower", "bottle", "summer", "yellow", "mountain", "kitchen", "lantern"),
    *(
        "elephant",
        "umbrella",
        "notebook",
        "hospital",
        "triangle",
        "computer",
        "sandwich",
        "dolphin",
    ),
    *(
        "orange",
        "island",
        "uncle",
        "jacket",
        "violin",
        "queen",
        "zebra",
        "igloo",
        "napkin",
        "pocket",
    ),
    *(
        "milk",
        "rain",
        "snow",
        "wind",
        "moon",
        "star",
        "lamp",
        "door",
        "hand",
        "foot",
        "nose",
        "king",
    ),
    *("ship", "boat", "coin", "ring", "frog", "duck", "goat", "bear", "wolf", "lion", "tiger"),
    *("apple", "grape", "onion", "paper", "pencil", "spoon", "plate", "glass", "shirt", "glove"),
    *(
        "ladder",
        "rocket",
        "wagon",
        "planet",
        "needle",
        "engine",
        "actor",
        "knife",
        "honey",
        "lemon",
    ),
)


def _letter(rng: Random) -> Item:
    word = pick(rng, _WORDS)
    place, letter = pick(
        rng, (("first", word[0]), ("first", word[0]), ("last", word[-1]), ("second", word[1]))
    )
    return text(f'What is the {place} letter of the word "{word}"? Answer with one letter.', letter)


def _next_in_order(rng: Random) -> Item:
    kind = pick(rng, ("number", "number", "letter", "letter", "day", "month"))
    step = pick(rng, (1, 1, -1))
    where = "next {} after" if step == 1 else "{} right before"
    if kind == "number":
        n = whole(rng, 2, pick(rng, (20, 100, 1000)))
        return number(
            f"What is the {where.format(kind)} {n}? Answer with just the number.", n + step
        )
    row = {"letter": tuple(string.ascii_uppercase), "day": DAYS, "month": MONTHS}[kind]
    i = whole(rng, 1, len(row) - 2)
    return text(
        f"What is the {where.format(kind)} {row[i]}? Answer with just the {kind}.", row[i + step]
    )


_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(n: int) -> str:
    """Return `n`, 0 to 9999, in English words: ``two thousand and five``."""
    if n < 20:
        return _UNITS[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_UNITS[n % 10]}" if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = n % size
    joint = " " if rest >= 100 else " and "
    return f"{in_words(n // size)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")


def _in_figures(rng: Random) -> Item:
    n = whole(rng, *pick(rng, ((1, 30), (20, 99), (20, 99), (100, 999), (1000, 9999))))
    return number(f"What is {in_words(n)} in figures? Answer with just the number.", n)


_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("name", NAMES),
    ("city", CITIES),
    ("colour", COLOURS),
    ("day", DAYS),
    ("month", MONTHS),
)


def _record(rng: Random) -> Item:
    fields = pick_some(rng, _FIELDS, pick(rng, (2, 3, 4)))
    values = [pick(rng, options) for _, options in fields]
    shown = ", ".join(
        f'"{name}": "{value}"' for (name, _), value in zip(fields, values, strict=True)
    )
    i = whole(rng, 0, len(fields) - 1)
    return text(
        f'What is the value of "{fields[i][0]}" in this record? Answer with just the value.',
        values[i],
        context=f"{{{shown}}}",
    )


_DOMAIN = "symbols"

FAMILIES: tuple[Family, ...] = (
    Family("letter", _DOMAIN, "a letter at a place in a word", "free", _letter),
    Family(
        "next-in-order", _DOMAIN, "numbers, letters, days, months in order", "free", _next_in_order
    ),
    Family("in-figures", _DOMAIN, "a number in words, written in figures", "free", _in_figures),
    Family("record", _DOMAIN, "a field of a record", "free", _record),
)
