"""Normalised words, and what counts as a mention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.phrases import (
    answer_statements,
    boxed,
    find_phrase,
    is_example,
    is_negated,
    normalise_text,
    quoted_phrases,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Paris", "paris"),
        ("  The   Beatles! ", "beatles"),
        ("An apple, a pear", "apple pear"),
        ("U.S.A.", "usa"),
        ("J. K. Rowling", "jk rowling"),
        ("J.K. Rowling", "jk rowling"),
        ("St. Louis", "st louis"),
        ("don't", "dont"),
        ("Rock 'n' Roll", "rock n roll"),
        ("Spider-Man", "spiderman"),
        ("Beyoncé", "beyonce"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("ﬁve", "five"),
        ("Simon & Garfunkel", "simon and garfunkel"),
        ("AT&T", "att"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("3:45", "3:45"),
        ("3/4", "3/4"),
        ("½", "1/2"),
        ("-3", "-3"),
        ("10-3", "103"),
        ("C++", "c++"),
        ("C#", "c#"),
        ("#1", "1"),
        ("vitamin A", "vitamin a"),
        ("a", "a"),
        ("The", "the"),
        ("", ""),
        ("!?", ""),
        ("snake_case", "snakecase"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


@given(st.text())
def test_normalising_twice_changes_nothing_but_articles(text: str) -> None:
    once = normalise_text(text)
    assert once == once.strip()
    assert "  " not in once


def test_hyphens_may_part_words() -> None:
    assert [word.text for word in words_of("Spider-Man and/or", split_hyphens=True)] == [
        "spider",
        "man",
        "and",
        "or",
    ]


def test_clauses_and_sentences() -> None:
    words = words_of("No, it is Dr. Who. Yes!\nSo: a (b) - c")
    assert [(word.text, word.clause, word.sentence) for word in words] == [
        ("no", 0, 0),
        ("it", 1, 0),
        ("is", 1, 0),
        ("dr", 1, 0),
        ("who", 1, 0),
        ("yes", 2, 1),
        ("so", 4, 3),
        ("a", 5, 3),
        ("b", 5, 3),
        ("c", 6, 3),
    ]


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("not Paris", True),
        ("it is not Paris", True),
        ("it isn't Paris", True),
        ("I don't think it is Paris", True),
        ("neither Paris nor Rome", True),
        ("anything except Paris", True),
        ("rather than Paris", True),
        ("Paris is not the capital", True),
        ("Paris isn't the capital", True),
        ("Paris cannot be right", True),
        ("Paris", False),
        ("not Rome, Paris", False),
        ("not Rome but Paris", False),
        ("No. Paris", False),
        ("Paris is not only the capital", False),
        ("not only Paris", False),
        ("Paris, which is not small", False),
        ("It is not easy to find but Paris", False),
        ("nothing is as nice as Paris", False),
    ],
)
def test_negation(text: str, negated: bool) -> None:
    words = words_of(text)
    [place] = find_phrase(words, words_of("Paris"))
    assert is_negated(words, place) is negated


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("cities such as Rome and Paris", True),
        ("cities, including Paris", True),
        ("for example, Paris", True),
        ("Paris, for instance", False),
        ("such as Rome. It is Paris", False),
        ("Paris is such a place", False),
    ],
)
def test_example(text: str, example: bool) -> None:
    words = words_of(text)
    [place] = find_phrase(words, words_of("Paris"))
    assert is_example(words, place) is example


def test_a_phrase_is_found_at_word_borders_only() -> None:
    words = words_of("New York, New Yorker, new york")
    assert [place.start for place in find_phrase(words, words_of("New York"))] == [0, 4]
    assert list(find_phrase(words, [])) == []


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('the word "of" here', ["of"]),
        ("the word “of” here", ["of"]),
        ("`a` or **b**", ["a", "b"]),
        ("'x'", ["x"]),
        ("no quotes", []),
    ],
)
def test_quoted(text: str, quoted: list[str]) -> None:
    assert quoted_phrases(text) == quoted


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("The answer is Paris.", ["Paris"]),
        ("Answer: Paris", ["Paris"]),
        ("The answer to your question is: Paris, of course. Bye.", ["Paris, of course"]),
        ("The answer is 3.5 km. Next", ["3.5 km"]),
        ("The answer is B. Paris\nBye", ["B. Paris"]),
        ("The answer is St. Louis. Bye", ["St. Louis"]),
        ("Answer:\n\nParis\nBye", ["Paris"]),
        ("The answer should be Paris! The answer was Rome?", ["Paris", "Rome"]),
        ("The answer is", []),
        ("There is no answer here", []),
        ("An option: Paris", []),
    ],
)
def test_statements(text: str, statements: list[str]) -> None:
    assert answer_statements(text) == statements


def test_statements_with_other_nouns() -> None:
    assert answer_statements("The best option is B.", ("answer", "option")) == ["B"]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{\frac{1}{2}} \fbox{x}", "x"),
        (r"\boxed {a{b}c}", "a{b}c"),
        (r"\boxed{1} and \boxed{2", "1"),
        ("boxed{7}", None),
        ("", None),
    ],
)
def test_boxed(text: str, inside: str | None) -> None:
    assert boxed(text) == inside
