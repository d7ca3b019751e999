from __future__ import annotations

import math

import pytest
from hypothesis import given

from tests.uq.traces import make_trace, traces
from uq import MaxTokenEntropy, MeanTokenEntropy, Trace


def test_known_answers() -> None:
    # A fair choice between 2 tokens, between 4, and certainty.
    trace = make_trace([-0.7, -1.4, -0.1], entropies=[math.log(2), math.log(4), 0.0])
    assert MeanTokenEntropy().score(trace) == pytest.approx(math.log(8) / 3)
    assert MaxTokenEntropy().score(trace) == pytest.approx(math.log(4))


def test_uniform_over_the_vocabulary_is_the_top_of_the_range() -> None:
    trace = make_trace([-math.log(49152)], entropies=[math.log(49152)])
    assert MeanTokenEntropy().score(trace) == pytest.approx(math.log(49152))


@given(traces())
def test_mean_is_at_most_max(trace: Trace) -> None:
    mean, largest = MeanTokenEntropy().score(trace), MaxTokenEntropy().score(trace)
    assert 0.0 <= mean <= largest + 1e-12
    assert largest == trace.entropies.max()
