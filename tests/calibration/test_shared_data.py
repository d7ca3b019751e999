"""Real data sets in the schema that the readers promise, where they are at hand.

They are looked for in the folder that ROUTER_SHARED_DATA names, or else beside the repository.
Where there are none, the made-up rows below stand for them.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from calibration.datasets import Dataset, read_items, write_items
from calibration.datasets.sampling import spread
from calibration.grading import grade
from calibration.items import LETTERS

# Thousands of rows over lines that other tests cover: tracing them takes four times as long.
pytestmark = pytest.mark.no_cover

FOLDER = Path(os.environ.get("ROUTER_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SAMPLE = 30
"""Items of each file that are graded; all of them are read."""

FILES = sorted(FOLDER.glob("*.jsonl.gz"))

SCHEMA: list[dict[str, Any]] = [
    {
        "id": "sums-test-0",
        "dataset": "sums",
        "domain": "math",
        "split": "test",
        "question": "What is 600 + 634?",
        "choices": None,
        "answer": "1234",
        "llm": {"large": True, "small(4bit)": False},
    },
    {
        "id": "sums-test-1",
        "dataset": "sums",
        "domain": "knowledge",
        "split": "dev(half)",
        "question": "Which is a fish?",
        "choices": ["a trout", "an owl", "a trout fishery", "an owl"],
        "answer": "A",
        "subject": "biology",
        "llm": {"large": True},
        "conf": {"large": 0.99, "small": 0},
    },
    {
        "id": "sums-test-2",
        "dataset": "sums",
        "domain": "reading",
        "split": "dev",
        "question": "Who came?",
        "context": "Anna came late.",
        "choices": None,
        "answer": "Anna",
        "answers": ["Ann", "Anna"],
    },
]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in SCHEMA)
    return path


@pytest.fixture(params=["made up", *FILES], ids=lambda param: getattr(param, "name", param))
def path(request: pytest.FixtureRequest, made_up: Path) -> Path:
    return made_up if request.param == "made up" else Path(request.param)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@functools.cache
def read(path: Path) -> Dataset:
    return read_items(path)


def test_every_row_is_read_and_written_back_as_it_was(path: Path, tmp_path: Path) -> None:
    data = read(path)
    rows = rows_of(path)
    assert data.skipped == ()
    assert len(data.items) == len(rows)
    copy = tmp_path / path.name
    write_items(data.items, copy)
    assert rows_of(copy) == rows


def test_accepted_answers_are_right_and_other_options_wrong(path: Path) -> None:
    for item in spread(read(path).items)[:SAMPLE]:
        assert grade(item, item.answer), item.id
        if "." not in item.answer:
            assert grade(item, f"The answer is {item.answer}."), item.id
        assert not grade(item, ""), item.id
        assert not grade(item, "I don't know."), item.id
        if item.choices is None:
            assert all(grade(item, text) for text in item.answers[:5]), item.id
            continue
        for letter, option in zip(LETTERS, item.choices, strict=False):
            is_right = letter == item.answer
            assert grade(item, letter) is is_right, item.id
            assert grade(item, f"({letter}) {option}") is is_right, item.id
            assert grade(item, f"{letter}. {option}\n\nThat is why.") is is_right, item.id
            if item.choices.count(option) == 1:
                assert grade(item, option) is is_right, item.id
