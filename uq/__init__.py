"""What the small model's own signals say about its answer.

Importing this package registers the estimators that cost nothing beyond the answer itself. All
have one orientation: higher = less sure; NaN = unknown, and unknown escalates.
"""

from uq.answer_span import AnswerSpanMean, AnswerSpanMin, find_answer_span
from uq.entropy import MaxTokenEntropy, MeanTokenEntropy
from uq.estimator import Estimator, estimator_names, get_estimator, register, score_all
from uq.margin import Margin
from uq.perplexity import Perplexity
from uq.token_probability import (
    AverageTokenProbability,
    MinProbability,
    SequenceLogProbability,
)
from uq.trace import Trace
from uq.window import LowestWindowConfidence

__all__ = [
    "AnswerSpanMean",
    "AnswerSpanMin",
    "AverageTokenProbability",
    "Estimator",
    "LowestWindowConfidence",
    "Margin",
    "MaxTokenEntropy",
    "MeanTokenEntropy",
    "MinProbability",
    "Perplexity",
    "SequenceLogProbability",
    "Trace",
    "estimator_names",
    "find_answer_span",
    "get_estimator",
    "register",
    "score_all",
]

register(AverageTokenProbability())
register(Perplexity())
register(MeanTokenEntropy())
register(MaxTokenEntropy())
register(Margin())
register(MinProbability())
register(SequenceLogProbability())
register(LowestWindowConfidence())
register(AnswerSpanMean())
register(AnswerSpanMin())
