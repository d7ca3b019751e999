"""Uncertainty from the answer's own probability and the samples' dissent, multiplied."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from uq.estimator import Access
from uq.samples import FromSamples, sampled_texts
from uq.similarity import jaccard
from uq.trace import Trace
from uq.validity import mean, usable_logprobs


class Cocoa(FromSamples):
    """Perplexity times dissent: ``u = (-mean_t log p(y*_t)) * mean_i (1 - s(y*, y_i))``, in nats.

    y* is the greedy answer, y_i are the m samples, and s is `uq.similarity.jaccard`. The first
    factor is `Perplexity`, in nats (the paper's CoCoA_PPL). Range [0, inf); 0 = every sample has
    the answer's words, however unlikely each was. Reads the chosen tokens' log-probabilities and
    the texts of answer and samples; costs m further answers (`uq.signals.SIGNAL_COST`).

    References
    ----------
    Vashurin et al., "CoCoA: A Minimum Bayes Risk Framework Bridging Confidence and Consistency for
    Uncertainty Quantification in LLMs", NeurIPS 2025, arXiv:2502.04964; its s is a cross-encoder.
    """

    name = "cocoa"
    version = 1
    access: ClassVar[Access] = "logprobs"

    def score(self, trace: Trace) -> float:
        """Return the product in [0, inf); NaN when either factor can't be told."""
        logprobs = None if trace.samples is None else usable_logprobs(trace)
        return float("nan") if logprobs is None else -mean(logprobs) * dissent(trace)


class CocoaMsp(FromSamples):
    """As `Cocoa`, over the whole sequence: ``u = (-sum_t log p(y*_t)) * mean_i (1 - s(y*, y_i))``.

    The first factor is `SequenceLogProbability`, in nats (the paper's CoCoA_MSP), so that every
    token adds to it. Range [0, inf). Reads, costs and cites the same.
    """

    name = "cocoa_msp"
    version = 1
    access: ClassVar[Access] = "logprobs"

    def score(self, trace: Trace) -> float:
        """Return the product in [0, inf); NaN when either factor can't be told."""
        logprobs = None if trace.samples is None else usable_logprobs(trace)
        return float("nan") if logprobs is None else float(-logprobs.sum()) * dissent(trace)


def dissent(trace: Trace) -> float:
    """Return ``mean_i (1 - jaccard(answer, sample_i))`` in [0, 1]; NaN as `sampled_texts`."""
    texts = sampled_texts(trace)
    if texts is None or not trace.text.strip():
        return float("nan")
    return float(np.mean([1.0 - jaccard(trace.text, text) for text in texts]))
