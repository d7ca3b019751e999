"""What a router is worth and what it costs: APGR, CPT, cost at a wanted accuracy, differences.

Costs are in calls of the large model, on average over the questions. With `ratio` what an answer of
the small model costs in them, and r the share of questions sent:

* a router that reads the small model's answer: `ratio` (1 + looks) + r. The small model answers
  every question, also those that are sent; looks is what the signals take beyond the answer.
* a router that decides before: `ratio` (1 - r) + r. What is sent was never asked of the small one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray
from calibration.ranking_metrics import (
    CountArray,
    Measured,
    TiedOrder,
    resample_counts,
    slices,
    unknown_last,
)
from calibration.routing_metrics import GRID, RoutedAccuracy, routed_accuracy, routing_quality

RECOVERIES = (0.5, 0.8, 0.95)
"""Shares of the large model's lead at which costs are compared."""

_CLEARLY = 0.975


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the small and the large model got right, of n questions, and resamples of them.

    Attributes
    ----------
    slm, llm : bool arrays of shape (n,).
    counts : int array of shape (n_boot, n)
        How often each question was drawn; all routers are measured on the same resamples.
    """

    slm: BoolArray
    llm: BoolArray
    counts: CountArray

    @classmethod
    def of(cls, slm: BoolArray, llm: BoolArray, *, n_boot: int, seed: int) -> Outcomes:
        return cls(slm, llm, resample_counts(len(slm), n_boot, seed))

    def why_not(self, at_least: int) -> str:
        """Why no router is measured here; "" when it is."""
        for who, right in (("small", self.slm), ("large", self.llm)):
            n_right, n_wrong = int(right.sum()), int((~right).sum())
            if who == "small" and min(n_right, n_wrong) < at_least:
                return (
                    f"the small model has {n_right} right and {n_wrong} wrong answers; "
                    f"{at_least} of each are needed"
                )
            if n_right < at_least:
                return f"the large model has {n_right} right answers; {at_least} are needed"
        gain = self.llm.astype(np.int32) - self.slm.astype(np.int32)
        if (self.counts @ gain > 0).mean() < _CLEARLY:
            return "the large model is not clearly better here"
        return ""


@dataclass(frozen=True, eq=False)
class Worth:
    """One router on one population.

    Attributes
    ----------
    curve : accuracy over the share sent.
    apgr : with its 95% interval.
    cpt : recovery -> smallest share sent that reaches it.
    cost : recovery -> cost there.
    drawn : float array of shape (n_boot,)
        APGR of each resample; NaN where the large model is not better in it.
    """

    curve: RoutedAccuracy
    apgr: Measured
    cpt: dict[float, float]
    cost: dict[float, float]
    drawn: FloatArray

    def to_json(self) -> dict[str, Any]:
        return {
            "apgr": asdict(self.apgr),
            "cpt": {str(x): share for x, share in self.cpt.items()},
            "cost": {str(x): cost for x, cost in self.cost.items()},
            "share": list(GRID),
            "accuracy": [round(float(a), 6) for a in self.curve.at(GRID)],
        }


def cost(share: float, ratio: float, *, looks: float = 0.0, before: bool = False) -> float:
    """What a question costs, in calls of the large model, when `share` of them go there.

    >>> round(cost(0.4, 0.05, looks=1.0), 6), round(cost(0.4, 0.05, before=True), 6)
    (0.5, 0.43)
    """
    return ratio * (1.0 - share) + share if before else ratio * (1.0 + looks) + share


def worth(
    uncertainty: FloatArray,
    outcomes: Outcomes,
    ratio: float,
    *,
    looks: float = 0.0,
    before: bool = False,
) -> Worth:
    """Measure a router by its `uncertainty`, shape (n,), NaN = sent first.

    Raises FitError where the large model is not clearly better; `Outcomes.why_not` tells before.
    """
    ranks = unknown_last(uncertainty)
    quality = routing_quality(ranks, outcomes.slm, outcomes.llm, outcomes.counts)
    if quality.apgr is None:
        raise FitError("the large model is not clearly better here: there is no lead to recover")
    cpt = {x: reached for x in RECOVERIES if (reached := quality.curve.cpt(x)) is not None}
    return Worth(
        curve=quality.curve,
        apgr=quality.apgr,
        cpt=cpt,
        cost={x: cost(share, ratio, looks=looks, before=before) for x, share in cpt.items()},
        drawn=apgr_draws(ranks, outcomes),
    )


def apgr_draws(ranks: FloatArray, outcomes: Outcomes) -> FloatArray:
    """APGR of each resample, shape (n_boot,); NaN where the large model is not better in it.

    The mean over shares of the accuracy gained, as a part of what sending all gains; questions of
    one rank go in random order. See `calibration.routing_metrics`.
    """
    order = TiedOrder.of(-ranks)
    gain = outcomes.llm.astype(np.int32) - outcomes.slm.astype(np.int32)
    drawn = []
    for part in slices(outcomes.counts):
        sent, gained = order.sums(part, gain)
        total = gained.sum(axis=1)
        area = (sent * (gained.cumsum(axis=1) - gained / 2)).sum(axis=1) / sent.sum(axis=1)
        drawn.append(np.where(total > 0, area / np.where(total > 0, total, 1.0), np.nan))
    return np.concatenate(drawn)


def difference(ours: Worth, other: Worth) -> Measured:
    """APGR of ours minus the other's, with a 95% interval paired by resample."""
    drawn = ours.drawn - other.drawn
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Measured(ours.apgr.value - other.apgr.value, float(low), float(high))


def random_worth(outcomes: Outcomes, ratio: float) -> Worth:
    """Sending at random, which needs no look at the answer: APGR 0.5 in every resample."""
    tied = np.zeros(len(outcomes.slm))
    curve = routed_accuracy(tied, outcomes.slm, outcomes.llm)
    return Worth(
        curve=curve,
        apgr=Measured(0.5, 0.5, 0.5),
        cpt={x: x for x in RECOVERIES},
        cost={x: cost(x, ratio, before=True) for x in RECOVERIES},
        drawn=np.full(len(outcomes.counts), 0.5),
    )


@dataclass(frozen=True, eq=False)
class Group:
    """The routers on one set, or on all together.

    Attributes
    ----------
    n : questions with outcomes of both models.
    slm, llm : share of right answers of each.
    routers : name -> what it is worth, or why that is unknown.
    why : why nothing is measured here; "" when it is.
    """

    n: int
    slm: float
    llm: float
    routers: Mapping[str, Worth | str]
    why: str = ""

    def worths(self) -> dict[str, Worth]:
        return {name: found for name, found in self.routers.items() if isinstance(found, Worth)}

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "slm": self.slm if self.n else None,
            "llm": self.llm if self.n else None,
            "why_not": self.why or None,
            "routers": {
                name: {"why_not": found} if isinstance(found, str) else found.to_json()
                for name, found in self.routers.items()
            },
        }


def compare(
    pooled: Group, sets: Mapping[str, Group], ours: str, baselines: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Ours minus each baseline: pooled, on the mean over sets, and in how many sets it is ahead."""
    worths = pooled.worths()
    if ours not in worths:
        return {}
    compared: dict[str, dict[str, Any]] = {}
    for name, other in worths.items():
        if name not in baselines:
            continue
        both = [w for w in (group.worths() for group in sets.values()) if {ours, name} <= w.keys()]
        apart = [difference(w[ours], w[name]) for w in both]
        compared[name] = {
            "pooled": asdict(difference(worths[ours], other)),
            "mean_over_sets": asdict(mean_difference(both, ours, name)) if both else None,
            "ahead": sum(found.value > 0 for found in apart),
            "sets": len(apart),
        }
    return compared


def mean_difference(sets: Sequence[Mapping[str, Worth]], ours: str, other: str) -> Measured:
    """The mean over sets of ours minus another's APGR; each set is resampled on its own."""
    value = float(np.mean([w[ours].apgr.value - w[other].apgr.value for w in sets]))
    drawn = np.mean([w[ours].drawn - w[other].drawn for w in sets], axis=0)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Measured(value, float(low), float(high))
