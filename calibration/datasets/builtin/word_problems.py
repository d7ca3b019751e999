"""Word problems: one or two operations inside a little story."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import (
    STORY,
    TWO_SENTENCES,
    Family,
    number,
    pick,
    pick_some,
    whole,
)
from calibration.datasets.builtin.material import NAMES, THINGS
from calibration.items import Item


def _gain(rng: Random) -> tuple[str, int]:
    top = pick(rng, (5, 5, 9, 20, 60))
    a, b = whole(rng, 2, top), whole(rng, 2, top)
    who, (_, things) = pick(rng, NAMES), pick(rng, THINGS)
    story = pick(
        rng,
        (
            f"{who} has {a} {things} and buys {b} more. How many {things} does {who} have now?",
            f"{who} has {a} {things} and finds {b} more. "
            f"How many {things} does {who} have in total?",
            f"{who} has {a} {things} and gets {b} more {things} from a friend. "
            f"How many {things} does {who} have now?",
        ),
    )
    return story, a + b


def _loss(rng: Random) -> tuple[str, int]:
    top = pick(rng, (6, 6, 10, 20, 60))
    b, a = sorted(pick_some(rng, range(1, top), 2))
    who, (one, things) = pick(rng, NAMES), pick(rng, THINGS)
    some = f"{b} {one if b == 1 else things}"
    story = pick(
        rng,
        (
            f"{who} has {a} {things} and gives away {some}. How many {things} are left?",
            f"{who} has {a} {things} and loses {some}. How many {things} does {who} still have?",
            f"There are {a} {things} on the table. {who} takes {some} away. "
            f"How many {things} stay on the table?",
        ),
    )
    return story, a - b


def _more_or_less(rng: Random) -> Item:
    story, value = pick(rng, (_gain, _gain, _loss))(rng)
    return number(f"{story} Answer in one short sentence.", value, max_tokens=STORY)


def _price(rng: Random) -> Item:
    top = pick(rng, (3, 4, 5, 10, 20))
    n, price = whole(rng, 2, top), whole(rng, 2, top)
    one, things = pick(rng, THINGS)
    who = pick(rng, NAMES)
    story = pick(
        rng,
        (
            f"{who} buys {n} {things}. Each {one} costs {price} dollars. "
            f"How many dollars does {who} pay?",
            f"{who} buys {n} {things} for {price} dollars each. How many dollars does {who} pay?",
            f"{who} has {n} bags with {price} {things} in each bag. "
            f"How many {things} does {who} have in total?",
        ),
    )
    return number(f"{story} Answer in one short sentence.", n * price, max_tokens=STORY)


def _two_steps(rng: Random) -> Item:
    top = pick(rng, (4, 6, 10, 10))
    a, b = whole(rng, 2, top), whole(rng, 2, top)
    c = whole(rng, 1, min(a + b - 1, top))
    who, (one, things) = pick(rng, NAMES), pick(rng, THINGS)
    story = (
        f"{who} has {a} {things}. Then {who} gets {b} more {things} and gives {c} "
        f"{one if c == 1 else things} to a friend. How many {things} does {who} have now?"
    )
    return number(
        f"{story} Explain in two short sentences.",
        a + b - c,
        max_tokens=TWO_SENTENCES,
    )


_DOMAIN = "word_problems"

FAMILIES: tuple[Family, ...] = (
    Family("more-or-less", _DOMAIN, "someone gets or loses some things", "free", _more_or_less),
    Family("price", _DOMAIN, "so many things at so much each", "free", _price),
    Family("two-steps", _DOMAIN, "get some, give some, step by step", "steps", _two_steps),
)
