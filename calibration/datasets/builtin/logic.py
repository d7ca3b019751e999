"""Logic: order, rules, kinds of kinds, and things turned over."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import WORKED, Family, choice, pick, pick_some, text, whole
from calibration.datasets.builtin.material import COLOURS, KINDS, NAMES
from calibration.items import Item

_ORDERS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("stronger", "strongest", "weakest"),
    ("richer", "richest", "poorest"),
)


def _order(rng: Random) -> Item:
    n = pick(rng, (2, 3, 3, 4))
    people = pick_some(rng, NAMES, n)
    more, most, least = pick(rng, _ORDERS)
    facts = [f"{a} is {more} than {b}." for a, b in zip(people, people[1:], strict=False)]
    facts = pick_some(rng, facts, len(facts))
    word, right = pick(rng, ((most, people[0]), (least, people[-1])))
    wrong = [name for name in people if name != right]
    return choice(rng, f"{' '.join(facts)} Who is the {word}?", right, wrong)


# Made-up creatures: what follows must come from the sentences, not from knowledge.
_MADE_UP = (
    *("wug", "blick", "dax", "fep", "zorp", "lorp", "gimble", "tove", "rath", "snark"),
    *("plim", "quib", "vosh", "narp", "tulk", "grum"),
)
_TRAITS = ("blue", "small", "friendly", "fast", "noisy", "striped", "shy", "hungry", "soft", "round")


def _syllogism(rng: Random) -> Item:
    a, b, c = pick_some(rng, _MADE_UP, 3)
    trait, other = pick_some(rng, _TRAITS, 2)
    who = pick(rng, NAMES)
    context, question, answer = pick(
        rng,
        (
            (f"All {a}s are {trait}. {who} is a {a}.", f"Is {who} {trait}?", "yes"),
            (f"All {a}s are {b}s. All {b}s are {trait}.", f"Are all {a}s {trait}?", "yes"),
            (f"All {a}s are {b}s. {who} is a {a}.", f"Is {who} a {b}?", "yes"),
            (f"No {a} is {trait}. {who} is a {a}.", f"Is {who} {trait}?", "no"),
            (f"All {a}s are {b}s. No {b} is a {c}.", f"Can a {a} be a {c}?", "no"),
            (f"All {a}s are {trait}. {who} is not {trait}.", f"Is {who} a {a}?", "no"),
            (f"All {a}s are {trait}. {who} is {other}.", f"Must {who} be a {a}?", "no"),
        ),
    )
    return text(f"{context} {question} Answer yes or no.", answer)


def _odd_one_out(rng: Random) -> Item:
    kind, other = pick_some(rng, tuple(KINDS), 2)
    n = pick(rng, (2, 3))
    return choice(
        rng,
        "Which of these does not belong with the others?",
        pick(rng, KINDS[other]),
        pick_some(rng, KINDS[kind], n),
    )


_WHEN = ("sunny", "rainy", "windy", "snowy", "foggy", "cloudy")
_DOES = (
    *("swims", "reads", "paints", "cooks", "runs", "sings", "sleeps", "dances", "studies"),
    *("knits", "fishes", "cycles"),
)


def _rule(rng: Random) -> Item:
    who = pick(rng, NAMES)
    n = pick(rng, (2, 2, 3, 4))
    days, acts = pick_some(rng, _WHEN, n), pick_some(rng, _DOES, n)
    rules = " ".join(f"On {day} days {who} {act}." for day, act in zip(days, acts, strict=True))
    i = whole(rng, 0, n - 1)
    return text(
        f"{rules} Today it is {days[i]}. What does {who} do today? Answer with one word.",
        acts[i],
        acts[i].removesuffix("s"),
    )


def _coin_flips(rng: Random) -> Item:
    n = pick(rng, (1, 2, 2, 3, 4))
    people = pick_some(rng, NAMES, n)
    flips = [rng.random() < 0.5 for _ in people]
    story = " ".join(
        f"{who} {'turns it over' if flip else 'does not turn it over'}."
        for who, flip in zip(people, flips, strict=True)
    )
    up = sum(flips) % 2 == 0
    return text(
        f"A coin lies with heads up. {story} Does the coin lie with heads up now? "
        "Think step by step and end with yes or no.",
        "yes" if up else "no",
        max_tokens=WORKED,
    )


def _boxes(rng: Random) -> Item:
    n = pick(rng, (2, 3, 3))
    colours = pick_some(rng, COLOURS, n)
    things = pick_some(rng, ("key", "ring", "coin", "pen", "toy", "watch", "letter", "spoon"), n)
    lines = [
        f"The {thing} is in the {colour} box."
        for thing, colour in zip(things, colours, strict=True)
    ]
    if rng.random() < 0.5:
        colours[0], colours[1] = colours[1], colours[0]
        lines.append(f"Then the {things[0]} and the {things[1]} change places.")
    i = whole(rng, 0, n - 1)
    return text(
        f"{' '.join(lines)} In which box is the {things[i]} now? Answer with just the colour.",
        colours[i],
    )


_DOMAIN = "logic"

FAMILIES: tuple[Family, ...] = (
    Family("order", _DOMAIN, "the first or last in an order given by pairs", "choice", _order),
    Family("syllogism", _DOMAIN, "what follows about made-up creatures", "free", _syllogism),
    Family("odd-one-out", _DOMAIN, "the thing of another kind", "choice", _odd_one_out, asks_options=True),
    Family("rule", _DOMAIN, "which of several rules applies today", "free", _rule),
    Family("coin-flips", _DOMAIN, "a coin turned over or not, step by step", "steps", _coin_flips),
    Family("boxes", _DOMAIN, "what is in which box, sometimes exchanged", "free", _boxes),
)
