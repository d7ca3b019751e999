"""Is this answer correct?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.grading import grade
from calibration.items import GraderName, Item


def item(
    *answers: str,
    question: str = "What is the capital of France?",
    grader: GraderName = "text",
    choices: tuple[str, ...] | None = None,
) -> Item:
    return Item(
        id="1",
        dataset="d",
        domain="",
        question=question,
        answer=answers[0],
        answers=answers,
        grader=grader,
        choices=choices,
    )


class TestText:
    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            (["Paris"], "Paris"),
            (["Paris"], "paris."),
            (["Paris"], "**Paris**"),
            (["Paris"], "A: Paris"),
            (["Paris"], "Answer: Paris"),
            (["Paris"], "The capital of France is Paris."),
            (["Paris"], "The capital isn't Lyon; it's Paris."),
            (["Paris"], "Not Lyon, but Paris"),
            (["Paris"], "Not Lyon. Paris."),
            (["Paris"], "Many say Lyon. However, it is Paris."),
            (["Paris"], "The answer is Paris."),
            (["Paris"], "Is it Lyon? No, it is Paris."),
            (["Paris"], "What is the capital of France? Paris"),
            (["Paris"], "Paris is not only the capital, it is the largest city."),
            (["The Beatles"], "Beatles"),
            (["Beatles"], "It was the Beatles!"),
            (["The Dark Side of the Moon"], "It is Dark Side of the Moon."),
            (["Vitamin A"], "Vitamin A"),
            (["Vitamin A"], "I think vitamin A is meant."),
            (["Spider-Man"], "Spiderman"),
            (["Spider-Man"], "He is Spider Man."),
            (["Spiderman"], "spider-man"),
            (["Beyoncé"], "It was Beyonce."),
            (["naive"], "naïve"),
            (["C++"], "It is written in C++."),
            (["St. Louis"], "He was born in St. Louis, Missouri."),
            (["U.S.A."], "the USA"),
            (["Washington, D.C."], "It is Washington D.C. in the US."),
            (["Yahoo!"], "yahoo"),
            (["Simon & Garfunkel"], "by Simon and Garfunkel"),
            (["J. K. Rowling"], "JK Rowling"),
            (["J. K. Rowling"], "J.K. Rowling wrote it"),
            (["Rock 'n' Roll"], "rock n roll"),
            (["carbon dioxide", "CO2"], "The gas is CO2."),
            (["USSR", "Soviet Union"], "The USSR or Soviet Union"),
            (["USSR", "Soviet Union"], "The Soviet Union, or the USSR"),
            (["3:45"], "The train leaves at 3:45."),
            (["7 Up"], "It is 7 Up."),
            # too common to count wherever they stand
            (["Of"], "of"),
            (["Of"], "The answer is of"),
            (["Of"], 'The word is "of".'),
            (["May"], "It is celebrated in May."),
            (["n"], 'The last letter is "N".'),
            (["C"], "The answer is C"),
            # nothing but marks
            (["<"], "<"),
            (["<"], "`<`."),
            (["++"], "The answer is ++"),
        ],
    )
    def test_right(self, answers: list[str], text: str) -> None:
        assert grade(item(*answers), text)

    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            (["Paris"], ""),
            (["Paris"], "Lyon"),
            (["Paris"], "Parisian life"),
            (["Paris"], "It is not Paris."),
            (["Paris"], "Paris is not the capital."),
            (["Paris"], "I don't think it is Paris."),
            (["Paris"], "Neither Paris nor Lyon"),
            (["Paris"], "Paris or Lyon"),
            (["Paris"], "Lyon or Paris"),
            (["Paris"], "It is either Paris, or Lyon."),
            (["Paris"], "There are cities such as Paris and Lyon."),
            (["Paris"], "Is it Paris?"),
            (["Paris"], "The answer is Lyon, not Paris."),
            (["Paris"], "The answer is Lyon. Paris is larger, though."),
            (["Vitamin A"], "vitamin C"),
            (["Vitamin A"], "It is a vitamin."),
            (["3.5"], "35"),
            (["3:45"], "345"),
            (["C++"], "C"),
            (["C"], "C++"),
            (["New York"], "New Yorker"),
            (["Of"], "The word of the day is lady."),
            (["May"], "You may go."),
            (["I"], "I don't know"),
            (["n"], "a letter in n words"),
            (["<"], ">"),
            (["<"], "a < b"),
            (["Kafka"], "Kaf ka"),
        ],
    )
    def test_wrong(self, answers: list[str], text: str) -> None:
        assert not grade(item(*answers), text)

    @pytest.mark.parametrize(
        ("text", "right"),
        [
            ("elephant", True),
            ("An elephant is bigger than a mouse.", True),
            ("The bigger one is the elephant.", True),
            ("It's an elephant.", True),
            ("I would say so. An elephant, clearly.", True),
            ("A mouse is bigger than an elephant.", False),
            ("A mouse, not an elephant", False),
            ("An elephant or a mouse.", False),
        ],
    )
    def test_an_answer_that_the_question_offers_must_be_picked(
        self, text: str, right: bool
    ) -> None:
        offered = item("elephant", question="Which is bigger, an elephant or a mouse?")
        assert grade(offered, text) is right

    @pytest.mark.parametrize(
        ("text", "right"),
        [
            ("Tonga", True),
            ("It's Tonga.", True),
            ("The Friendly Islands", True),
            ("I know. The Friendly Islands. Nice place.", True),
            ("The Friendly Islands are a group of islands.", False),
            ("They are known as the Friendly Islands.", False),
            ("Its Friendly Islands are many.", True),  # "its" and "it's" look the same
            ("Who knows its Friendly Islands", False),
        ],
    )
    def test_an_alias_that_the_question_uses_is_an_echo(self, text: str, right: bool) -> None:
        echoed = item("Tonga", "Friendly Islands", question="Which are the Friendly Islands?")
        assert grade(echoed, text) is right

    def test_what_stands_before_the_question_is_not_offered(self) -> None:
        question = "Tom has a red ball. Jane has a blue ball. What colour is Jane's ball?"
        assert grade(item("blue", question=question), "Jane has a blue ball.")

    @pytest.mark.parametrize(
        ("answer", "text", "right"),
        [
            ("yes", "Yes", True),
            ("yes", "Yes, it is.", True),
            ("yes", "Yeah", True),
            ("yes", "The answer is yes.", True),
            ("yes", "I thought about it. Yes.", True),
            ("yes", "No", False),
            ("yes", "It is.", False),
            ("yes", "Yes or no", False),
            ("yes", "", False),
            ("no", "No, it isn't.", True),
            ("no", "Nope", True),
            ("no", "I thought so.\nNo", True),
            ("no", "There is no doubt that yes", False),
            ("no", "No. The answer is yes.", True),  # the first word decides
            ("true", "True", True),
            ("true", "The statement is true.", True),
            ("false", "This is not true.", True),
            ("false", "The answer is false, I think", True),
            ("true", "True or false", False),
            ("true", "One is true, one is false.", False),
            ("true", "yes", False),
        ],
    )
    def test_yes_and_no(self, answer: str, text: str, right: bool) -> None:
        assert grade(item(answer, question="Is it?"), text) is right

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ("New York", "The New York Times"),
            ("red", "The flag is red, white and blue."),
        ],
    )
    def test_known_limit_a_mention_inside_something_longer_counts(
        self, answer: str, text: str
    ) -> None:
        assert grade(item(answer), text)


class TestNumber:
    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            (["18"], "18"),
            (["18"], "She makes $18 every day."),
            (["18"], "9 * 2 = 18 dollars a day"),
            (["18"], "Step 1: 16 - 7 = 9\nStep 2: 9 * 2 = 18\n#### 18"),
            (["18"], r"so \boxed{18}"),
            (["1200"], "The answer is 1,200."),
            (["3/4"], "It is 0.75."),
            (["0.25"], "25%"),
            (["6", "six"], "There are six."),
            (["40", "42"], "42"),
        ],
    )
    def test_right(self, answers: list[str], text: str) -> None:
        assert grade(item(*answers, grader="number"), text)

    @pytest.mark.parametrize(
        ("answers", "text"),
        [
            (["18"], ""),
            (["18"], "eighty"),
            (["18"], "18 or 19"),
            (["18"], "not 18"),
            (["18"], "18 - 3 = 15"),
            (["18"], "The answer is 15. 18 was wrong."),
        ],
    )
    def test_wrong(self, answers: list[str], text: str) -> None:
        assert not grade(item(*answers, grader="number"), text)

    def test_an_accepted_answer_that_is_no_number_matches_nothing(self) -> None:
        assert not grade(item("many", grader="number"), "many")
        assert grade(item("many", "7", grader="number"), "7")


class TestChoice:
    def test_the_letter_or_the_text(self) -> None:
        question = item("B", grader="choice", choices=("Rome", "Paris"))
        assert grade(question, "B")
        assert grade(question, "Paris")
        assert not grade(question, "A")
        assert not grade(question, "Rome")
        assert not grade(question, "A. Paris")
        assert not grade(question, "")


@given(st.text(), st.text(min_size=1), st.sampled_from(["text", "number"]))
def test_any_text_is_graded(text: str, answer: str, grader: GraderName) -> None:
    assert grade(item(answer, grader=grader), text) in (True, False)


@given(st.sampled_from(["Paris", "The Hague", "C++", "Spider-Man", "St. Louis", "7 Up", "Of"]))
def test_an_answer_is_right_as_it_stands_and_when_stated(answer: str) -> None:
    assert grade(item(answer), answer)
    assert grade(item(answer), f"The answer is {answer}.")
