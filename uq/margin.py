"""Uncertainty from the margin between the two most likely tokens of each step."""

from __future__ import annotations

from uq.estimator import AnswerOnly
from uq.trace import Trace
from uq.validity import mean, usable_margins


class Margin(AnswerOnly):
    """One minus the mean margin of the steps: ``u = 1 - mean_t (p1_t - p2_t)``.

    p1 and p2 are the probabilities of the most and the second most likely token, whichever was
    chosen. Range [0, 1]. Reads the margins; costs nothing beyond the answer. The end-of-generation
    token is not counted.

    References
    ----------
    Kotte, "UCCI: Calibrated Uncertainty for Cost-Optimal LLM Cascade Routing", arXiv:2605.18796,
    equation 4.
    """

    name = "margin"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``1 - mean margin`` in [0, 1]; NaN when the margins can't be believed."""
        margins = usable_margins(trace)
        return float("nan") if margins is None else 1.0 - mean(margins)
