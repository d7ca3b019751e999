"""What a family of hold-out questions is, and the few moves all families are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from calibration.items import LETTERS, Item

Form = Literal["free", "choice", "steps"]

SHORT = 24
"""Tokens for a word, a name or a number inside the sentence that small models wrap around it."""

LETTER = 16
"""Tokens for a letter, its option, and a short lead-in."""

STORY = 40
"""Tokens for a number inside a sentence that first retells a little story."""

TWO_SENTENCES = 64
"""Tokens for a first finding and what follows from it."""

WORKED = 96
"""Tokens for two or three worked lines and a conclusion."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question.

    Attributes
    ----------
    name : unique, part of each item's id.
    domain : one of the eight domains, the name of the module it is written in.
    description : one line for people.
    form : ``free`` (a short answer), ``choice`` (lettered options) or ``steps`` (worked out in the
        answer before the result).
    make : draws one question; everything random comes from its argument. The id, the data set, the
        domain and the family's name are filled in by `generate`.
    size : how many items of it the hold-out has.
    asks_options : the question's words stay the same and the options make the difference ("Which
        number is the largest?"). Where false, two items never share their question.
    """

    name: str
    domain: str
    description: str
    form: Form
    make: Callable[[Random], Item]
    size: int = 65
    asks_options: bool = False


# Python promises the same `Random.random()` in every version, but not the same `choice`, `randint`
# or `shuffle`: these three stand on `random()` alone.


def whole(rng: Random, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: Random, options: Sequence[T]) -> T:
    """Draw one of `options`."""
    return options[int(rng.random() * len(options))]


def pick_some(rng: Random, options: Sequence[T], n: int) -> list[T]:
    """Draw `n` different entries of `options`, in random order."""
    left = list(options)
    return [left.pop(int(rng.random() * len(left))) for _ in range(n)]


def number(
    question: str, value: int, *, context: str | None = None, max_tokens: int = SHORT
) -> Item:
    """Return a question whose answer is a whole number."""
    return Item(
        id="",
        dataset="",
        domain="",
        question=question,
        answer=str(value),
        grader="number",
        context=context,
        max_tokens=max_tokens,
    )


def text(
    question: str,
    *answers: str,
    context: str | None = None,
    max_tokens: int = SHORT,
) -> Item:
    """Return a question whose answer is a word, a name or a phrase; all `answers` are accepted."""
    return Item(
        id="",
        dataset="",
        domain="",
        question=question,
        answer=answers[0],
        answers=answers,
        grader="text",
        context=context,
        max_tokens=max_tokens,
    )


def choice(
    rng: Random,
    question: str,
    right: str,
    wrong: Sequence[str],
    *,
    context: str | None = None,
    max_tokens: int = LETTER,
) -> Item:
    """Return a multiple-choice question; the right option's place is drawn from `rng`."""
    options = pick_some(rng, (right, *wrong), len(wrong) + 1)
    return Item(
        id="",
        dataset="",
        domain="",
        question=question,
        answer=LETTERS[options.index(right)],
        grader="choice",
        choices=tuple(options),
        context=context,
        max_tokens=max_tokens,
    )
