"""Logic: what follows from a few sentences and nothing else."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from calibration.datasets.builtin.family import Family, choice, pick, pick_some, text, whole
from calibration.datasets.builtin.material import COLOURS, KINDS, NAMES
from calibration.items import Item

_ORDERS = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("stronger", "weaker", "strongest", "weakest"),
    ("richer", "poorer", "richest", "poorest"),
)


def _order(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3, 3, 4))
    people = pick_some(rng, NAMES, n)
    more, less, most, least = pick(rng, _ORDERS)
    if n == 2:
        most, least = more, less
    facts = [f"{a} is {more} than {b}." for a, b in pairwise(people)]
    facts = pick_some(rng, facts, len(facts))
    word, right = pick(rng, ((most, people[0]), (least, people[-1])))
    *some, last = pick_some(rng, people, n)
    # The names stand in the question, so that repeating a fact does not pass for an answer.
    who = f"Who is {word}," if n == 2 else f"Who is the {word}:"
    offered = f"{', '.join(some)} or {last}"
    return text(f"{' '.join(facts)} {who} {offered}? Answer with just the name.", right)


# Made-up words: what follows must come from the sentences, not from knowledge.
_MADE_UP = (
    *("wug", "blick", "dax", "fep", "zorp", "lorp", "gimble", "tove", "rath", "snark"),
    *("plim", "quib", "vosh", "narp", "tulk", "grum"),
)
_ANIMALS = ("bird", "fish", "dog", "cat", "horse", "frog", "bear", "rabbit", "snake", "spider")
_JOBS = ("doctor", "teacher", "farmer", "pilot", "baker", "lawyer", "nurse", "singer", "painter")
_CLUBS = ("chess club", "choir", "tennis club", "book club", "running club", "film club")


def _member(rng: Random) -> Item:
    who = pick(rng, NAMES)
    kind, other = pick_some(rng, _MADE_UP, 2)
    animal, second = pick_some(rng, _ANIMALS, 2)
    colour, shade = pick_some(rng, COLOURS, 2)
    job = pick(rng, _JOBS)
    club = pick(rng, _CLUBS)
    more = rng.random() < 0.3
    facts, question, answer = pick(
        rng,
        (
            (
                f"Every {kind} is a {animal}." + (f" Every {other} is a {second}." if more else ""),
                f"{who} is a {kind}. What kind of animal is {who}?",
                animal,
            ),
            (
                f"All {kind}s are {colour}." + (f" All {other}s are {shade}." if more else ""),
                f"{who} has a {kind}. What colour is it?",
                colour,
            ),
            (
                f"Everyone in the {club} is a {job}.",
                f"{who} is in the {club}. What is {who}'s job?",
                job,
            ),
        ),
    )
    return text(f"{facts} {question} Answer in one short sentence.", answer)


def _odd_one_out(rng: Random) -> Item:
    kind, other = pick_some(rng, tuple(KINDS), 2)
    n = pick(rng, (2, 3))
    return choice(
        rng,
        "Pick the word that does not belong with the others.",
        pick(rng, KINDS[other]),
        pick_some(rng, KINDS[kind], n),
    )


_ROOMS = ("kitchen", "garage", "attic", "cellar", "office", "library", "bedroom", "garden")


def _rule(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3, 4))
    colours, rooms = pick_some(rng, COLOURS, n), pick_some(rng, _ROOMS, n)
    rules = " ".join(
        f"The {colour} key opens the {room}." for colour, room in zip(colours, rooms, strict=True)
    )
    i = whole(rng, 0, n - 1)
    question, answer = pick(
        rng,
        (
            (f"Which room does the {colours[i]} key open?", rooms[i]),
            (f"What colour is the key to the {rooms[i]}?", colours[i]),
        ),
    )
    return text(f"{rules} {question} Answer in one short sentence.", answer)


_DOMAIN = "logic"

FAMILIES: tuple[Family, ...] = (
    Family("order", _DOMAIN, "the first or last in an order given by pairs", "free", _order),
    Family("member", _DOMAIN, "what holds for all holds for one", "free", _member),
    Family("rule", _DOMAIN, "which of several rules applies", "free", _rule),
    Family(
        "odd-one-out",
        _DOMAIN,
        "the thing of another kind",
        "choice",
        _odd_one_out,
        asks_options=True,
    ),
)
