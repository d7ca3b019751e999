"""Uncertainty from the probabilities of the chosen tokens."""

from __future__ import annotations

import numpy as np

from uq.estimator import AnswerOnly
from uq.trace import Trace
from uq.validity import mean, usable_logprobs


class AverageTokenProbability(AnswerOnly):
    """One minus the mean probability of the answer's tokens: ``u = 1 - mean_t p(y_t)``.

    Range [0, 1]. Reads the chosen tokens' log-probabilities; costs nothing beyond the answer. For a
    one-token answer, such as the letter of a multiple-choice question, it is one minus the
    probability of that letter. The mean is arithmetic: one unlikely token moves it by at most 1/n.

    References
    ----------
    Chuang et al., "Confident or Seek Stronger", arXiv:2502.04428 ("average token probability").
    """

    name = "average_token_probability"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``1 - mean p`` in [0, 1]; NaN when the log-probabilities can't be believed."""
        logprobs = usable_logprobs(trace)
        return float("nan") if logprobs is None else 1.0 - mean(np.exp(logprobs))


class MinProbability(AnswerOnly):
    """One minus the probability of the least likely token: ``u = 1 - min_t p(y_t)``.

    Range [0, 1]. Reads the chosen tokens' log-probabilities; costs nothing beyond the answer. It
    never falls as an answer grows, so long answers look less sure than short ones.

    References
    ----------
    Manakul et al., "SelfCheckGPT", EMNLP 2023, arXiv:2303.08896 (the maximum of -log p, a monotone
    function of this one).
    """

    name = "min_probability"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``1 - min p`` in [0, 1]; NaN when the log-probabilities can't be believed."""
        logprobs = usable_logprobs(trace)
        return float("nan") if logprobs is None else float(1.0 - np.exp(logprobs.min()))


class SequenceLogProbability(AnswerOnly):
    """Minus the log-probability of the whole answer: ``u = -sum_t log p(y_t)``, in nats.

    Range [0, inf). Reads the chosen tokens' log-probabilities; costs nothing beyond the answer.
    Also known as maximum sequence probability (MSP). It is not normalised: every token adds to it,
    so it compares answers of similar length. The end-of-generation token is not counted.

    References
    ----------
    Fadeeva et al., "LM-Polygraph", EMNLP 2023, arXiv:2311.07383 ("maximum sequence probability").
    """

    name = "sequence_log_probability"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``-sum log p`` in [0, inf); NaN when the log-probabilities can't be believed."""
        logprobs = usable_logprobs(trace)
        return float("nan") if logprobs is None else float(-logprobs.sum())
