"""Uncertainty from the perplexity of the answer."""

from __future__ import annotations

from uq.estimator import AnswerOnly
from uq.trace import Trace
from uq.validity import mean, usable_logprobs


class Perplexity(AnswerOnly):
    """The natural logarithm of the answer's perplexity: ``u = -mean_t log p(y_t)``, in nats.

    Range [0, inf); 0 = every token certain. The perplexity itself is ``exp(u)``, in [1, inf), and
    the founding paper's confidence is ``exp(-u)``, the geometric mean of the token probabilities:
    all three order answers the same way, and the logarithm neither overflows nor saturates. Reads
    the chosen tokens' log-probabilities; costs nothing beyond the answer. The end-of-generation
    token is not counted.

    References
    ----------
    Chuang et al., "Confident or Seek Stronger", arXiv:2502.04428 ("perplexity").
    Fomicheva et al., TACL 2020, arXiv:2005.10608 (length-normalised log-probability).
    """

    name = "perplexity"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``-mean log p`` in [0, inf); NaN when the log-probabilities can't be believed."""
        logprobs = usable_logprobs(trace)
        return float("nan") if logprobs is None else -mean(logprobs)
