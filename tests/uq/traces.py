"""Traces made by hand, and hypothesis strategies for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from uq import Trace

LOGPROBS = st.floats(-50.0, -1e-6)
ENTROPIES = st.floats(1e-6, 11.0)
MARGINS = st.floats(0.0, 0.999)


def make_trace(
    logprobs: Sequence[float] | NDArray[np.float64],
    *,
    entropies: Sequence[float] | None = None,
    margins: Sequence[float] | None = None,
    pieces: Sequence[str] | None = None,
    **fields: Any,
) -> Trace:
    """Return a trace of len(logprobs) tokens; `pieces` are the characters of each token."""
    n = len(logprobs)
    pieces = ["x"] * n if pieces is None else pieces
    values: dict[str, Any] = {
        "text": "".join(pieces),
        "tokens": np.arange(n),
        "offsets": np.cumsum([0, *map(len, pieces)])[:n],
        "logprobs": logprobs,
        "entropies": [0.5] * n if entropies is None else entropies,
        "margins": [0.5] * n if margins is None else margins,
        "top_ids": np.zeros((n, 0)),
        "top_logprobs": np.zeros((n, 0)),
        "end_logprob": float("nan"),
        "finish_reason": "stop",
        "n_prompt": 3,
    }
    return Trace(**(values | fields))


@st.composite
def traces(draw: st.DrawFn, min_tokens: int = 1, max_tokens: int = 40) -> Trace:
    """Whole traces with values that a model can produce, and texts with markers in them."""
    pieces = draw(
        st.lists(
            st.sampled_from(["a", " b", "\n", " answer", " is", ":", " 4", "2", "####", "=", "."]),
            min_size=min_tokens,
            max_size=max_tokens,
        )
    )
    n = len(pieces)
    return make_trace(
        draw(st.lists(LOGPROBS, min_size=n, max_size=n)),
        entropies=draw(st.lists(ENTROPIES, min_size=n, max_size=n)),
        margins=draw(st.lists(MARGINS, min_size=n, max_size=n)),
        pieces=pieces,
    )
