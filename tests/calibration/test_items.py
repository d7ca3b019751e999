"""One labelled question."""

from __future__ import annotations

import pytest

from calibration.items import GraderName, Item, Question


def item(
    answer: str = "x",
    *,
    answers: tuple[str, ...] = (),
    grader: GraderName = "text",
    choices: tuple[str, ...] | None = None,
    context: str | None = None,
) -> Item:
    return Item(
        id="1",
        dataset="d",
        domain="",
        question="Why?",
        answer=answer,
        answers=answers,
        grader=grader,
        choices=choices,
        context=context,
    )


def test_prompt_of_a_plain_question() -> None:
    assert item().prompt() == "Why?"


def test_prompt_with_everything() -> None:
    asked = item("B", grader="choice", choices=("this", "that"), context="Once.")
    assert asked.prompt() == (
        "Once.\n\nWhy?\n\nA. this\nB. that\n\nAnswer with the letter of the right option."
    )


def test_accepted_answers_are_completed() -> None:
    assert item("x").answers == ("x",)
    assert item("x", answers=("y",)).answers == ("x", "y")
    assert item("x", answers=("y", "x")).answers == ("y", "x")
    assert item("B", grader="choice", choices=("this", "that")).answers == ("B", "that")


@pytest.mark.parametrize(
    ("answer", "grader", "choices"),
    [
        ("A", "text", ("this", "that")),
        ("A", "choice", None),
        ("C", "choice", ("this", "that")),
        ("", "choice", ("this", "that")),
        ("AB", "choice", ("this", "that")),
        ("this", "choice", ("this", "that")),
    ],
)
def test_what_contradicts_itself_is_refused(
    answer: str, grader: GraderName, choices: tuple[str, ...] | None
) -> None:
    with pytest.raises(ValueError, match="item '1'"):
        item(answer, grader=grader, choices=choices)


def test_items_can_be_hashed_and_compared() -> None:
    assert len({item(), item(), item("y")}) == 2


def test_a_question_is_asked_as_its_item_is() -> None:
    asked = item("B", grader="choice", choices=("this", "that"), context="Once.")
    same = Question("1", "d", "Why?", choices=("this", "that"), context="Once.")
    assert same.prompt() == asked.prompt()
    assert Question("1", "d", "Why?").prompt() == "Why?"
