"""One question, with its answer or still without."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

GraderName = Literal["choice", "number", "text"]

GRADERS: tuple[GraderName, ...] = get_args(GraderName)
LETTERS = string.ascii_uppercase


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled question, from a file or from the built-in hold-out.

    Attributes
    ----------
    id : unique within its data set.
    dataset, domain, split, subject : where it comes from.
    question : the question itself; `context` is the passage it is about, if any.
    choices : the options of a multiple-choice question, in the order of their letters; else None.
    answer : the letter of the right option for multiple choice, else the answer as text.
    answers : all accepted answers (aliases). `answer` is added when it is not among them, and so is
        the right option's text for multiple choice.
    grader : which rule of `calibration.grading` decides; see there.
    family : the generator of a built-in item; None for items from files.
    max_tokens : how many tokens the answer may take.
    llm : recorded outcomes of other models on this item: name -> was it right.
    conf : recorded confidence of other models in their own answer: name -> [0, 1].

    Raises
    ------
    ValueError
        When the grader ``choice`` and `choices` don't come together, or `answer` is not the letter
        of one of them.
    """

    id: str
    dataset: str
    domain: str
    question: str
    answer: str
    grader: GraderName
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    context: str | None = None
    split: str = ""
    family: str | None = None
    max_tokens: int = 64
    llm: Mapping[str, bool] = field(default_factory=dict, hash=False)
    conf: Mapping[str, float] = field(default_factory=dict, hash=False)
    subject: str = ""

    def __post_init__(self) -> None:
        if (self.choices is not None) != (self.grader == "choice"):
            raise ValueError(
                f"item {self.id!r}: the grader is {self.grader!r} and the choices are "
                f"{self.choices!r}; the grader 'choice' and a list of choices go together"
            )
        if self.choices is not None and self.answer not in tuple(LETTERS[: len(self.choices)]):
            raise ValueError(
                f"item {self.id!r}: the answer is {self.answer!r}, which is not the letter of one "
                f"of its {len(self.choices)} choices"
            )
        needed = [self.answer]
        if self.choices is not None:
            needed.append(self.choices[LETTERS.index(self.answer)])
        missing = tuple(answer for answer in needed if answer not in self.answers)
        object.__setattr__(self, "answers", (*missing, *self.answers))

    def prompt(self) -> str:
        """The user message that asks this item: context, question, lettered options."""
        return _prompt(self.context, self.question, self.choices)


@dataclass(frozen=True, slots=True)
class Question:
    """What an `Item` asks, while nobody has said what the right answer is.

    The attributes are an item's, and so is the prompt.
    `calibration.datasets.with_answer` makes an item of it.
    """

    id: str
    dataset: str
    question: str
    domain: str = ""
    choices: tuple[str, ...] | None = None
    context: str | None = None
    split: str = ""
    family: str | None = None
    max_tokens: int = 256
    subject: str = ""

    def prompt(self) -> str:
        """The user message that asks it: context, question, lettered options."""
        return _prompt(self.context, self.question, self.choices)


def _prompt(context: str | None, question: str, choices: Sequence[str] | None) -> str:
    parts = [context] if context else []
    parts.append(question)
    if choices is not None:
        parts.append("\n".join(f"{LETTERS[i]}. {c}" for i, c in enumerate(choices)))
        parts.append("Answer with the letter of the right option.")
    return "\n\n".join(parts)
