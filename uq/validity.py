"""Which statistics of a trace can be believed.

Every estimator reads a trace through these functions. They answer None when the statistic is
missing, broken or contradicts itself; the estimator then answers NaN, and NaN escalates. Unknown is
not confident.

A known source of broken values is an engine that reports a log-probability of 0.0 for every token
it took from a draft (speculative decoding; ggml-org/llama.cpp issue 27972): read as it stands, such
a trace is the most confident one possible, and a router would never escalate.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from uq.trace import FloatArray, Trace

ROUNDING = 1e-5
"""How far a value may lie outside its range and still count as rounding; it is then clipped.

A softmax in single precision over logits of magnitude up to 64 is off by up to 4e-6."""

_ENTROPY_OF_CERTAIN = 1e-3
"""More entropy, in nats, than a step can have whose chosen token has probability 1 up to
`ROUNDING`: at most 1.3e-4 + 1e-5 ln(V), below 2.7e-4 for a vocabulary of a million."""

_LOWEST = float(np.finfo(np.float32).min)
"""No log-probability of logits in single precision lies below; sums of such ones are finite."""


@functools.lru_cache(maxsize=16)  # a dozen estimators ask the same of a trace
def usable_logprobs(trace: Trace) -> FloatArray | None:
    """Return the log-probabilities of the chosen tokens, or None when they can't be believed.

    They can't when the trace is empty, when a value is NaN, positive or beyond what single
    precision holds, when all are exactly 0, or when one is exactly 0 although the entropy of its
    step says that other tokens had a chance. A genuine answer has only zeros if each of its tokens
    had probability 1 up to rounding; that is not told apart from a broken one.

    Returns
    -------
    float array of shape (n,), n >= 1, in (-inf, 0]; or None
    """
    logprobs = trace.logprobs
    least, most = _range(logprobs)
    if not _within(least, most, _LOWEST, 0.0):
        return None
    if most < 0.0:  # as nearly always: nothing to doubt and nothing to clip
        return logprobs
    if not logprobs.any():
        return None
    if ((logprobs == 0.0) & (trace.entropies > _ENTROPY_OF_CERTAIN)).any():
        return None
    return np.minimum(logprobs, 0.0)


@functools.lru_cache(maxsize=16)
def usable_entropies(trace: Trace) -> FloatArray | None:
    """Return the entropies of the steps, or None when they can't be believed.

    They can't when the log-probabilities can't (see `usable_logprobs`), when a value is NaN,
    infinite or negative, or when all are exactly 0.

    Returns
    -------
    float array of shape (n,), n >= 1, in [0, inf), nats; or None
    """
    entropies = trace.entropies
    least, most = _range(entropies)
    if usable_logprobs(trace) is None or not _within(least, most, 0.0, math.inf):
        return None
    if least > 0.0:
        return entropies
    return np.maximum(entropies, 0.0) if entropies.any() else None


@functools.lru_cache(maxsize=16)
def usable_margins(trace: Trace) -> FloatArray | None:
    """Return the top-1/top-2 margins of the steps, or None when they can't be believed.

    They can't when the log-probabilities can't (see `usable_logprobs`), when a value is NaN or
    outside [0, 1], or when all are exactly 1.

    Returns
    -------
    float array of shape (n,), n >= 1, in [0, 1]; or None
    """
    margins = trace.margins
    least, most = _range(margins)
    if usable_logprobs(trace) is None or not _within(least, most, 0.0, 1.0):
        return None
    if least >= 0.0 and most < 1.0:
        return margins
    return np.minimum(np.maximum(margins, 0.0), 1.0) if (margins != 1.0).any() else None


def usable_offsets(trace: Trace) -> bool:
    """Whether the token offsets never decrease and stay inside the text."""
    offsets = trace.offsets
    return bool(
        len(offsets) > 0
        and offsets[0] >= 0
        and offsets[-1] <= len(trace.text)
        and (offsets[1:] >= offsets[:-1]).all()
    )


def mean(values: FloatArray) -> float:
    """Return ``values.mean()`` to the bit; for a few values that takes four times as long."""
    return float(np.add.reduce(values)) / len(values)


def _range(values: FloatArray) -> tuple[float, float]:
    """The least and the highest value; NaN where one of them is, or there is none."""
    if len(values) == 0:
        return math.nan, math.nan
    return float(values.min()), float(values.max())


def _within(least: float, most: float, low: float, high: float) -> bool:
    """Whether values of this range are finite and in [low, high] up to rounding; not if NaN."""
    return low - ROUNDING <= least and most <= high + ROUNDING and math.isfinite(most - least)
