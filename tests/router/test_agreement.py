"""Agreement of two answers: what is compared, how, and what is left out."""

from __future__ import annotations

import pytest

from router.agreement import agrees

CAPITAL = "What is the capital of Peru?"
OPTIONS = "Which one is in Italy?\nA. Lima\nB. Rome\nC. Oslo\nAnswer with a letter."
EGGS = "Ann has 3 boxes of 5 eggs and sells 3. How many eggs are left?"
WORKED = "Ann has 3 * 5 = 15 eggs.\nShe sells 3 of them, which leaves 12.\nAnn has 12 eggs left."
LARGER = "Which is larger, a mouse or an elephant?"
LONG = "The city lies on the coast. It was founded in 1535 and has ten million inhabitants."


@pytest.mark.parametrize(
    ("local", "remote", "question", "expected"),
    [
        # options of the question
        ("B. Rome", "The answer is B.", OPTIONS, True),
        (
            "Rome",
            "**B**, since Rome is the capital of Italy and the others are not.",
            OPTIONS,
            True,
        ),
        ("C", "B", OPTIONS, False),
        ("I like all of them", "B", OPTIONS, False),
        ("B", "None of these is quite right.", OPTIONS, None),
        # letters without options
        ("The answer is (c)", "C", "", True),
        ("A", "B.", "", False),
        ("Rome", "B) Rome", "", True),
        ("Lima", "B) Rome", "", False),
        # numbers
        ("12 apples", "12", "", True),
        ("$12.50", "The answer is $12.5.", "", True),
        ("0.33", r"So it is \boxed{\frac{1}{3}}.", "", True),
        ("So 15 - 3 = 12", WORKED, EGGS, True),
        ("15", WORKED, EGGS, False),
        ("twelve", "#### 12", "", True),
        ("25", "The discount is 25%.", "How much is the discount?", True),
        ("2", "1 + 1 equals 2.", "What is 1 + 1?", True),
        ("1944", "World War II ended in 1945.", "When did World War II end?", False),
        ("in 1945", "World War II ended in 1945.", "When did World War II end?", True),
        ("3 July 1776", "4 July 1776", "", False),
        ("7 Up", "7 Up", "", True),
        ("7", "7 Up", "", False),
        ("I do not know", "12", "", False),
        # yes and no
        ("Yes, it is.", "Yes.", "Is it warm?", True),
        ("No, the water is cold.", "Yes, since the sun shines.", "Is it warm?", False),
        ("false", "False", "", True),
        ("Nobody", "No one", "Who came?", False),
        # short texts
        ("lima", "Lima", "", True),
        ("It is Lima, I think.", "The capital of Peru is Lima.", CAPITAL, True),
        ("Cusco", "The capital of Peru is Lima.", CAPITAL, False),
        ("Lima or Cusco", "Lima", CAPITAL, False),
        ("", "Lima", CAPITAL, False),
        ("Shakespeare", "It was written by William Shakespeare.", "Who wrote Hamlet?", True),
        ("Marlowe", "William Shakespeare wrote Hamlet.", "Who wrote Hamlet?", False),
        ("York", "New York", "Which city?", False),
        ("An elephant", "An elephant.", LARGER, True),
        ("A mouse", "The elephant", LARGER, False),
        # what can't be compared, however equal
        ("Lima", "", CAPITAL, None),
        ("Lima", "   ", CAPITAL, None),
        ("Lima", "I'm sorry, I can't help with that.", CAPITAL, None),
        ("Lima", "It depends.", CAPITAL, None),
        ("Lima", "Lima or Cusco", CAPITAL, None),
        ("Lima", "Not Lima", CAPITAL, None),
        ("An elephant", "An elephant is larger.", LARGER, None),
        (LONG, LONG, "Describe Lima.", None),
        ("Lima", "The capital of Peru is Lima.", "", None),
    ],
)
def test_agrees(local: str, remote: str, question: str, expected: bool | None) -> None:
    assert agrees(local, remote, question) is expected


@pytest.mark.parametrize("remote", ["B", "Lima", "12", "Yes", LONG, "I don't know", "1 or 2", "!?"])
def test_whether_it_can_be_told_does_not_depend_on_the_local_answer(remote: str) -> None:
    locals_ = ["", "B", "Lima", "12", "No", LONG, remote]
    for question in ("", CAPITAL, OPTIONS, EGGS):
        assert len({agrees(local, remote, question) is None for local in locals_}) == 1


def test_texts_without_end_are_cut() -> None:
    counting = "1, 2, 3, " * 5000
    assert agrees("12", f"{counting} The answer is 12.") is None
    assert agrees(f"{counting}\nThe answer is 12.", "12") is True
    assert agrees(f"12\n{counting}", "12") is False
