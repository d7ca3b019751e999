"""One row of a data file -> an `Item` or a `Question`, or all that is wrong with it."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from calibration.items import GRADERS, LETTERS, GraderName, Item, Question
from calibration.numerals import parse_numeral

MAX_TOKENS: Mapping[GraderName, int] = {"choice": 32, "number": 256, "text": 48}
"""Room for an answer by grader: a letter and its option; a worked calculation; a sentence."""

# The keys that decide what is asked and what is right: overlooking one would change the data set.
_ESSENTIAL = ("question", "answer", "answers", "choices", "context", "grader", "max_tokens")
_ASKED = ("question", "choices", "context", "max_tokens")  # what counts where no answer is read
_OTHER_NAMES = {
    "prompt": "question",
    "query": "question",
    "input": "question",
    "options": "choices",
    "candidates": "choices",
    "label": "answer",
    "gold": "answer",
    "target": "answer",
    "output": "answer",
    "solution": "answer",
    "aliases": "answers",
    "passage": "context",
}
_NEAR = 0.82
"""Similarity from which an unknown key counts as misspelt: "anwser" is 0.83 from "answer"."""


class RowError(Exception):
    """What is wrong with a row, problem by problem, each beginning with its field."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))


def parse_row(row: Mapping[str, Any], *, dataset: str) -> Item:
    """Return `row` as an item of `dataset`, unless the row names its own.

    Raises
    ------
    RowError
        Names every field that can't be used, and what was expected.
    """
    return _Row(row).item(dataset)


def parse_question(row: Mapping[str, Any], *, dataset: str) -> Question:
    """Return what `row` asks. An answer in it is not read.

    The question may also be under ``prompt``, or be the only message, the user's, in ``messages``.

    Raises
    ------
    RowError
        As `parse_row`; and for messages that are more than one question in words.
    """
    return _Row(_with_question(row), _ASKED).question(dataset)


def with_answer(question: Question, answer: str) -> Item:
    """Return `question` as an item whose accepted answer is `answer`, graded as it looks.

    For a multiple-choice question the answer is an option's letter or text.

    Raises
    ------
    ValueError
        The answer is empty, or no option.
    """
    row = {field.name: getattr(question, field.name) for field in dataclasses.fields(question)}
    row["choices"] = None if question.choices is None else list(question.choices)
    try:
        return parse_row(row | {"answer": answer}, dataset=question.dataset)
    except RowError as error:
        raise ValueError(f"question {question.id!r}: {error}") from None


class _Row:
    """Reads fields and gathers problems, so that one run shows them all."""

    def __init__(self, row: Mapping[str, Any], essential: Sequence[str] = _ESSENTIAL) -> None:
        self._row = row
        self._essential = essential
        self._problems: list[str] = []

    def item(self, dataset: str) -> Item:
        self._check_keys()
        question = self._required_text("question")
        choices = self._choices()
        answers = self._texts("answers")
        answer = self._answer(answers)
        if choices is not None and answer:
            answer = self._letter(answer, choices)
        grader = self._grader(choices, (answer, *answers))
        fields = self._origin(dataset) | {
            "max_tokens": self._max_tokens(MAX_TOKENS[grader]),
            "llm": self._outcomes("llm", "true or false", lambda value: isinstance(value, bool)),
            "conf": self._outcomes("conf", "a number from 0 to 1", _is_share),
        }
        self._stop_if_bad()
        return Item(
            question=question,
            answer=answer,
            answers=answers,
            choices=choices,
            grader=grader,
            **fields,
        )

    def question(self, dataset: str) -> Question:
        self._check_keys()
        question = self._required_text("question")
        choices = self._choices()
        room = MAX_TOKENS["number" if choices is None else "choice"]
        fields = self._origin(dataset) | {"max_tokens": self._max_tokens(room)}
        self._stop_if_bad()
        return Question(question=question, choices=choices, **fields)

    def _origin(self, dataset: str) -> dict[str, Any]:
        return {
            "id": self._id() or content_id(self._row),
            "dataset": self._text("dataset") or dataset,
            "context": self._text("context") or None,
            "family": self._text("family") or None,
            **{name: self._text(name) for name in ("domain", "split", "subject")},
        }

    def _stop_if_bad(self) -> None:
        if self._problems:
            raise RowError(self._problems)

    def _bad(self, name: str, problem: str) -> None:
        self._problems.append(f"{name}: {problem}")

    def _check_keys(self) -> None:
        absent = [name for name in self._essential if self._row.get(name) is None]
        for key in self._row:
            name = key.strip().lower()
            if key in self._essential:
                continue
            near = difflib.get_close_matches(name, absent, n=1, cutoff=_NEAR)
            meant = near[0] if near else _OTHER_NAMES.get(name)
            if meant in absent and self._row[key] is not None:
                self._bad(key, f"unknown key; did you mean {meant!r}? Rename or remove it")

    def _text(self, name: str) -> str:
        value = self._row.get(name)
        if value is None or isinstance(value, str):
            return value or ""
        self._bad(name, f"text is expected, not {_shown(value)}")
        return ""

    def _required_text(self, name: str) -> str:
        if self._row.get(name) is None:
            self._bad(name, "missing")
            return ""
        value = self._text(name)
        if isinstance(self._row[name], str) and not value.strip():
            self._bad(name, "empty")
        return value

    def _id(self) -> str:
        value = self._row.get("id")
        return str(value) if type(value) is int else self._text("id")

    def _choices(self) -> tuple[str, ...] | None:
        value = self._row.get("choices")
        if value is None:
            return None
        problem = None
        if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
            problem = f"a list of texts is expected, not {_shown(value)}"
        elif not 2 <= len(value) <= len(LETTERS):
            problem = f"2 to {len(LETTERS)} options are expected, not {len(value)}"
        elif not all(option.strip() for option in value):
            empty = next(i for i, option in enumerate(value) if not option.strip())
            problem = f"option {LETTERS[empty]} is empty"
        elif len({option.strip() for option in value}) < 2:
            problem = f"all options are the same: {_shown(value)}"
        if problem:
            self._bad("choices", problem)
            return None
        return tuple(value)

    def _texts(self, name: str) -> tuple[str, ...]:
        value = self._row.get(name)
        if value is None:
            return ()
        texts = [_as_text(entry) for entry in value] if isinstance(value, list) else [None]
        if not texts or not all(text and text.strip() for text in texts):
            self._bad(name, f"a list of texts that are not empty is expected, not {_shown(value)}")
            return ()
        return tuple(text for text in texts if text)

    def _answer(self, answers: tuple[str, ...]) -> str:
        value = self._row.get("answer")
        if value is None:
            if answers:
                return answers[0]
            if "answers" not in self._row:
                self._bad("answer", "missing")
            return ""
        text = _as_text(value)
        if text is None:
            advice = "; a list belongs in 'answers'" if isinstance(value, list) else ""
            self._bad("answer", f"text or a number is expected, not {_shown(value)}{advice}")
        elif not text.strip():
            self._bad("answer", "empty")
        return (text or "").strip()

    def _letter(self, answer: str, choices: tuple[str, ...]) -> str:
        """The right option's letter; it may also be given by its text."""
        options = [option.strip() for option in choices]
        letters = LETTERS[: len(choices)]
        letter = answer.upper() if len(answer) == 1 and answer.upper() in letters else None
        if letter is None and options.count(answer) == 1:
            letter = letters[options.index(answer)]
        if letter is None:
            self._bad(
                "answer",
                f"{answer!r} is neither a letter from A to {letters[-1]} nor one option's text",
            )
            return answer
        right = options[letters.index(letter)]
        if options.count(right) > 1:
            self._bad("choices", f"the right option {right!r} occurs more than once")
        return letter

    def _grader(self, choices: tuple[str, ...] | None, answers: Sequence[str]) -> GraderName:
        value = self._row.get("grader")
        if value is None and choices is not None:
            return "choice"
        no_number = next((answer for answer in answers if parse_numeral(answer) is None), None)
        if value is None:
            return "number" if no_number is None else "text"
        if value not in GRADERS:
            self._bad("grader", f"one of {', '.join(GRADERS)} is expected, not {_shown(value)}")
        elif (value == "choice") != (self._row.get("choices") is not None):
            self._bad("grader", "'choice' and a list of choices go together")
        elif value == "number" and no_number is not None:
            self._bad("grader", f"'number' is set, but the answer {no_number!r} is not a number")
        else:
            return cast(GraderName, value)
        return "text"

    def _max_tokens(self, default: int) -> int:
        value = self._row.get("max_tokens")
        if value is None:
            return default
        if type(value) is not int or value < 1:
            self._bad("max_tokens", f"a whole number from 1 is expected, not {_shown(value)}")
            return 1
        return value

    def _outcomes(self, name: str, expected: str, fits: Callable[[Any], bool]) -> dict[str, Any]:
        value = self._row.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._bad(name, f"an object of model names is expected, not {_shown(value)}")
            return {}
        for model, outcome in value.items():
            if not fits(outcome):
                self._bad(f"{name}[{model!r}]", f"{expected} is expected, not {_shown(outcome)}")
        return dict(value)


def content_id(row: Mapping[str, Any]) -> str:
    """Return an id made from what is asked: the same question, the same id."""
    asked = [row.get(name) for name in ("context", "question", "choices")]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _with_question(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with its question under ``question``, whatever it was under."""
    out = {name: value for name, value in row.items() if name not in ("prompt", "messages")}
    if out.get("question") is not None:
        return out
    if row.get("prompt") is not None:
        return out | {"question": row["prompt"]}
    if row.get("messages") is not None:
        return out | {"question": _only_message(row["messages"])}
    return out


def _only_message(messages: Any) -> str:
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise RowError([f"messages: a list of messages is expected, not {_shown(messages)}"])
    roles = [each.get("role") for each in messages]
    if roles != ["user"]:
        found = ", ".join(map(str, roles)) or "none"
        raise RowError(
            [
                f"messages: one user message is expected, not {found}; system messages and earlier "
                "turns change the answer, and a question asked without them is another one"
            ]
        )
    content = messages[0].get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RowError(["messages: only text can be asked"])
    return "\n".join(map(str, texts))


def _as_text(value: Any) -> str | None:
    """Text, or a number written out; None for everything else."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(value) if is_number and math.isfinite(value) else None


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
