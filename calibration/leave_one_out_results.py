"""What leaving data sets out has shown: how far thresholds miss on a set they were not set on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from calibration.controlled import Held

PoolChoice = Literal["others", "others+builtin", "builtin"]
"""What thresholds are set on: a hold-out built from the other sets, from these and the built-in
hold-out, or the built-in hold-out alone."""

Kind = Literal["free-form", "multiple choice", "mixed"]

NEAR: Mapping[str, float] = {"all": 0.10, "free-form": 0.05}
"""How near the wanted ratio the achieved one should be, on average: for any set, and for free-form
sets. A threshold that keeps to it carries over."""

HELD = 0.03
"""How near the controller should hold every wanted ratio, on every set."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold does on the set left out.

    Attributes
    ----------
    wanted, achieved : escalation ratios, in [0, 1]; answers of unknown uncertainty are escalated.
    threshold : of the uncertainty; kept is what lies below. It may be infinite.
    accuracy_kept : share of right answers among those kept; None when none is kept.
    accuracy : of all, the large model's recorded outcome standing for what is escalated; over the
        rows that have one, None when there is none.
    """

    wanted: float
    threshold: float
    achieved: float
    accuracy_kept: float | None
    accuracy: float | None

    @property
    def gap(self) -> float:
        """By how much too many (positive) or too few questions are escalated."""
        return self.achieved - self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary ready for strict JSON; an infinite threshold is written as text."""
        threshold = self.threshold if math.isfinite(self.threshold) else str(self.threshold)
        return {**asdict(self), "threshold": threshold}


@dataclass(frozen=True, slots=True)
class Carried:
    """One uncertainty's thresholds, from one pool to one set.

    Attributes
    ----------
    score : the estimator or repair.
    pool, dataset : where the thresholds are from, and the set left out.
    n, n_pool : answers of the set, and of the hold-out.
    options : share of the set's questions that have options.
    points : with the pool's thresholds.
    full : with thresholds set on the set itself, by one who knows it in full: what ties and unknown
        uncertainty leave of the gap, and the accuracy to compare with.
    """

    score: str
    pool: PoolChoice
    dataset: str
    n: int
    n_pool: int
    options: float
    points: tuple[Point, ...]
    full: tuple[Point, ...]

    @property
    def kind(self) -> Kind:
        """What kind of questions the set holds."""
        if self.options in (0.0, 1.0):
            return "multiple choice" if self.options else "free-form"
        return "mixed"

    @property
    def mean_gap(self) -> float:
        """Mean distance of the achieved from the wanted ratio."""
        return float(np.mean([abs(point.gap) for point in self.points]))

    @property
    def worst_gap(self) -> float:
        """Largest distance of the achieved from the wanted ratio."""
        return max(abs(point.gap) for point in self.points)

    @property
    def bias(self) -> float:
        """Mean of achieved minus wanted: positive, the set is less sure than the pool."""
        return float(np.mean([point.gap for point in self.points]))

    @property
    def noise(self) -> float:
        """The mean gap that chance alone shows when set and pool are alike.

        The share of n answers beyond the (1 - R)-quantile of m others of the same distribution has
        variance R (1 - R) (1/n + 1/m), up to terms of higher order, so that its mean absolute
        distance from R is sqrt(2 R (1 - R) (1/n + 1/m) / pi). Averaged over the wanted ratios.
        """
        per_answer = 1.0 / self.n + 1.0 / self.n_pool
        ratios = np.array([point.wanted for point in self.points])
        return float(np.mean(np.sqrt(2.0 * ratios * (1.0 - ratios) * per_answer / math.pi)))

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary ready for strict JSON."""
        return {
            "score": self.score,
            "pool": self.pool,
            "dataset": self.dataset,
            "kind": self.kind,
            "n": self.n,
            "n_pool": self.n_pool,
            "mean_gap": self.mean_gap,
            "worst_gap": self.worst_gap,
            "bias": self.bias,
            "noise": self.noise,
            "points": [point.to_json() for point in self.points],
            "full_knowledge": [point.to_json() for point in self.full],
        }


@dataclass(frozen=True, slots=True)
class Controlled:
    """What the online controller achieved on a set, started from a pool's scores.

    Attributes
    ----------
    score, pool, dataset, kind : as in `Carried`.
    held : for each wanted ratio.
    """

    score: str
    pool: PoolChoice
    dataset: str
    kind: Kind
    held: tuple[Held, ...]

    @property
    def first_gaps(self) -> tuple[float, ...]:
        """Achieved minus wanted over the first queries, while the controller settles."""
        return tuple(one.first - one.wanted for one in self.held)

    @property
    def later_gaps(self) -> tuple[float, ...]:
        """The same over the queries after these."""
        return tuple(one.later - one.wanted for one in self.held)


@dataclass(frozen=True, slots=True)
class Summary:
    """One uncertainty's thresholds from one kind of pool, over all sets or those of one kind.

    Attributes
    ----------
    score, pool : as in `Carried`.
    kind : "all", or the kind of set.
    n_sets : sets that judge it.
    mean_gap, noise : means over these sets, each counting the same.
    worst_gap, worst_set : the largest single gap, and where it is.
    n_near : sets whose mean gap is at most `near`.
    near : the mean gap to stay within, see `NEAR`.
    """

    score: str
    pool: PoolChoice
    kind: str
    n_sets: int
    mean_gap: float
    noise: float
    worst_gap: float
    worst_set: str
    n_near: int
    near: float

    @property
    def carries_over(self) -> bool:
        """Whether the mean gap is as near as it should be."""
        return self.mean_gap <= self.near


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """All that was found by leaving each set out.

    Attributes
    ----------
    carried : by score, pool and set, in the order they were asked for.
    names, repairs : the estimators as they are, and the repairs.
    notes : what could not be judged, a sentence each.
    n_bins, share, binning, seed : how the hold-outs were built.
    controlled : what the controller did, by pool and set; empty when it was not tried.
    """

    carried: tuple[Carried, ...]
    names: tuple[str, ...]
    repairs: tuple[str, ...]
    notes: tuple[str, ...]
    n_bins: int
    share: float
    binning: str
    seed: int
    controlled: tuple[Controlled, ...] = ()

    @property
    def pools(self) -> tuple[PoolChoice, ...]:
        """The choices of pool there are figures for."""
        return tuple(dict.fromkeys(one.pool for one in self.carried))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets there are figures for."""
        return tuple(dict.fromkeys(one.dataset for one in self.carried))

    def find(self, score: str, pool: PoolChoice, dataset: str) -> Carried | None:
        """Return what one score did from one pool on one set; None when it was not judged."""
        wanted = (score, pool, dataset)
        return next((c for c in self.carried if (c.score, c.pool, c.dataset) == wanted), None)

    def summary(self, score: str, pool: PoolChoice, kind: str = "all") -> Summary | None:
        """Sum up over sets of `kind` ("all": any); None when none of them judges it."""
        found = [
            one
            for one in self.carried
            if (one.score, one.pool) == (score, pool) and kind in ("all", one.kind)
        ]
        if not found:
            return None
        worst = max(found, key=lambda one: one.worst_gap)
        near = NEAR.get(kind, NEAR["all"])
        return Summary(
            score=score,
            pool=pool,
            kind=kind,
            n_sets=len(found),
            mean_gap=_mean(one.mean_gap for one in found),
            noise=_mean(one.noise for one in found),
            worst_gap=worst.worst_gap,
            worst_set=worst.dataset,
            n_near=sum(one.mean_gap <= near for one in found),
            near=near,
        )

    def summaries(
        self, kinds: Sequence[str] = ("all", "free-form", "multiple choice")
    ) -> list[Summary]:
        """Sum up every score from every pool, over all sets and over those of each kind."""
        found = [
            self.summary(score, pool, kind)
            for score in (*self.names, *self.repairs)
            for pool in self.pools
            for kind in kinds
        ]
        return [summary for summary in found if summary is not None]

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary ready for strict JSON."""
        return {
            "estimators": list(self.names),
            "repairs": list(self.repairs),
            "holdout": {
                "bins": self.n_bins,
                "share": self.share,
                "binning": self.binning,
                "seed": self.seed,
            },
            "summary": [
                {**asdict(summary), "carries_over": summary.carries_over}
                for summary in self.summaries()
            ],
            "left_out": [one.to_json() for one in self.carried],
            "controlled": [asdict(one) for one in self.controlled],
            "notes": list(self.notes),
        }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
