"""Uncertainty from the entropy of each step's distribution."""

from __future__ import annotations

from uq.estimator import AnswerOnly
from uq.trace import Trace
from uq.validity import mean, usable_entropies


class MeanTokenEntropy(AnswerOnly):
    """The mean entropy of the steps' distributions: ``u = mean_t H_t``, in nats.

    ``H_t = -sum_v p_t(v) log p_t(v)`` over the whole vocabulary. Range [0, ln(vocabulary size)].
    Reads the entropies; costs nothing beyond the answer.

    References
    ----------
    Fomicheva et al., "Unsupervised Quality Estimation for Neural Machine Translation", TACL 2020,
    arXiv:2005.10608 ("softmax entropy").
    """

    name = "mean_token_entropy"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``mean H`` in [0, ln(vocabulary)]; NaN when the entropies can't be believed."""
        entropies = usable_entropies(trace)
        return float("nan") if entropies is None else mean(entropies)


class MaxTokenEntropy(AnswerOnly):
    """The largest entropy among the steps' distributions: ``u = max_t H_t``, in nats.

    Range [0, ln(vocabulary size)]. Reads the entropies; costs nothing beyond the answer. It never
    falls as an answer grows, so long answers look less sure than short ones.

    References
    ----------
    Manakul et al., "SelfCheckGPT", EMNLP 2023, arXiv:2303.08896 ("Max(H)").
    """

    name = "max_token_entropy"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``max H`` in [0, ln(vocabulary)]; NaN when the entropies can't be believed."""
        entropies = usable_entropies(trace)
        return float("nan") if entropies is None else float(entropies.max())
