"""Uncertainty from the least confident stretch of the answer."""

from __future__ import annotations

from numpy.lib.stride_tricks import sliding_window_view

from uq.estimator import AnswerOnly
from uq.trace import Trace
from uq.validity import mean, usable_logprobs

WINDOW = 16
"""Tokens in a window. Answers on the device are short (64 tokens by default): a window that held
most of the answer would say no more than its mean does."""


class LowestWindowConfidence(AnswerOnly):
    """The least confident window: ``u = max_i -mean(log p(y_i) ... log p(y_{i+15}))``, in nats.

    The window of `WINDOW` = 16 tokens slides by one token. An answer shorter than that is one
    window, and then the score equals `Perplexity`. Range [0, inf). Reads the chosen tokens'
    log-probabilities; costs nothing beyond the answer. One shaky step in a long and otherwise
    fluent answer raises it, where a mean over the whole answer would hide it.

    Notes
    -----
    It follows DeepConf's lowest group confidence, with two differences. DeepConf's token confidence
    is minus the mean log-probability of the k = 20 most likely tokens (higher = surer, since a
    peaked distribution makes the others unlikely); here it is the log-probability of the chosen
    token, which every trace has, so that no top-k need be kept. DeepConf's groups have 2,048
    tokens, for reasoning traces of tens of thousands.

    References
    ----------
    Fu et al., "Deep Think with Confidence", arXiv:2508.15260.
    """

    name = "lowest_window_confidence"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return the largest window mean of ``-log p`` in [0, inf); NaN as for `Perplexity`."""
        logprobs = usable_logprobs(trace)
        if logprobs is None:
            return float("nan")
        if len(logprobs) <= WINDOW:
            return -mean(logprobs)
        windows = sliding_window_view(logprobs, WINDOW)
        return float(-windows.mean(axis=1).min())
