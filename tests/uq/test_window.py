from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uq.traces import LOGPROBS, make_trace
from uq import LowestWindowConfidence, Perplexity
from uq.window import WINDOW


def test_known_answer() -> None:
    # 16 shaky tokens in the middle of 20 + 20 sure ones: some window holds just those.
    logprobs = [-0.01] * 20 + [-1.5] * WINDOW + [-0.01] * 20
    assert LowestWindowConfidence().score(make_trace(logprobs)) == pytest.approx(1.5)
    assert Perplexity().score(make_trace(logprobs)) < 0.5


def test_one_shaky_token_is_spread_over_its_window() -> None:
    logprobs = [-0.1] * 40
    logprobs[25] = -3.3
    expected = (3.3 + 0.1 * (WINDOW - 1)) / WINDOW
    assert LowestWindowConfidence().score(make_trace(logprobs)) == pytest.approx(expected)


@given(st.lists(LOGPROBS, min_size=1, max_size=WINDOW))
def test_up_to_one_window_it_is_the_perplexity(logprobs: list[float]) -> None:
    trace = make_trace(logprobs)
    assert LowestWindowConfidence().score(trace) == pytest.approx(Perplexity().score(trace))


@given(st.lists(LOGPROBS, min_size=1, max_size=60))
def test_equals_its_definition_and_is_between_min_token_and_worst(logprobs: list[float]) -> None:
    score = LowestWindowConfidence().score(make_trace(logprobs))
    width = min(WINDOW, len(logprobs))
    means = [np.mean(logprobs[i : i + width]) for i in range(len(logprobs) - width + 1)]
    assert score == pytest.approx(-min(means))
    assert Perplexity().score(make_trace(logprobs[:width])) - 1e-9 <= score
    assert score <= -min(logprobs) + 1e-9
