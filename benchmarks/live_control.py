"""How near the controller holds a ratio that a hold-out of other questions does not, and its price.

Every stream is drawn from a set's answers with replacement. The controller starts from the scores
of all other sets, and the fixed threshold beside it is the quantile of the same scores. Both meet
the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.live_scores import Answers, Sets, pairs, sureness
from calibration.controller import ControllerState, EscalationController
from calibration.metrics import BoolArray, FloatArray
from calibration.thresholds import Target, choose_threshold

RATIOS = tuple(i / 10 for i in range(1, 10))
SPAN = 200
STREAM = 2 * SPAN
BEFORE = 150
"""Queries before a switch: more than the controller's window."""
AFTER = 300

FIRST, LATER = "the first 200 of a set", "its queries 201 to 400"
SWITCHED, SETTLED = "the first 200 after a switch", "queries 101 to 300 after it"
SPANS = (FIRST, LATER, SWITCHED, SETTLED)
WITHIN = 0.03
ROUNDING = 1e-9

MIXED_STREAM = 1000
ALONE, BEST = "each set alone", "the set whose score ranks best"
MIXED, BLOCKS = "all sets mixed", "all sets, 200 queries of each in turn"
IDEAL = "simulated: answers of score p right with probability p"
IDEAL_BLOCKS = "the same with all sets, 200 of each in turn, p the rank of the score"


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the escalated share of a span of queries was from the wanted one.

    Attributes
    ----------
    span : one of `SPANS`.
    dataset, before : the set of these queries, and the one switched from ("" for none).
    ratio : the share wanted.
    controlled, fixed : the gaps, in [0, 1].
    """

    span: str
    dataset: str
    before: str
    ratio: float
    controlled: float
    fixed: float

    @property
    def case(self) -> tuple[str, str, float]:
        """What the draws of a case share."""
        return self.dataset, self.before, self.ratio


@dataclass(frozen=True, eq=False)
class Reference:
    """Scores that a threshold is set on, and whether those answers were right."""

    sure: FloatArray
    correct: BoolArray

    @classmethod
    def without(cls, sets: Sets, *left_out: str) -> Reference:
        """Pool all sets but those left out."""
        sure, names = sureness(sets), [name for name in sets if name not in left_out]
        return cls(
            np.concatenate([sure[name] for name in names]),
            np.concatenate([sets[name].correct for name in names]),
        )

    def threshold(self, ratio: float) -> float:
        """Keep iff the score is at least this: on these answers, `ratio` is escalated."""
        return choose_threshold(Target("escalation", ratio), self.sure, self.correct).threshold


@dataclass
class Caught:
    """Wrong answers among those escalated, run by run.

    Attributes
    ----------
    runs : list of (draw, ratio, wrong, escalated, caught by the controller, by a fixed threshold)
    aurocs : of the answers that streams were drawn from.
    """

    runs: list[tuple[float, ...]] = field(default_factory=list)
    aurocs: list[float] = field(default_factory=list)

    def add(
        self, draw: int, ratio: float, sure: FloatArray, wrong: BoolArray, escalated: BoolArray
    ) -> None:
        """Compare a stream's decisions with a threshold of the same ratio, known in hindsight."""
        n = int(escalated.sum())
        caught = float(wrong[escalated].sum()), wrong_of_least_sure(sure, wrong, n)
        self.runs.append((draw, ratio, float(wrong.sum()), n, *caught))

    def summary(self) -> dict[str, Any]:
        """Shares over all runs, by ratio, and what was lost with a 95% interval over the draws."""
        runs, aurocs = np.array(self.runs), [a for a in self.aurocs if not np.isnan(a)]
        draw, ratio, wrong, escalated, controlled, fixed = runs.T
        lost = np.array(
            [
                (fixed - controlled)[draw == d].sum() / max(wrong[draw == d].sum(), 1.0)
                for d in np.unique(draw)
            ]
        )
        error = 1.96 * lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else 0.0
        by_ratio = {
            f"{r:g}": {
                "controlled": controlled[ratio == r].sum() / escalated[ratio == r].sum(),
                "fixed": fixed[ratio == r].sum() / escalated[ratio == r].sum(),
            }
            for r in np.unique(ratio)
        }
        return {
            "auroc": float(np.mean(aurocs)) if aurocs else None,
            "ratios": by_ratio,
            "controlled": controlled.sum() / escalated.sum(),
            "fixed": fixed.sum() / escalated.sum(),
            "lost": {"value": lost.mean(), "low": lost.mean() - error, "high": lost.mean() + error},
        }


def wrong_of_least_sure(sure: FloatArray, wrong: BoolArray, n: int) -> float:
    """Count the wrong among the `n` least sure answers; of equal scores, what chance would take.

    >>> wrong_of_least_sure(np.array([0.1, 0.5, 0.5, 0.9]), np.array([True, True, False, True]), 2)
    1.5
    """
    if n == 0:
        return 0.0
    rank = np.where(np.isnan(sure), -1.0, sure)
    edge = np.partition(rank, n - 1)[n - 1]
    below, tied = rank < edge, rank == edge
    return float(wrong[below].sum() + (n - below.sum()) * wrong[tied].mean())


def decide(
    controller: EscalationController,
    stream: Iterable[float],
    state: ControllerState | None = None,
) -> tuple[BoolArray, ControllerState]:
    """Tell which queries are escalated, each at a cost of 1, and the state after them."""
    state = state or ControllerState()
    escalated = []
    for sure in stream:
        escalated.append(controller.escalates(state, sure))
        state = controller.after(state, sure, float(escalated[-1]))
    return np.array(escalated, dtype=np.bool_), state


def alone(
    sets: Sets, ratios: Sequence[float], draws: int, rng: np.random.Generator
) -> tuple[list[Gap], dict[str, Caught]]:
    """Stream each set past a controller that knows the others; gaps, and what was caught."""
    sure, gaps = sureness(sets), list[Gap]()
    caught = {name: Caught(aurocs=[answers.auroc]) for name, answers in sets.items()}
    spans = {FIRST: slice(0, SPAN), LATER: slice(SPAN, STREAM)}
    for name, answers in sets.items():
        others = Reference.without(sets, name)
        for ratio in ratios:
            controller, fixed = EscalationController(ratio, others.sure), others.threshold(ratio)
            for draw in range(draws):
                rows = rng.integers(0, len(answers.correct), STREAM)
                stream = sure[name][rows]
                escalated, _ = decide(controller, stream.tolist())
                gaps += _gaps(
                    spans, name, "", ratio, controlled=escalated, fixed=~(stream >= fixed)
                )
                caught[name].add(draw, ratio, stream, ~answers.correct[rows], escalated)
    return gaps, caught


def switches(
    sets: Sets, ratios: Sequence[float], draws: int, rng: np.random.Generator
) -> Iterator[Gap]:
    """Switch from each set to each other, past a controller that knows neither."""
    sure = sureness(sets)
    spans = {SWITCHED: slice(0, SPAN), SETTLED: slice(AFTER - SPAN, AFTER)}
    for before, after in pairs(sets):
        others = Reference.without(sets, before, after)
        for ratio in ratios:
            controller, fixed = EscalationController(ratio, others.sure), others.threshold(ratio)
            for _ in range(draws):
                _, state = decide(controller, rng.choice(sure[before], BEFORE).tolist())
                stream = rng.choice(sure[after], AFTER)
                escalated, _ = decide(controller, stream.tolist(), state)
                yield from _gaps(
                    spans, after, before, ratio, controlled=escalated, fixed=~(stream >= fixed)
                )


def _gaps(
    spans: dict[str, slice],
    dataset: str,
    before: str,
    ratio: float,
    *,
    controlled: BoolArray,
    fixed: BoolArray,
) -> Iterator[Gap]:
    for span, at in spans.items():
        gaps = (abs(float(decisions[at].mean()) - ratio) for decisions in (controlled, fixed))
        yield Gap(span, dataset, before, ratio, *gaps)


def quality(
    sets: Sets,
    of_each: dict[str, Caught],
    ratios: Sequence[float],
    draws: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """What holding a ratio costs: fewer wrong answers among those escalated."""
    every = Caught()
    for caught in of_each.values():
        every.runs += caught.runs
        every.aurocs += caught.aurocs
    best = max(sets, key=lambda name: np.nan_to_num(sets[name].auroc))
    sure, ends = sureness(sets), np.cumsum([0, *(len(a.correct) for a in sets.values())])
    pool = Answers(-np.concatenate(list(sure.values())), Reference.without(sets).correct)

    def mixed() -> NDArray[np.int64]:
        return rng.integers(0, ends[-1], MIXED_STREAM)

    def blocks() -> NDArray[np.int64]:
        order = rng.permutation(len(sets))
        return np.concatenate([rng.integers(ends[i], ends[i + 1], SPAN) for i in order])

    ideal = np.linspace(0.0005, 0.9995, 1000)
    chance = Answers(-ideal, np.zeros(len(ideal), dtype=np.bool_))
    return {
        ALONE: every.summary(),
        f"{BEST}: {best}": of_each[best].summary(),
        MIXED: _stream(pool, mixed, ratios, draws, rng),
        BLOCKS: _stream(pool, blocks, ratios, draws, rng),
        IDEAL: _stream(
            chance,
            lambda: rng.integers(0, len(ideal), MIXED_STREAM),
            ratios,
            draws,
            rng,
            ideal=True,
        ),
        IDEAL_BLOCKS: _stream(pool, blocks, ratios, draws, rng, ideal=True),
    }


def _stream(
    answers: Answers,
    draw_rows: Callable[[], NDArray[np.int64]],
    ratios: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    *,
    ideal: bool = False,
) -> dict[str, Any]:
    """Stream answers past a controller that started from the same ones."""
    caught = Caught(aurocs=[] if ideal else [answers.auroc])
    sure = -answers.uncertainty
    for draw in range(draws):
        rows = draw_rows()
        right = rng.random(len(rows)) < sure[rows] if ideal else answers.correct[rows]
        if ideal:
            caught.aurocs.append(Answers(-sure[rows], right).auroc)
        for ratio in ratios:
            escalated, _ = decide(EscalationController(ratio, sure), sure[rows].tolist())
            caught.add(draw, ratio, sure[rows], ~right, escalated)
    return caught.summary()


def summarise(gaps: Sequence[Gap]) -> dict[str, Any]:
    """Return JSON-ready figures over all runs, by ratio and by set."""
    ratios, sets = sorted({gap.ratio for gap in gaps}), sorted({gap.dataset for gap in gaps})
    return {
        "spans": {span: _of_span(_only(gaps, span=span)) for span in SPANS},
        "ratios": {
            f"{ratio:g}": {
                "bound": EscalationController(ratio, [0.5]).bound(SPAN),
                "spans": {span: _of_span(_only(gaps, span=span, ratio=ratio)) for span in SPANS},
            }
            for ratio in ratios
        },
        "sets": {
            name: {span: _of_span(_only(gaps, span=span, dataset=name)) for span in SPANS}
            for name in sets
        },
    }


def _only(gaps: Iterable[Gap], **wanted: Any) -> list[Gap]:
    return [gap for gap in gaps if all(getattr(gap, k) == v for k, v in wanted.items())]


def _of_span(gaps: Sequence[Gap]) -> dict[str, Any] | None:
    if not gaps:
        return None
    return {
        "runs": len(gaps),
        "controlled": _of_gaps([gap.case for gap in gaps], [gap.controlled for gap in gaps]),
        "fixed": _of_gaps([gap.case for gap in gaps], [gap.fixed for gap in gaps]),
    }


def _of_gaps(cases: Sequence[tuple[str, str, float]], gaps: Sequence[float]) -> dict[str, Any]:
    """Of a case, the worst draw tells whether it is within 3 points."""
    worst: dict[tuple[str, str, float], float] = {}
    for case, gap in zip(cases, gaps, strict=True):
        worst[case] = max(gap, worst.get(case, 0.0))
    return {
        "mean": float(np.mean(gaps)),
        "p99": float(np.quantile(gaps, 0.99)),
        "worst": float(np.max(gaps)),
        "runs_within": float(np.mean(np.array(gaps) <= WITHIN + ROUNDING)),
        "cases": len(worst),
        "cases_within": sum(gap <= WITHIN + ROUNDING for gap in worst.values()),
    }
