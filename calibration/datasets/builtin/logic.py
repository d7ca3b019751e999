"""Logic: what follows from a few sentences and nothing else."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import Family, choice, pick, pick_some, text, whole
from calibration.datasets.builtin.material import COLOURS, DAYS, KINDS, NAMES
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
    facts = [f"{a} is {more} than {b}." for a, b in zip(people, people[1:], strict=False)]
    facts = pick_some(rng, facts, len(facts))
    word, right = pick(rng, ((most, people[0]), (least, people[-1])))
    the = "" if n == 2 else "the "
    return text(f"{' '.join(facts)} Who is {the}{word}? Answer with just the name.", right)


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
    return text(f"{facts} {question} Answer with one word.", answer)


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
            (f"What is the colour of the key to the {rooms[i]}?", colours[i]),
        ),
    )
    return text(f"{rules} {question} Answer with one word.", answer)


def _exclusion(rng: Random) -> Item:
    n = pick(rng, (2, 2, 3))
    kind, options = pick(
        rng,
        (
            ("who", tuple(pick_some(rng, NAMES, n))),
            ("colour", tuple(pick_some(rng, COLOURS, n))),
            ("day", tuple(pick_some(rng, DAYS, n))),
        ),
    )
    listed = f"{', '.join(options[:-1])} or {options[-1]}"
    out = pick_some(rng, options, n - 1)
    answer = next(option for option in options if option not in out)
    if kind == "who":
        facts = " ".join(f"It was not {name}." for name in out)
        return text(
            f"The window was broken by {listed}. {facts} Who broke the window? "
            "Answer with just the name.",
            answer,
        )
    if kind == "colour":
        facts = " ".join(f"It is not {colour}." for colour in out)
        return text(
            f"The ball is {listed}. {facts} What colour is the ball? Answer with one word.", answer
        )
    facts = " ".join(f"It is not on {day}." for day in out)
    return text(
        f"The party is on {listed}. {facts} On which day is the party? Answer with one word.",
        answer,
    )


_DOMAIN = "logic"

FAMILIES: tuple[Family, ...] = (
    Family("order", _DOMAIN, "the first or last in an order given by pairs", "free", _order),
    Family("member", _DOMAIN, "what holds for all holds for one", "free", _member),
    Family("rule", _DOMAIN, "which of several rules applies", "free", _rule),
    Family("exclusion", _DOMAIN, "what is left when the others are ruled out", "free", _exclusion),
    Family(
        "odd-one-out",
        _DOMAIN,
        "the thing of another kind",
        "choice",
        _odd_one_out,
        asks_options=True,
    ),
)
