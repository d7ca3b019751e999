from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uq.traces import LOGPROBS, make_trace
from uq import AverageTokenProbability, MinProbability, SequenceLogProbability

ALL = (AverageTokenProbability(), MinProbability(), SequenceLogProbability())

# cvs-health/uqlm, tests/data/scorers/whitebox_results_file.json: log-probabilities of two answers
# of a chat model, with the minimum probability that library computes from them.
UQLM = [
    ([-0.038273167, -0.00026145502], 0.9624499954009256),
    ([-0.0007860411], 0.9992142677493774),
]


def test_known_answers() -> None:
    trace = make_trace([math.log(0.9), math.log(0.6), math.log(0.3)])
    assert AverageTokenProbability().score(trace) == pytest.approx(1 - 1.8 / 3)
    assert MinProbability().score(trace) == pytest.approx(0.7)
    assert SequenceLogProbability().score(trace) == pytest.approx(-math.log(0.9 * 0.6 * 0.3))


def test_a_single_token_counts_as_itself() -> None:
    trace = make_trace([math.log(0.25)])
    assert AverageTokenProbability().score(trace) == pytest.approx(0.75)
    assert MinProbability().score(trace) == pytest.approx(0.75)


@pytest.mark.parametrize(("logprobs", "min_probability"), UQLM)
def test_min_probability_agrees_with_uqlm(logprobs: list[float], min_probability: float) -> None:
    assert 1 - MinProbability().score(make_trace(logprobs)) == pytest.approx(
        min_probability, rel=1e-12
    )


@given(st.lists(LOGPROBS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(logprobs: list[float], random: Random) -> None:
    shuffled = random.sample(logprobs, len(logprobs))
    for estimator in ALL:
        assert estimator.score(make_trace(shuffled)) == pytest.approx(
            estimator.score(make_trace(logprobs)), abs=1e-12
        )


@given(st.lists(LOGPROBS, min_size=1, max_size=20), st.data())
def test_a_less_likely_token_never_makes_it_surer(
    logprobs: list[float], data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, len(logprobs) - 1))
    less = list(logprobs)
    less[where] -= data.draw(st.floats(0.0, 10.0))
    for estimator in ALL:
        assert estimator.score(make_trace(less)) >= estimator.score(make_trace(logprobs)) - 1e-12


@given(st.lists(LOGPROBS, min_size=1, max_size=20), LOGPROBS)
def test_a_further_token_never_makes_these_two_surer(logprobs: list[float], last: float) -> None:
    for estimator in (MinProbability(), SequenceLogProbability()):
        longer = estimator.score(make_trace([*logprobs, last]))
        assert longer >= estimator.score(make_trace(logprobs)) - 1e-12
