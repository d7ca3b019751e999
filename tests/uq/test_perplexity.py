from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uq.traces import LOGPROBS, make_trace
from uq import AverageTokenProbability, Perplexity


def test_known_answers() -> None:
    trace = make_trace([math.log(0.5), math.log(0.125)])
    assert Perplexity().score(trace) == pytest.approx(math.log(4.0))  # perplexity 4
    assert Perplexity().score(make_trace([-0.12, -0.12])) == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("logprobs", "normalised_probability"),
    # cvs-health/uqlm, tests/data/scorers/whitebox_results_file.json: exp of the mean log p
    [
        ([-0.038273167, -0.00026145502], 0.9809171172485425),
        ([-0.0007860411], 0.9992142677493774),
        ([-9.0883464e-07], 0.999999091165773),
    ],
)
def test_agrees_with_uqlm(logprobs: list[float], normalised_probability: float) -> None:
    trace = make_trace(logprobs, entropies=[1e-4] * len(logprobs))
    assert math.exp(-Perplexity().score(trace)) == pytest.approx(normalised_probability, rel=1e-12)


def test_a_sure_answer_is_near_zero() -> None:
    assert 0.0 < Perplexity().score(make_trace([-1e-6, -1e-6])) < 1e-5


def test_hopeless_answers_do_not_overflow() -> None:
    assert Perplexity().score(make_trace([-1e6])) == 1e6


@given(st.lists(LOGPROBS, min_size=1, max_size=20))
def test_is_bounded_by_the_best_and_the_worst_token(logprobs: list[float]) -> None:
    score = Perplexity().score(make_trace(logprobs))
    assert -max(logprobs) - 1e-12 <= score <= -min(logprobs) + 1e-12


@given(st.lists(LOGPROBS, min_size=1, max_size=20))
def test_geometric_mean_is_below_the_arithmetic_one(logprobs: list[float]) -> None:
    trace = make_trace(logprobs)
    assert (
        math.exp(-Perplexity().score(trace)) <= 1 - AverageTokenProbability().score(trace) + 1e-12
    )


@given(st.lists(LOGPROBS, min_size=1, max_size=10), st.integers(2, 4))
def test_repeating_the_answer_changes_nothing(logprobs: list[float], times: int) -> None:
    repeated = Perplexity().score(make_trace(logprobs * times))
    assert repeated == pytest.approx(Perplexity().score(make_trace(logprobs)))
