"""Labelled questions from files, and back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.datasets import (
    MAX_TOKENS,
    builtin,
    read_items,
    with_answer,
    write_items,
)
from calibration.datasets.sampling import spread
from calibration.errors import DataError
from calibration.items import Item, Question
from tests.calibration.jsonl import read_one, write


def refusal(folder: Path, *rows: object) -> str:
    with pytest.raises(DataError) as caught:
        read_items(write(folder / "own.jsonl", *rows))
    return str(caught.value)


CHOICE = {"question": "Q?", "choices": ["this", "that"], "answer": "B"}


class TestMinimalRows:
    def test_question_and_answer_are_enough(self, tmp_path: Path) -> None:
        item = read_one(tmp_path, {"question": "Capital of France?", "answer": "Paris"})
        assert item.question == "Capital of France?"
        assert item.answers == ("Paris",)
        assert item.grader == "text"
        assert item.dataset == "own"
        assert item.max_tokens == MAX_TOKENS["text"]
        assert (item.domain, item.split, item.subject) == ("", "", "")
        assert item.context is None
        assert item.family is None
        assert item.llm == {}
        assert item.conf == {}

    def test_the_id_is_made_from_what_is_asked(self, tmp_path: Path) -> None:
        one = read_one(tmp_path, {"question": "Q?", "answer": "x"})
        same = read_one(tmp_path, {"question": "Q?", "answer": "y"})
        other = read_one(tmp_path, {"question": "R?", "answer": "x"})
        assert one.id == same.id != other.id

    @pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz", "own.json", "own"])
    def test_the_data_set_is_the_file(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path / name, {"question": "Q?", "answer": "x"})
        assert read_items(path).items[0].dataset == "own"

    @pytest.mark.parametrize(
        ("row", "grader"),
        [
            ({"answer": "18"}, "number"),
            ({"answer": 18}, "number"),
            ({"answer": 0.5}, "number"),
            ({"answer": "$1,200"}, "number"),
            ({"answer": "six"}, "number"),
            ({"answer": "6", "answers": ["six", "6.0"]}, "number"),
            ({"answer": "6", "answers": ["half a dozen"]}, "text"),
            ({"answer": "7 Up"}, "text"),
            ({"answer": "18", "grader": "text"}, "text"),
            ({"answer": "B", "choices": ["1", "2"]}, "choice"),
        ],
    )
    def test_the_grader_follows_from_the_answer(
        self, tmp_path: Path, row: dict[str, Any], grader: str
    ) -> None:
        item = read_one(tmp_path, {"question": "Q?", **row})
        assert item.grader == grader
        assert item.max_tokens == MAX_TOKENS[item.grader]

    @pytest.mark.parametrize(
        ("answer", "letter"), [("B", "B"), ("b", "B"), (" B ", "B"), ("that", "B"), ("this", "A")]
    )
    def test_an_option_by_letter_or_text(self, tmp_path: Path, answer: str, letter: str) -> None:
        item = read_one(tmp_path, {**CHOICE, "answer": answer})
        assert item.answer == letter
        assert item.choices == ("this", "that")

    def test_a_letter_wins_over_an_option_that_looks_like_one(self, tmp_path: Path) -> None:
        assert read_one(tmp_path, {**CHOICE, "choices": ["B", "A"], "answer": "A"}).answer == "A"

    def test_answers_alone(self, tmp_path: Path) -> None:
        item = read_one(tmp_path, {"question": "Q?", "answers": ["x", "y"]})
        assert item.answer == "x"
        assert item.answers == ("x", "y")

    def test_a_repeated_wrong_option_does_no_harm(self, tmp_path: Path) -> None:
        item = read_one(tmp_path, {**CHOICE, "choices": ["x", "y", "x"]})
        assert item.choices == ("x", "y", "x")

    def test_other_keys_and_nulls_are_ignored(self, tmp_path: Path) -> None:
        row = {"question": "Q?", "answer": "x", "source": "me", "choices": None, "llm": None}
        assert read_one(tmp_path, {**row, "options": None}).choices is None

    def test_every_field(self, tmp_path: Path) -> None:
        item = read_one(
            tmp_path,
            {
                "id": 7,
                "dataset": "trivia",
                "domain": "knowledge",
                "split": "dev",
                "subject": "geography",
                "family": "capitals",
                "question": "Q?",
                "context": "C.",
                "answer": "x",
                "answers": ["y"],
                "grader": "text",
                "max_tokens": 9,
                "llm": {"big": True},
                "conf": {"big": 1, "small": 0.5},
            },
        )
        assert item == Item(
            id="7",
            dataset="trivia",
            domain="knowledge",
            split="dev",
            subject="geography",
            family="capitals",
            question="Q?",
            context="C.",
            answer="x",
            answers=("x", "y"),
            grader="text",
            max_tokens=9,
            llm={"big": True},
            conf={"big": 1, "small": 0.5},
        )


class TestBadRows:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("{", "not JSON: Expecting property name"),
            ("not json", "not JSON: Expecting value at column 1"),
            ('{"question": "Q?", "answer": NaN}', "NaN is not a JSON value"),
            ("[" * 100_000, "not JSON"),
            ("[", "JSON array over several lines"),
            ([1, 2], r"a JSON object is expected, not \[1, 2\]"),
            ("7", "a JSON object is expected, not 7"),
            ({"answer": "x"}, "question: missing"),
            ({"question": None, "answer": "x"}, "question: missing"),
            ({"question": " ", "answer": "x"}, "question: empty"),
            ({"question": 5, "answer": "x"}, "question: text is expected, not 5"),
            ({"question": "Q?"}, "answer: missing"),
            ({"question": "Q?", "answer": ""}, "answer: empty"),
            ({"question": "Q?", "answer": True}, "answer: text or a number is expected, not true"),
            ({"question": "Q?", "answer": ["x"]}, "a list belongs in 'answers'"),
            ({"question": "Q?", "answer": {}}, "answer: text or a number is expected, not {}"),
            ({"question": "Q?", "answers": []}, "answers: a list of texts"),
            ({"question": "Q?", "answer": "x", "answers": "y"}, "answers: a list of texts"),
            ({"question": "Q?", "answer": "x", "answers": ["y", ""]}, "answers: a list of texts"),
            ({"question": "Q?", "answer": "x", "answers": [None]}, "answers: a list of texts"),
            ({**CHOICE, "answer": "C"}, "answer: 'C' is neither a letter from A to B nor"),
            ({**CHOICE, "answer": "other"}, "answer: 'other' is neither a letter"),
            ({**CHOICE, "answer": 1}, "answer: '1' is neither a letter"),
            ({**CHOICE, "choices": ["this"]}, "choices: 2 to 26 options are expected, not 1"),
            ({**CHOICE, "choices": ["x"] * 27}, "choices: 2 to 26 options are expected, not 27"),
            ({**CHOICE, "choices": "this or that"}, "choices: a list of texts is expected"),
            ({**CHOICE, "choices": [1, 2]}, "choices: a list of texts is expected"),
            ({**CHOICE, "choices": ["this", ""]}, "choices: option B is empty"),
            ({**CHOICE, "choices": ["x", "x "]}, "choices: all options are the same"),
            ({**CHOICE, "choices": ["x", "y", "y"]}, "the right option 'y' occurs more than once"),
            ({**CHOICE, "grader": "text"}, "'choice' and a list of choices go together"),
            ({"question": "Q?", "answer": "A", "grader": "choice"}, "'choice' and a list of"),
            ({"question": "Q?", "answer": "x", "grader": "number"}, "the answer 'x' is not a numb"),
            ({"question": "Q?", "answer": "x", "grader": "regex"}, "grader: one of choice, number"),
            ({"question": "Q?", "answer": "x", "grader": ["text"]}, "grader: one of choice"),
            ({"question": "Q?", "answer": "x", "max_tokens": 0}, "max_tokens: a whole number"),
            ({"question": "Q?", "answer": "x", "max_tokens": True}, "max_tokens: a whole number"),
            ({"question": "Q?", "answer": "x", "max_tokens": "9"}, "max_tokens: a whole number"),
            ({"question": "Q?", "answer": "x", "llm": {"m": 1}}, r"llm\['m'\]: true or false is"),
            ({"question": "Q?", "answer": "x", "llm": [True]}, "llm: an object of model names"),
            ({"question": "Q?", "answer": "x", "conf": {"m": 1.1}}, r"conf\['m'\]: a number from"),
            ({"question": "Q?", "answer": "x", "conf": {"m": True}}, r"conf\['m'\]: a number from"),
            ({"question": "Q?", "answer": "x", "domain": 3}, "domain: text is expected, not 3"),
            ({"question": "Q?", "answer": "x", "context": ["C"]}, "context: text is expected"),
            ({"question": "Q?", "answer": "x", "id": 1.5}, "id: text is expected, not 1.5"),
            ({"question": "Q?", "anwser": "x"}, "anwser: unknown key; did you mean 'answer'"),
            ({"Question": "Q?", "answer": "x"}, "Question: unknown key; did you mean 'question'"),
            ({"prompt": "Q?", "answer": "x"}, "prompt: unknown key; did you mean 'question'"),
            ({"question": "Q?", "options": ["x"], "answer": "A"}, "did you mean 'choices'"),
            ({"question": "Q?", "answer": "x", "aliases": ["y"]}, "did you mean 'answers'"),
            ({"question": "Q?", "answer": "x", "passage": "C."}, "did you mean 'context'"),
            ({"question": "Q?", "answer": "x", "max_token": 5}, "did you mean 'max_tokens'"),
        ],
    )
    def test_named_by_file_line_and_field(self, tmp_path: Path, row: object, message: str) -> None:
        good = {"question": "Fine?", "answer": "yes"}
        path = write(tmp_path / "own.jsonl", good, row)
        with pytest.raises(DataError, match=message) as caught:
            read_items(path)
        assert str(caught.value).startswith(f"1 bad row of 2:\n  {path}, line 2: ")
        assert "--skip-bad" in str(caught.value)

    def test_all_that_is_wrong_is_said_at_once(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, {"question": "", "answer": True}, "", {"question": "Q?"})
        assert "2 bad rows of 2" in message
        assert "line 1: question: empty; answer: text or a number" in message
        assert "line 3: answer: missing" in message  # the empty line counts, but is no row

    def test_a_long_list_is_cut(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, *["x"] * 25)
        assert message.count("not JSON") == 20
        assert "... and 5 more" in message

    def test_keys_that_only_resemble_ours_are_fine(self, tmp_path: Path) -> None:
        row = {"question": "Q?", "prompt": "something else", "answer": "x", "answered": 5}
        assert read_one(tmp_path, row).question == "Q?"

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "own.jsonl"
        path.write_bytes(b'{"question": "\xff"}\n')
        with pytest.raises(DataError, match=r"line 1: not UTF-8 \(byte 14\)"):
            read_items(path)

    def test_an_id_twice(self, tmp_path: Path) -> None:
        row = {"id": "q1", "question": "Q?", "answer": "x"}
        message = refusal(tmp_path, row, {**row, "question": "R?"})
        assert "line 2: id: 'q1' is already used in the data set 'own'" in message
        assert message.count("own.jsonl, line 1") == 1

    def test_an_id_twice_in_two_files(self, tmp_path: Path) -> None:
        row = {"id": "q1", "dataset": "d", "question": "Q?", "answer": "x"}
        one, two = write(tmp_path / "one.jsonl", row), write(tmp_path / "two.jsonl", row)
        with pytest.raises(DataError, match=r"two.jsonl, line 1: id.*one.jsonl, line 1"):
            read_items([one, two])
        apart = write(tmp_path / "two.jsonl", {**row, "dataset": "e"})
        assert len(read_items([one, apart]).items) == 2

    def test_a_question_twice(self, tmp_path: Path) -> None:
        row = {"question": "Q?", "answer": "x"}
        assert "line 2: question: the same is asked in" in refusal(tmp_path, row, row)

    def test_bad_rows_can_be_skipped(self, tmp_path: Path) -> None:
        path = write(tmp_path / "own.jsonl", "{", {"question": "Q?", "answer": "x"}, [])
        data = read_items(path, skip_bad=True)
        assert [item.question for item in data.items] == ["Q?"]
        assert len(data.skipped) == 2
        assert data.skipped[0].startswith(f"{path}, line 1: not JSON")
        assert data.skipped[1].startswith(f"{path}, line 3: a JSON object")

    def test_but_not_all_of_them(self, tmp_path: Path) -> None:
        path = write(tmp_path / "own.jsonl", "{")
        with pytest.raises(DataError, match="1 bad row of 1"):
            read_items(path, skip_bad=True)


class TestFiles:
    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_nothing_in_it(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "own.jsonl"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.jsonl: there are no rows"):
            read_items(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"can't read .*gone\.jsonl: No such file"):
            read_items(tmp_path / "gone.jsonl")
        with pytest.raises(DataError, match="can't read"):
            read_items(tmp_path)
        with pytest.raises(DataError, match="no data file was given"):
            read_items([])

    def test_windows_line_ends_a_byte_order_mark_and_no_last_newline(self, tmp_path: Path) -> None:
        path = tmp_path / "own.jsonl"
        path.write_bytes(
            b'\xef\xbb\xbf{"question": "Q?", "answer": "x"}\r\n'
            b'\r\n{"question": "\xc3\x89?", "answer": "y"}'
        )
        assert [item.question for item in read_items(path).items] == ["Q?", "É?"]

    def test_gzip_is_told_by_content_not_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "own.jsonl"
        path.write_bytes(gzip.compress(b'{"question": "Q?", "answer": "x"}\n'))
        assert len(read_items(str(path)).items) == 1
        plain = write(tmp_path / "plain.jsonl.gz", {"question": "Q?", "answer": "x"})
        assert len(read_items(plain).items) == 1

    @pytest.mark.parametrize("cut", [-1, -9, 12])
    def test_a_cut_gzip_stream(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "own.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"question": "Q?", "answer": "x"}\n' * 9)[:cut])
        with pytest.raises(DataError, match="the gzip stream is damaged after line"):
            read_items(path, skip_bad=True)

    def test_a_changed_gzip_stream(self, tmp_path: Path) -> None:
        path = tmp_path / "own.jsonl.gz"
        data = bytearray(gzip.compress(b'{"question": "Q?", "answer": "x"}\n'))
        data[-6] ^= 1  # in the checksum
        path.write_bytes(data)
        with pytest.raises(DataError, match="the gzip stream is damaged"):
            read_items(path)

    def test_several_files_keep_their_order(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one.jsonl", {"question": "1?", "answer": "x"})
        two = write(tmp_path / "two.jsonl", {"question": "2?", "answer": "x"})
        data = read_items([two, one])
        assert [(item.dataset, item.question) for item in data.items] == [
            ("two", "2?"),
            ("one", "1?"),
        ]


class TestWithAnswer:
    @pytest.mark.parametrize(
        ("answer", "grader"), [("Lima", "text"), ("15", "number"), ("a\n\nlong one", "text")]
    )
    def test_the_rest_stays(self, answer: str, grader: str) -> None:
        question = Question("1", "d", "Q?", context="C.", max_tokens=77, family="f", subject="s")
        item = with_answer(question, answer)
        assert (item.answer, item.grader) == (answer, grader)
        assert item.prompt() == question.prompt()
        for name in ("id", "dataset", "domain", "split", "family", "subject", "max_tokens"):
            assert getattr(item, name) == getattr(question, name)

    @pytest.mark.parametrize("answer", ["B", "b", "that"])
    def test_an_option_by_letter_or_text(self, answer: str) -> None:
        item = with_answer(Question("1", "d", "Q?", choices=("this", "that")), answer)
        assert (item.answer, item.answers, item.grader) == ("B", ("B", "that"), "choice")

    @pytest.mark.parametrize(
        ("answer", "choices", "message"),
        [
            (" ", None, "question '1': answer: empty"),
            ("C", ("x", "y"), "question '1': answer: 'C' is neither a letter"),
            ("A", ("x", "y", "x"), "occurs more than once"),
        ],
    )
    def test_what_is_no_answer(
        self, answer: str, choices: tuple[str, ...] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            with_answer(Question("1", "d", "Q?", choices=choices), answer)


words = st.text(min_size=1).filter(lambda text: text.strip() == text)
shares = st.floats(0, 1, allow_nan=False)


@st.composite
def any_item(draw: st.DrawFn) -> Item:
    choices = draw(st.none() | st.lists(words, min_size=2, max_size=5, unique=True))
    return Item(
        id=draw(words),
        dataset=draw(words),
        domain=draw(st.text()),
        split=draw(st.text()),
        subject=draw(st.text()),
        question=draw(words),
        context=draw(st.none() | words),
        choices=None if choices is None else tuple(choices),
        answer=draw(words) if choices is None else draw(st.sampled_from("ABCDE"[: len(choices)])),
        answers=() if choices is not None else tuple(draw(st.lists(words, max_size=3))),
        grader="text" if choices is None else "choice",
        family=draw(st.none() | words),
        max_tokens=draw(st.integers(1, 4096)),
        llm=draw(st.dictionaries(words, st.booleans(), max_size=2)),
        conf=draw(st.dictionaries(words, shares, max_size=2)),
    )


class TestWriting:
    @given(
        items=st.lists(any_item(), min_size=1, max_size=3, unique_by=lambda i: (i.dataset, i.id))
    )
    def test_what_is_written_is_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, items: list[Item]
    ) -> None:
        path = tmp_path_factory.mktemp("written") / "items.jsonl"
        write_items(items, path)
        assert read_items(path).items == tuple(items)

    @pytest.mark.parametrize("name", ["hold-out.jsonl", "hold-out.jsonl.gz"])
    def test_the_hold_out_survives(self, tmp_path: Path, name: str) -> None:
        items = tuple(spread(builtin.generate(0))[:500])
        write_items(items, tmp_path / name)
        assert read_items(tmp_path / name).items == items

    def test_only_what_a_reader_would_not_derive(self, tmp_path: Path) -> None:
        rows = [
            {"id": "1", "dataset": "d", "domain": "", "split": "", "question": "é?"}
            | {"choices": None, "answer": "18"},
            {"id": "2", "dataset": "d", "domain": "", "split": "", "question": "Q?"}
            | {"choices": ["a", "b"], "answer": "B", "max_tokens": 3},
        ]
        write_items(read_items(write(tmp_path / "in.jsonl", *rows)).items, tmp_path / "out.jsonl")
        text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == rows
        assert "é" in text

    def test_the_same_items_make_the_same_bytes(self, tmp_path: Path) -> None:
        items = builtin.generate(0)[:5]
        for name in ("one.gz", "two.gz"):
            write_items(items, tmp_path / name)
        assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gz", "two.gz"]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"can't write .*items\.jsonl: No such file"):
            write_items([], tmp_path / "gone" / "items.jsonl")
