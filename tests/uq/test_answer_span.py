from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uq.traces import make_trace, traces
from uq import AnswerSpanMean, AnswerSpanMin, Perplexity, Trace, find_answer_span


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # a marker, and what follows it
        ("The answer is 42.", "42"),
        ("The answer is: **42**. Hope that helps!", "42"),
        ("the final answer is 3.5 kg", "3.5 kg"),
        ("THE ANSWER IS yes", "yes"),
        ("The answer to this question is: Paris. It lies on the Seine.", "Paris"),
        ("The answer is J.R.R. Tolkien. He wrote it.", "J.R.R. Tolkien"),
        ("The answer is option B. This is because it fits.", "option B"),
        ("**Answer:** B. Paris", "B"),
        ("**Answer**: Paris", "Paris"),
        ("Answer: (C).", "C"),
        ('Answer: "yes"', "yes"),
        ("Answer: $1,234.50", "1,234.50"),
        ("Some work.\nAnswer:\n42\nand more", "42"),
        ("The answer is f(x).", "f(x)"),
        ("The answer is {3}", "{3}"),
        ("The answer is Paris\nbecause it is the capital", "Paris"),
        ("2 + 2 = 4\n#### 4", "4"),
        ("so\n#### -1,200", "-1,200"),
        # braces
        (r"It is \boxed{42}, so there.", "42"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"The answer is \boxed{ 7 }.", "7"),
        (r"cut off: \boxed{12", "12"),
        # the last one counts, unless nothing follows it
        ("The answer is 3. No: the answer is 4.", "4"),
        (r"\boxed{7} at first. The final answer is 8", "8"),
        (r"The answer is 8, or \boxed{9}", "9"),
        ("The answer is 5. That is the answer:", "5"),
        (r"The answer is 5. \boxed{}", "5"),
        # no marker: the last number of a worked computation
        ("So 12 * 3 = 36 apples.", "36"),
        ("5 + 6 = 11. So she has 11 apples left.", "11"),
        ("10 - 5 = 5\nThat leaves $5.", "$5"),
        ("1/2 + 1/4 = 3/4", "3/4"),
        ("x = -5", "-5"),
        ("sales = 1,000,000 dollars", "1,000,000"),
        ("6 / 12 = 50%", "50%"),
        ("10-5=5", "5"),
        # neither: everything
        ("Paris", "Paris"),
        ("  Paris \n", "Paris"),
        ("She walked 3 miles in 2 hours", "She walked 3 miles in 2 hours"),
        ("a = 5\nb = 6\nand that is all", "a = 5\nb = 6\nand that is all"),
        ("I wonder what the answer is.", "I wonder what the answer is."),
        ("The answer isn't clear", "The answer isn't clear"),
        ("answers: 12", "answers: 12"),
        ("#### Step 2: add", "#### Step 2: add"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_where_an_answer_is_stated(text: str, answer: str) -> None:
    assert text[find_answer_span(text)] == answer


@pytest.mark.parametrize(
    ("text", "whole", "cut_short"),
    [
        ("She spent 4 * 3 = 12 on chairs and 5", "5", "She spent 4 * 3 = 12 on chairs and 5"),
        ("The answer is 7. Check: 3 + 4 =", "7", "7"),
        ("2 + 2 = 4", "4", "2 + 2 = 4"),
    ],
)
def test_a_cut_text_states_its_answer_only_by_a_marker(
    text: str, whole: str, cut_short: str
) -> None:
    assert text[find_answer_span(text)] == whole
    assert text[find_answer_span(text, cut=True)] == cut_short


def test_the_finish_reason_says_whether_a_text_was_cut() -> None:
    pieces = ["2", " +", " 3", " =", " 5"]
    logprobs = [-1.0, -1.0, -1.0, -1.0, -0.5]
    assert AnswerSpanMean().score(make_trace(logprobs, pieces=pieces)) == pytest.approx(0.5)
    cut = make_trace(logprobs, pieces=pieces, finish_reason="length")
    assert AnswerSpanMean().score(cut) == pytest.approx(0.9)


MARKED = st.lists(
    st.sampled_from(
        [
            "answer",
            " is",
            ":",
            r"\boxed{",
            "}",
            "####",
            " 4",
            "2",
            "=",
            "\n",
            " ",
            ".",
            "(",
            ")",
            "x",
        ]
    ),
    max_size=30,
).map("".join)


@given(st.one_of(st.text(max_size=60), MARKED), st.booleans())
def test_a_span_is_inside_the_text_and_blank_only_for_blank_text(text: str, cut: bool) -> None:
    span = find_answer_span(text, cut=cut)
    assert 0 <= span.start <= span.stop <= len(text)
    assert bool(text[span].strip()) == bool(text.strip())


def test_only_the_tokens_of_the_span_count() -> None:
    pieces = ["The", " answer", " is", " 4", "2", "."]
    trace = make_trace([-2.0, -3.0, -4.0, -0.5, -0.1, -5.0], pieces=pieces)
    assert AnswerSpanMean().score(trace) == pytest.approx(0.3)
    assert AnswerSpanMin().score(trace) == pytest.approx(0.5)


def test_a_token_that_reaches_into_the_span_counts_whole() -> None:
    trace = make_trace([-2.0, -0.5, -3.0], pieces=["Answer:", " 42.", " Bye"])
    assert AnswerSpanMean().score(trace) == pytest.approx(0.5)
    trace = make_trace([-2.0, -0.5], pieces=["Answer: 4", "2"])
    assert AnswerSpanMean().score(trace) == pytest.approx(1.25)


def test_tokens_that_share_a_character_all_count() -> None:
    # One emoji of three byte tokens, then a full stop.
    trace = make_trace(
        [-2.0, -0.1, -0.2, -0.6, -9.0],
        text="Answer:🦊.",
        offsets=[0, 7, 7, 7, 8],
    )
    assert AnswerSpanMean().score(trace) == pytest.approx(0.3)
    assert AnswerSpanMin().score(trace) == pytest.approx(0.6)


def test_without_a_marker_the_whole_answer_counts() -> None:
    trace = make_trace([-0.2, -0.6], pieces=["Par", "is"])
    assert AnswerSpanMean().score(trace) == pytest.approx(Perplexity().score(trace))


@given(traces())
def test_mean_is_at_most_min_and_both_are_of_the_answer(trace: Trace) -> None:
    mean, least = AnswerSpanMean().score(trace), AnswerSpanMin().score(trace)
    if not trace.text.strip():
        assert math.isnan(mean)
        assert math.isnan(least)
        return
    assert 0.0 <= -trace.logprobs.max() - 1e-9 <= mean + 1e-9
    assert mean <= least + 1e-9
    assert least <= -trace.logprobs.min() + 1e-9


def test_long_texts_take_linear_time() -> None:
    for piece in (
        "answer is . ",
        r"\boxed{}",
        "answer:",
        "answer to ",
        "=1 ",
        "(",
        ")",
        "answer is (" + ")" * 50,
    ):
        find_answer_span(piece * 2000)
