"""What the ledger holds: decisions, labels, and how a new label joins an old one."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.answer import Reason, Route

Source = Literal["user", "audit", "upstream"]
"""Who told: the user; the LLM, asked about an answer that was kept; the LLM, asked instead."""


@dataclass(frozen=True, slots=True)
class Decided:
    """One answer's decision, under the `id` of its response.

    Attributes
    ----------
    at : when, in seconds since 1970.
    calibration : id of the calibration that decided; None when there was none.
    route, reason, degraded, p_correct, threshold : as in `router.answer.Decision`.
    scores : uncertainties by name, NaN where unknown.
    text : the whole local answer, whichever was given; None when there was none, when it was given
        up half-way, and when it must not be kept.
    audited : probability in [0, 1] with which this answer was to be audited, decided before
        anything was known of it but that it was kept.
    calibrated_sampler : whether the answer was decoded as it was calibrated.
    cost_usd : what the upstream was paid for it.
    seconds : from the question to the whole answer.
    prompt : a hash of the conversation, or its text where the operator asked for that; None for
        neither.
    """

    id: str
    at: float
    calibration: str | None
    route: Route
    reason: Reason
    degraded: bool = False
    p_correct: float | None = None
    threshold: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None
    audited: float = 0.0
    calibrated_sampler: bool = True
    cost_usd: float = 0.0
    seconds: float = 0.0
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """Whether one local answer was correct, and who says so.

    `inclusion` is the probability in (0, 1] with which the answer came to be labelled: the audit
    rate for audited ones, 1 for escalated ones. None is unknown: people volunteer. Estimates about
    all traffic weight by 1 / inclusion. Raises ValueError when it is outside.
    """

    id: str
    correct: bool
    source: Source
    at: float
    inclusion: float | None = None

    def __post_init__(self) -> None:
        if self.inclusion is not None and not 0 < self.inclusion <= 1:
            raise ValueError(f"inclusion is {self.inclusion}; it is a probability in (0, 1]")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many decisions are kept, and how many of them have a label, by its source."""

    decided: int
    labelled: Mapping[Source, int]


def joined(old: Label | None, new: Label) -> Label:
    """Return the label that holds after `new` has come; `old` itself when nothing changes.

    A user's word replaces the LLM's and an earlier one of their own, never the other way round. By
    which chance the answer came to be labelled remains known: `inclusion` outlives a replacement,
    and an LLM's label that comes after a user's leaves just that.
    """
    if old is None:
        return new
    inclusion = new.inclusion if old.inclusion is None else old.inclusion
    users_first = (new.source == "user") >= (old.source == "user")
    holds = new if users_first and new.at >= old.at else old
    if (holds.correct, holds.source, inclusion) == (old.correct, old.source, old.inclusion):
        return old
    return dataclasses.replace(holds, inclusion=inclusion)


def scores_to_json(scores: Mapping[str, float]) -> str:
    """Write scores as JSON, the unknown ones as null."""
    known = {name: score if math.isfinite(score) else None for name, score in scores.items()}
    return json.dumps(known, allow_nan=False)


def scores_from_json(text: str) -> dict[str, float]:
    """Read what `scores_to_json` wrote."""
    return {name: math.nan if s is None else s for name, s in json.loads(text).items()}
