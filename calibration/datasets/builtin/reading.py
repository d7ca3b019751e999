"""Reading: a few sentences, and a question that they answer."""

from __future__ import annotations

from random import Random

from calibration.datasets.builtin.family import (
    Family,
    pick,
    pick_some,
    text,
    whole,
)
from calibration.datasets.builtin.material import CITIES, COLOURS, DAYS, GIRLS, NAMES
from calibration.items import Item

_JOBS = (
    *("nurse", "baker", "teacher", "farmer", "painter", "pilot", "lawyer", "dentist", "driver"),
    *("gardener", "singer", "carpenter", "cook", "writer", "photographer", "plumber"),
)
_CLOTHES = ("scarf", "hat", "coat", "dress", "shirt", "sweater", "bag", "umbrella", "jacket")
_FOODS = ("soup", "pizza", "rice", "salad", "pancakes", "noodles", "fish", "beans", "an omelette")
_PLACES = ("kitchen", "garden", "garage", "bedroom", "cellar", "attic", "library", "office")
_LOST = ("keys", "phone", "wallet", "glasses", "watch", "ring", "notebook", "camera")
_PAIRS = ("keys", "glasses")


def _people(rng: Random, n: int) -> list[str]:
    return pick_some(rng, NAMES, n)


def _who_where(rng: Random) -> Item:
    n = pick(rng, (1, 2, 2, 3, 4))
    people, cities = _people(rng, n), pick_some(rng, CITIES, n)
    jobs = pick_some(rng, _JOBS, n)
    context = " ".join(
        f"{who} works as a {job} in {city}."
        for who, job, city in zip(people, jobs, cities, strict=True)
    )
    i = whole(rng, 0, n - 1)
    kind = pick(rng, ("where", "job", "who"))
    if kind == "where":
        question = f"In which city does {people[i]} work? Answer with just the city."
        return text(question, cities[i], context=context)
    if kind == "job":
        question = f"What is {people[i]}'s job? Answer with just the job."
        return text(question, jobs[i], context=context)
    question = f"Who works in {cities[i]}? Answer with just the name."
    return text(question, people[i], context=context)


def _detail(rng: Random) -> Item:
    who = pick(rng, GIRLS)
    thing, other = pick_some(rng, _CLOTHES, 2)
    colour, second = pick_some(rng, COLOURS, 2)
    day, city = pick(rng, DAYS), pick(rng, CITIES)
    food = pick(rng, _FOODS)
    context = (
        f"On {day} {who} took the train to {city}. At the market she bought a {colour} {thing} "
        f"for her mother and a {second} {other} for herself. For lunch she had {food}. "
        "In the evening she went home, tired but happy."
    )
    asked, answer = pick(
        rng,
        (
            (f"What colour is the {thing}?", colour),
            (f"What colour is the {other}?", second),
            (f"On which day did {who} take the train?", day),
            (f"Where did {who} go by train?", city),
            (f"What did {who} have for lunch?", food.removeprefix("an ")),
            (f"What did {who} buy for her mother?", f"{colour} {thing}"),
        ),
    )
    aliases = (thing,) if answer == f"{colour} {thing}" else ()
    return text(f"{asked} Answer in a few words.", answer, *aliases, context=context)


def _lost_and_found(rng: Random) -> Item:
    who, friend = _people(rng, 2)
    first, second, found = pick_some(rng, _PLACES, 3)
    lost = pick(rng, _LOST)
    were, they, them = ("were", "they", "them") if lost in _PAIRS else ("was", "it", "it")
    context = pick(
        rng,
        (
            f"The {lost} {were} not in the {first}. {friend} found {them} in the {found}.",
            f"{who} lost the {lost} and looked in the {first} and in the {second}, but {they} "
            f"{were} not there. Then {friend} found {them} in the {found}.",
        ),
    )
    question, answer = pick(
        rng,
        (
            (f"Where {were} the {lost}? Answer with just the place.", found),
            (f"Who found the {lost}? Answer with just the name.", friend),
        ),
    )
    return text(question, answer, context=context)


_PURPOSES = ("budget report", "new contract", "travel plan", "sales figures", "floor plan", "menu")


def _message(rng: Random) -> Item:
    who, other = _people(rng, 2)
    day, hour, room = pick(rng, DAYS), whole(rng, 1, 11), whole(rng, 2, 40)
    half = pick(rng, ("am", "pm"))
    purpose = pick(rng, _PURPOSES)
    subject, detour = pick(
        rng, (("meeting", ""), ("interview", ""), ("lesson", f" {other} can't come."))
    )
    context = (
        f"Hi, the {subject} with {who} is on {day} at {hour} {half} in room {room}.{detour} "
        f"Please bring the {purpose}."
    )
    asked, answers = pick(
        rng,
        (
            (f"In which room is the {subject}? Answer with just the number.", (str(room),)),
            (f"On which day is the {subject}? Answer with one word.", (day,)),
            (
                f"At what time is the {subject}? Answer with just the time.",
                (f"{hour} {half}", f"{hour}{half}"),
            ),
            (f"Who is the {subject} with? Answer with just the name.", (who,)),
            (f"What should I bring to the {subject}? Answer in a few words.", (purpose,)),
        ),
    )
    return text(asked, *answers, context=context)


_DOMAIN = "reading"

FAMILIES: tuple[Family, ...] = (
    Family("who-where", _DOMAIN, "people, their jobs and cities", "free", _who_where),
    Family("detail", _DOMAIN, "one detail of a short story", "free", _detail),
    Family("lost-and-found", _DOMAIN, "who found a thing, and where", "free", _lost_and_found),
    Family("message", _DOMAIN, "when, where and with whom an appointment is", "free", _message),
)
