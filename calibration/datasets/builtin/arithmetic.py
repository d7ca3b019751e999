"""Arithmetic: short sums in figures, from one digit to three."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import (
    WORKED,
    Family,
    choice,
    number,
    pick,
    pick_some,
    whole,
)
from calibration.items import Item


def _plus_or_minus(rng: Random) -> Item:
    low, high = pick(rng, ((1, 6), (1, 9), (1, 9), (10, 50), (100, 900)))
    b, a = sorted((whole(rng, low, high), whole(rng, low, high)))
    if a == b or rng.random() < 0.7:
        return number(f"What is {b} + {a}? Answer in one short sentence.", a + b)
    return number(f"What is {a} - {b}? Answer in one short sentence.", a - b)


def _multiplication(rng: Random) -> Item:
    high_a, high_b = pick(rng, ((5, 10), (10, 10), (10, 10), (12, 12), (40, 9)))
    a, b = whole(rng, 1, high_a), whole(rng, 2, high_b)
    asked = (f"What is {a} x {b}?", f"What is {a} times {b}?")[(a + b) % 2]
    return number(f"{asked} Answer with just the number.", a * b)


def _part(rng: Random) -> Item:
    if rng.random() < 0.6:
        half = whole(rng, 1, pick(rng, (10, 25, 50, 250)))
        return number(f"What is half of {2 * half}? Answer with just the number.", half)
    percent = pick(rng, (5, 10, 20, 25, 50))
    # Steps of 20 keep every result whole.
    base = 20 * whole(rng, 1, pick(rng, (5, 15)))
    return number(
        f"What is {percent}% of {base}? Answer with just the number.", percent * base // 100
    )


def _larger_number(rng: Random) -> Item:
    top, n = pick(rng, ((20, 2), (100, 2), (100, 3), (1000, 3), (1000, 4)))
    options = pick_some(rng, range(1, top), n)
    word, best = pick(rng, (("largest", max(options)), ("smallest", min(options))))
    if n == 2:
        word = {"largest": "larger", "smallest": "smaller"}[word]
    others = [str(option) for option in options if option != best]
    return choice(rng, f"Pick the {word} number.", str(best), others)


def _worked_sum(rng: Random) -> Item:
    top = pick(rng, (4, 6, 9, 20))
    a, b, c = whole(rng, 1, top), whole(rng, 1, top), whole(rng, 1, top)
    if rng.random() < 0.6 or c > a + b:
        shown, value = f"{a} + {b} + {c}", a + b + c
    else:
        shown, value = f"{a} + {b} - {c}", a + b - c
    return number(
        f"What is {shown}? Explain step by step.",
        value,
        max_tokens=WORKED,
    )


_DOMAIN = "arithmetic"

FAMILIES: tuple[Family, ...] = (
    Family("plus-or-minus", _DOMAIN, "sums of one to three digits", "free", _plus_or_minus),
    Family("multiplication", _DOMAIN, "products up to 40 times 9", "free", _multiplication),
    Family("part", _DOMAIN, "halves and percentages", "free", _part),
    Family(
        "larger-number",
        _DOMAIN,
        "the largest or smallest of two to four numbers",
        "choice",
        _larger_number,
        asks_options=True,
    ),
    Family(
        "worked-sum",
        _DOMAIN,
        "three numbers added or subtracted, step by step",
        "steps",
        _worked_sum,
    ),
)
