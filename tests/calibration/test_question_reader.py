"""Questions without answers, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calibration.datasets import MAX_TOKENS, read_questions
from calibration.errors import DataError
from calibration.items import Question
from tests.calibration.jsonl import read_one, write


def ask_one(folder: Path, row: dict[str, Any]) -> Question:
    [question] = read_questions(write(folder / "own.jsonl", row)).questions
    return question


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class TestQuestions:
    @pytest.mark.parametrize(
        "row",
        [
            {"question": "Q?"},
            {"prompt": "Q?"},
            {"question": None, "prompt": "Q?"},
            {"question": "Q?", "prompt": "else", "messages": "else"},
            {"messages": [user("Q?")], "model": "auto", "temperature": 0.7},
            {"messages": [user([{"type": "text", "text": "Q?"}])]},
            {"question": "Q?", "answer": "not read", "answers": 5, "output": "nor this"},
            {"question": "Q?", "anwser": True},
        ],
    )
    def test_what_is_asked_is_enough(self, tmp_path: Path, row: dict[str, Any]) -> None:
        question = ask_one(tmp_path, row)
        assert (question.question, question.choices, question.dataset) == ("Q?", None, "own")
        assert question.max_tokens == MAX_TOKENS["number"]
        assert question.id == read_one(tmp_path, {"question": "Q?", "answer": "x"}).id

    def test_every_field(self, tmp_path: Path) -> None:
        row = {
            "id": 7,
            "dataset": "traffic",
            "domain": "shop",
            "split": "may",
            "subject": "returns",
            "family": "form",
            "question": "Q?",
            "choices": ["this", "that"],
            "context": "C.",
        }
        expected = Question(
            id="7",
            dataset="traffic",
            domain="shop",
            split="may",
            subject="returns",
            family="form",
            question="Q?",
            choices=("this", "that"),
            context="C.",
            max_tokens=MAX_TOKENS["choice"],
        )
        assert ask_one(tmp_path, row) == expected
        assert ask_one(tmp_path, row | {"max_tokens": 9}).max_tokens == 9

    def test_parts_of_a_text_are_lines(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two?"}]
        assert ask_one(tmp_path, {"messages": [user(parts)]}).question == "One.\nTwo?"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"answer": "x"}, "question: missing"),
            ({"prompt": ""}, "question: empty"),
            ({"prompt": ["Q?"]}, "question: text is expected"),
            ({"question": "Q?", "choices": ["one"]}, "choices: 2 to 26 options"),
            ({"question": "Q?", "options": ["x", "y"]}, "did you mean 'choices'"),
            ({"qestion": "Q?"}, "did you mean 'question'"),
            ({"messages": []}, "one user message is expected, not none"),
            ({"messages": "Q?"}, "a list of messages is expected"),
            ({"messages": ["Q?"]}, "a list of messages is expected"),
            (
                {"messages": [{"role": "system", "content": "Be brief."}, user("Q?")]},
                "one user message is expected, not system, user; system messages and earlier turns",
            ),
            ({"messages": [user("Q?"), {"role": "assistant", "content": "x"}]}, "user, assistant"),
            ({"messages": [user(None)]}, "messages: only text"),
            ({"messages": [user(["Q?"])]}, "messages: only text"),
            ({"messages": [user([{"type": "image_url", "image_url": {}}])]}, "messages: only text"),
            ({"messages": [user("")]}, "question: empty"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path: Path, row: object, message: str) -> None:
        path = write(tmp_path / "own.jsonl", {"question": "Fine?"}, row)
        with pytest.raises(DataError, match=message) as caught:
            read_questions(path)
        assert str(caught.value).startswith(f"1 bad row of 2:\n  {path}, line 2: ")
        read = read_questions(path, skip_bad=True)
        assert [question.question for question in read.questions] == ["Fine?"]
        assert len(read.skipped) == 1

    def test_the_same_question_counts_once(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one.jsonl", {"id": "a", "question": "Q?"}, {"prompt": "Q?"})
        two = write(
            tmp_path / "two.jsonl",
            {"id": "b", "messages": [user("Q?")]},
            {"question": "Q?", "context": "C."},
            {"question": "Q?", "choices": ["x", "y"]},
        )
        read = read_questions([one, two])
        assert read.repeated == 2
        assert [(q.dataset, q.context, q.choices) for q in read.questions] == [
            ("one", None, None),
            ("two", "C.", None),
            ("two", None, ("x", "y")),
        ]
        assert read.questions[0].id == "a"

    def test_an_id_stands_for_one_question(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "own.jsonl", {"id": "a", "question": "Q?"}, {"id": "a", "question": "R?"}
        )
        with pytest.raises(DataError, match="line 2: id: 'a' is already used"):
            read_questions(path)

    def test_no_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there are no rows"):
            read_questions(write(tmp_path / "own.jsonl"))
