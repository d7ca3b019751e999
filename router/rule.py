"""What one query is decided by, from its beginning to its end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from router.answer import Decision, Query
from router.budget import Pacer, Spending
from router.judge import AS_CALIBRATED, Judge, Stance
from router.live_watch import Watch


@dataclass(frozen=True, slots=True)
class Rule:
    """A calibration's judge, what live traffic taught since, and the money that is left.

    Attributes
    ----------
    watch : None where the calibration decides alone.
    spending : the limits on money; None where the query costs none, or none applies.
    """

    judge: Judge
    watch: Watch | None = None
    pacer: Pacer | None = None
    spending: Spending | None = None

    def stance(self) -> Stance:
        """What live traffic asks for at this moment, and the money that is left."""
        stance = AS_CALIBRATED if self.watch is None else self.watch.stance()
        return stance if self.spending is None else self.spending.limiting(stance, self.pacer)

    def saw(self, query: Query, p_correct: float | None) -> None:
        """Count a query that a threshold decides."""
        if self.spending is not None and query.mode == "auto":
            self.spending.asked()
            if self.pacer is not None:
                self.pacer.saw(p_correct)

    def noted(self, decision: Decision) -> Decision:
        """The decision with a word on the money."""
        return decision if self.spending is None else self.spending.noted(decision)

    def spot_check(self) -> bool:
        """Whether an answer that could be given up is made whole, so that its scores are known."""
        return self.watch is not None and self.watch.spot_check()

    def with_spending(self, spending: Spending | None) -> Rule:
        """The same rule for a query that spends from these limits."""
        return dataclasses.replace(self, spending=spending)
