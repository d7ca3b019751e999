"""Never a finite score from a trace that can't be believed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uq.test_estimator import BUILT_IN
from tests.uq.traces import make_trace, traces
from uq import Trace, score_all
from uq.validity import (
    ROUNDING,
    usable_entropies,
    usable_logprobs,
    usable_margins,
    usable_offsets,
)

ENTROPY = {"mean_token_entropy", "max_token_entropy"}
SPAN = {"answer_span_mean", "answer_span_min"}


def unknown(trace: Trace) -> set[str]:
    return {name for name, score in score_all(trace, BUILT_IN).items() if math.isnan(score)}


@pytest.mark.parametrize(
    "logprobs",
    [
        pytest.param([], id="empty"),
        pytest.param([0.0], id="one zero: probability exactly 1 is not believed"),
        pytest.param([0.0, 0.0, 0.0], id="all zero, as a speculative decoding bug returned"),
        pytest.param([-0.0, 0.0], id="all zero with a sign"),
        pytest.param([-0.1, math.nan], id="missing"),
        pytest.param([-0.1, -math.inf], id="minus infinity"),
        pytest.param([-0.1, math.inf], id="infinity"),
        pytest.param([-0.1, 0.3], id="positive"),
        pytest.param([-0.1, 2 * ROUNDING], id="positive beyond rounding"),
    ],
)
def test_broken_logprobs_make_every_estimator_answer_nan(logprobs: list[float]) -> None:
    assert unknown(make_trace(logprobs)) == set(BUILT_IN)


def test_a_certain_token_with_entropy_is_a_contradiction() -> None:
    """Drafted tokens alone were given 0.0; the entropies of their steps give it away."""
    assert unknown(make_trace([0.0, -0.7], entropies=[0.4, 0.4])) == set(BUILT_IN)
    assert unknown(make_trace([0.0, -0.7], entropies=[1e-6, 0.4])) == set()


@pytest.mark.parametrize("entropies", [[0.5, math.nan], [0.5, math.inf], [0.5, -0.1], [0.0, 0.0]])
def test_broken_entropies_concern_only_those_that_read_them(entropies: list[float]) -> None:
    assert unknown(make_trace([-0.1, -0.2], entropies=entropies)) == ENTROPY


@pytest.mark.parametrize("margins", [[0.5, math.nan], [0.5, 1.1], [0.5, -0.1], [1.0, 1.0]])
def test_broken_margins_concern_only_those_that_read_them(margins: list[float]) -> None:
    assert unknown(make_trace([-0.1, -0.2], margins=margins)) == {"margin"}


@pytest.mark.parametrize("offsets", [[-1, 0], [1, 0], [0, 3]])
def test_broken_offsets_concern_only_the_answer_span(offsets: list[int]) -> None:
    trace = make_trace([-0.1, -0.2], offsets=offsets)
    assert not usable_offsets(trace)
    assert unknown(trace) == SPAN


def test_an_answer_without_text_has_no_span() -> None:
    trace = make_trace([-0.1, -0.2], pieces=[" ", "\n"])
    assert unknown(trace) == SPAN


def test_rounding_is_clipped_not_refused() -> None:
    eps = ROUNDING / 2
    trace = make_trace([eps, -0.5], entropies=[-eps, 0.7], margins=[1.0 + eps, 0.2])
    np.testing.assert_array_equal(usable_logprobs(trace), [0.0, -0.5])
    np.testing.assert_array_equal(usable_entropies(trace), [0.0, 0.7])
    np.testing.assert_array_equal(usable_margins(trace), [1.0, 0.2])


@given(traces(), st.data())
def test_one_broken_logprob_is_enough(trace: Trace, data: st.DataObject) -> None:
    logprobs = trace.logprobs.tolist()
    where = data.draw(st.integers(0, len(logprobs) - 1))
    logprobs[where] = data.draw(
        st.one_of(st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.floats(1e-4, 1e300))
    )
    broken = Trace.from_dict(trace.to_dict() | {"logprobs": logprobs})
    assert unknown(broken) == set(BUILT_IN)


@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats()), min_size=1, max_size=5))
def test_whatever_the_input_a_score_is_nan_or_in_range(rows: list[tuple[float, ...]]) -> None:
    logprobs, entropies, margins = (list(column) for column in zip(*rows, strict=True))
    scores = score_all(make_trace(logprobs, entropies=entropies, margins=margins), BUILT_IN)
    for name, score in scores.items():
        top = 1.0 if name in {"average_token_probability", "min_probability", "margin"} else None
        assert math.isnan(score) or (score >= 0.0 and (top is None or score <= top)), name
