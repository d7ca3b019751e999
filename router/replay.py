"""What would have happened: past decisions under another threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.answer import Reason
from router.ledger import Decided, Label

BY_SCORE: frozenset[Reason] = frozenset(
    {"confident", "uncertain", "no_upstream", "upstream_down", "budget", "drift"}
)
"""Reasons of decisions in which p_correct was compared with a threshold, or would have been."""

LEAST_LABELS = 20
"""Fewer labelled answers than this tell nothing about an error rate."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one threshold makes of past queries.

    Attributes
    ----------
    kept, escalated : queries.
    usd : what the escalated ones cost, as paid or as expected.
    wrong : share of wrong answers among the kept ones, by labels; None where fewer than 20 tell.
    n_labelled : kept answers whose label was drawn with a known chance.
    """

    kept: int
    escalated: int
    usd: float
    wrong: float | None
    n_labelled: int

    @property
    def ratio(self) -> float | None:
        """Share that is escalated; None without queries."""
        n = self.kept + self.escalated
        return self.escalated / n if n else None


@dataclass(frozen=True, slots=True)
class Replay:
    """Past decisions as they were, and under another threshold.

    Attributes
    ----------
    n : decisions looked at.
    n_fixed : of these, decided by something else than a score (policy, capability, the gate, ...),
        or with an unknown score; no threshold changes them, and they are not in the outcomes.
    threshold : the other one.
    before, after : what was, and what would have been.
    usd_per_escalation : mean over the escalated ones that had a price; None where none had.
    """

    n: int
    n_fixed: int
    threshold: float
    before: Outcome
    after: Outcome
    usd_per_escalation: float | None


def replay(entries: Iterable[tuple[Decided, Label | None]], threshold: float) -> Replay:
    """Decide `entries` again: kept iff p_correct is at least `threshold`, in [0, 1].

    An answer whose p_correct is not known stays as it was. Prices of answers that were not
    escalated are taken to be the mean of those that were.
    """
    every = list(entries)
    scored = [(d, label) for d, label in every if d.reason in BY_SCORE and d.p_correct is not None]
    prices = [d.cost_usd for d, _ in scored if d.route == "remote" and d.cost_usd > 0]
    price = sum(prices) / len(prices) if prices else None
    was_kept = [d.route == "local" for d, _ in scored]
    would_keep = [d.p_correct is not None and d.p_correct >= threshold for d, _ in scored]
    paid = [d.cost_usd for d, _ in scored]
    due = [cost if cost > 0 else price or 0.0 for cost in paid]
    return Replay(
        n=len(every),
        n_fixed=len(every) - len(scored),
        threshold=threshold,
        before=_outcome(scored, was_kept, paid),
        after=_outcome(scored, would_keep, due),
        usd_per_escalation=price,
    )


def _outcome(
    scored: Sequence[tuple[Decided, Label | None]], kept: Sequence[bool], usd: Sequence[float]
) -> Outcome:
    labels = [
        label
        for (_, label), keeps in zip(scored, kept, strict=True)
        if keeps and label is not None and label.inclusion is not None
    ]
    weights = [1.0 / label.inclusion for label in labels if label.inclusion is not None]
    wrong = sum(w for w, label in zip(weights, labels, strict=True) if not label.correct)
    return Outcome(
        kept=sum(kept),
        escalated=len(kept) - sum(kept),
        usd=sum(cost for cost, keeps in zip(usd, kept, strict=True) if not keeps),
        wrong=wrong / sum(weights) if len(labels) >= LEAST_LABELS else None,
        n_labelled=len(labels),
    )
