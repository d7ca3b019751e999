from __future__ import annotations

import pytest
from hypothesis import given

from tests.uq.traces import make_trace, traces
from uq import Margin, Trace

# varunkotte6/ucci, tests/golden/signal.json: (p1, p2) of each token, and u of equation 4.
UCCI = [
    ([(0.9, 0.05), (0.6, 0.3), (0.5, 0.5)], 0.6166666666666667),
    ([(0.73, 0.21)], 0.48),
    ([(0.4, 0.4)] * 4, 1.0),
    ([(0.8, 0.1), (0.6, 0.3)], 0.5),
]


@pytest.mark.parametrize(("pairs", "expected"), UCCI)
def test_agrees_with_ucci(pairs: list[tuple[float, float]], expected: float) -> None:
    trace = make_trace([-0.5] * len(pairs), margins=[p1 - p2 for p1, p2 in pairs])
    assert Margin().score(trace) == pytest.approx(expected, rel=1e-12)


@given(traces())
def test_order_of_tokens_does_not_matter_and_range(trace: Trace) -> None:
    backwards = make_trace(trace.logprobs[::-1].tolist(), margins=trace.margins[::-1].tolist())
    assert Margin().score(trace) == pytest.approx(Margin().score(backwards), abs=1e-12)
    assert 0.0 <= Margin().score(trace) <= 1.0
