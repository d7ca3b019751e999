"""Labelled questions from JSON Lines files, and back.

One JSON object a line, gzip'd or not. A row needs `question` and `answer`; the rest has defaults:

========== ========================================================================================
question   text
answer     the letter of the right option (or its text), or the answer as text or number
choices    list of 2 to 26 options; null or absent for a question with a free answer
answers    further accepted answers; `answer` may be left out when they are given
context    passage that the question is about
id         unique in its data set; default: a hash of what is asked
dataset    default: the file's name; domain, split, subject, family: text
grader     ``choice``, ``number`` or ``text``; default: choice when there are choices, number when
           all accepted answers are numbers, else text
max_tokens room for the answer; default: see `MAX_TOKENS`
llm, conf  other models' outcomes: {name: was it right}, {name: its confidence, 0 to 1}
========== ========================================================================================

Other keys are ignored, unless they look like one of these misspelt or under another name.

`read_questions` reads rows without answers, such as logged traffic.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from calibration.datasets.rows import (
    MAX_TOKENS,
    RowError,
    parse_question,
    parse_row,
    with_answer,
)
from calibration.errors import DataError
from calibration.items import Item, Question

__all__ = [
    "MAX_TOKENS",
    "Dataset",
    "Questions",
    "read_items",
    "read_questions",
    "with_answer",
    "write_items",
]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
T = TypeVar("T", Item, Question)

_SHOWN = 20
"""How many bad rows an error lists; it counts the others."""

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read: the items in the files' order, and a message for each skipped row."""

    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Questions:
    """What was read: each question once, and a message for each skipped row.

    `repeated` counts the rows that ask what an earlier one asks, in the same words.
    """

    questions: tuple[Question, ...]
    skipped: tuple[str, ...] = ()
    repeated: int = 0


def read_items(paths: Paths, *, skip_bad: bool = False) -> Dataset:
    """Read one or several JSON Lines files; see the module for the rows.

    Parameters
    ----------
    paths : a file, or several. Ids must be unique in each data set, over all files.
    skip_bad : leave bad rows out and tell of them in `Dataset.skipped`.

    Raises
    ------
    DataError
        A file can't be read, or nothing usable is in any of them; or, without `skip_bad`, rows are
        bad. The message names each (the first 20) by file, line and field.
    """
    places: dict[tuple[str, str], str] = {}

    def parse(row: dict[str, Any], dataset: str, place: str) -> Item:
        item = parse_row(row, dataset=dataset)
        _claim_id(item, place, places, given=bool(row.get("id")))
        return item

    items, bad = _read(paths, parse, skip_bad=skip_bad)
    return Dataset(tuple(items), tuple(bad))


def read_questions(paths: Paths, *, skip_bad: bool = False) -> Questions:
    """Read what is asked in one or several JSON Lines files; answers in them are not read.

    The rows are those of the module, or have the question under ``prompt``, or as the only message,
    the user's, of OpenAI's ``messages``. A question in the same words (context and options
    included) counts once, with the first row's id, whatever data set the others are of.

    Parameters
    ----------
    paths : a file, or several. A given id must stand for one question of its data set.
    skip_bad : leave bad rows out and tell of them in `Questions.skipped`.

    Raises
    ------
    DataError
        As `read_items`.
    """
    places: dict[tuple[str, str], str] = {}
    first: dict[str, Question] = {}

    def parse(row: dict[str, Any], dataset: str, place: str) -> Question:
        question = parse_question(row, dataset=dataset)
        if question.prompt() in first:
            return first[question.prompt()]
        _claim_id(question, place, places, given=bool(row.get("id")))
        first[question.prompt()] = question
        return question

    questions, bad = _read(paths, parse, skip_bad=skip_bad)
    return Questions(tuple(first.values()), tuple(bad), repeated=len(questions) - len(first))


def _read(
    paths: Paths, parse: Callable[[dict[str, Any], str, str], T], *, skip_bad: bool
) -> tuple[list[T], list[str]]:
    """What `parse` makes of each row, its data set and place; and what is wrong with the bad."""
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not files:
        raise DataError("no data file was given")
    found: list[T] = []
    bad: list[str] = []
    for path in map(Path, files):
        for number, line in _lines(path):
            place = f"{path}, line {number}"
            try:
                found.append(parse(_read_line(line), _dataset_name(path), place))
            except RowError as error:
                bad.append(f"{place}: {error}")
    if bad and not skip_bad:
        raise DataError(_bad_rows(bad, len(bad) + len(found)))
    if not found:
        names = ", ".join(map(str, files))
        raise DataError(_bad_rows(bad, len(bad)) if bad else f"{names}: there are no rows")
    return found, bad


def write_items(items: Sequence[Item], path: str | os.PathLike[str]) -> None:
    """Write `items` as JSON Lines, gzip'd when the name ends in ``.gz``, for `read_items`.

    What a reader would derive (default grader, room for the answer, accepted answers) is left out.
    The file appears whole or not at all, and the same items make the same bytes.

    Raises
    ------
    DataError
        The file can't be written.
    """
    path = Path(path)
    text = "".join(json.dumps(_to_row(item), ensure_ascii=False) + "\n" for item in items)
    data = text.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold something, with their numbers from 1."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                content = (line.removeprefix(_BOM) if number == 1 else line).strip()
                if content:
                    yield number, content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the gzip stream is damaged after line {number} ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if is_gzip else path.open("rb")


def _read_line(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RowError([f"not UTF-8 (byte {error.start})"]) from None
    except json.JSONDecodeError as error:
        if line.startswith(b"["):
            hint = (
                "; this looks like a JSON array over several lines, one object a line is expected"
            )
        else:
            hint = ""
        raise RowError([f"not JSON: {error.msg} at column {error.colno}{hint}"]) from None
    except (ValueError, RecursionError) as error:
        raise RowError([f"not JSON: {error}"]) from None
    if not isinstance(row, dict):
        raise RowError([f"a JSON object is expected, not {json.dumps(row)[:60]}"])
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _dataset_name(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.removesuffix(".jsonl").removesuffix(".json") or name


def _claim_id(
    item: Item | Question, place: str, places: dict[tuple[str, str], str], *, given: bool
) -> None:
    first = places.setdefault((item.dataset, item.id), place)
    if first == place:
        return
    if given:
        problem = f"id: {item.id!r} is already used in the data set {item.dataset!r} ({first})"
    else:
        problem = f"question: the same is asked in {first}; give both an id if that is meant"
    raise RowError([problem])


def _bad_rows(bad: Sequence[str], n_rows: int) -> str:
    shown = list(bad[:_SHOWN])
    if len(bad) > _SHOWN:
        shown.append(f"... and {len(bad) - _SHOWN} more")
    count = "1 bad row" if len(bad) == 1 else f"{len(bad)} bad rows"
    return (
        f"{count} of {n_rows}:\n  "
        + "\n  ".join(shown)
        + "\nMend them, or leave bad rows out with --skip-bad (skip_bad=True)"
    )


def _to_row(item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": item.id,
        "dataset": item.dataset,
        "domain": item.domain,
        "split": item.split,
        "question": item.question,
        "context": item.context,
        "choices": None if item.choices is None else list(item.choices),
        "answer": item.answer,
        "answers": list(item.answers),
        "subject": item.subject,
        "family": item.family,
        "grader": item.grader,
        "max_tokens": item.max_tokens,
        "llm": dict(item.llm),
        "conf": dict(item.conf),
    }
    for name in ("context", "subject", "family", "llm", "conf"):
        if not row[name]:
            del row[name]
    return _without_derived(row, item)


def _without_derived(row: dict[str, Any], item: Item) -> dict[str, Any]:
    """Leave out what `parse_row` makes of the rest by itself."""
    derived = ("answers", "grader", "max_tokens")
    for names in (derived, *((name,) for name in derived)):  # mostly all of them can go at once
        shorter = {key: value for key, value in row.items() if key not in names}
        if parse_row(shorter, dataset=item.dataset) == item:
            row = shorter
    return row
