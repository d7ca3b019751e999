"""How often the tests of drift are wrong while nothing drifts, and how soon they see what does.

Delays are counted in answers after the change: of all for `ScoreDrift`, labelled ones for
`CalibrationDrift`. A stream whose alarm came before the change counts as a false alarm, not as a
delay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.live_scores import Answers, Sets, pairs
from calibration.bounds import binomial_interval
from calibration.drift import (
    ALPHA,
    TOLERANCE,
    ScoreDrift,
    log_evidence_of_bins,
    log_evidence_of_labels,
)
from calibration.metrics import BoolArray, FloatArray

ALPHAS = (0.01, 0.05)
REFERENCES = (300, 958)
"""The second is the shipped calibration's."""
HORIZON = 2000
CALM = 500
BATCH = 250
"""Streams simulated together: enough to spare Python's steps, few enough for the cache."""

CLAIMS = (0.5, 0.95)
"""Range of P(correct) in simulated labels, as of answers that were kept."""
DISTANCES = (0.0, 0.2, 0.4, 0.6, 1.01)
GAPS = (0.0, 0.05, 0.1, 0.2, 1.01)
CONSTANT_GAPS = (0.1, 0.15, 0.2, 0.3, 0.5)
MIXED = "all others, mixed"


@dataclass(frozen=True, eq=False)
class Delays:
    """One change, met by several streams.

    Attributes
    ----------
    before, after : data sets.
    size : how far apart they are.
    answers : float array; until the alarm, infinite where there was none within `HORIZON`, not
        above 0 where it came before the change.
    """

    before: str
    after: str
    size: float
    answers: FloatArray


def until_alarm(log_evidence: FloatArray, alpha: float, calm: int = 0) -> FloatArray:
    """Answers from the end of the calm to each stream's alarm; infinite where there is none."""
    reached = log_evidence >= -math.log(alpha)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0 - calm, np.inf)


def kolmogorov(a: FloatArray, b: FloatArray) -> float:
    """Largest difference of two empirical distributions of known scores.

    >>> kolmogorov(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.5
    """
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    at = np.concatenate([a, b])
    return float(np.abs(np.mean(a[:, None] <= at, 0) - np.mean(b[:, None] <= at, 0)).max())


def shares_right(old: Answers, uncertainty: FloatArray) -> FloatArray:
    """P(correct) of new scores: how often `old` answers are right in the third that each falls in.

    A real calibrator would refuse a score that does not rank the set's answers; this one's claims
    are right on the old set all the same, and that is what the test watches.
    """
    known = np.isfinite(old.uncertainty)
    edges = np.quantile(old.uncertainty[known], [1 / 3, 2 / 3])
    third, right = np.digitize(old.uncertainty[known], edges), old.correct[known]
    shares = [(right[third == i].sum() + 1) / ((third == i).sum() + 2) for i in range(3)]
    return np.array(shares)[np.digitize(uncertainty, edges)]


def false_alarms(
    sets: Sets, runs: int, length: int, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Share of streams that ever raise an alarm while nothing drifts; test -> alpha -> share."""
    pool = np.concatenate([answers.uncertainty for answers in sets.values()])
    found = {}
    for n in REFERENCES:
        peaks = [_peak_of_scores(pool, n, k, length, rng) for k in _batches(runs)]
        found[f"scores, {n} reference scores"] = _alarms(np.concatenate(peaks))
    for gap in (0.0, TOLERANCE, -TOLERANCE):
        kind = "too sure" if gap > 0 else "not sure enough"
        name = f"labels, {abs(gap):g} {kind}" if gap else "labels, P(correct) right"
        peaks = [
            log_evidence_of_labels(*simulated(gap, (k, length), rng)).max(1) for k in _batches(runs)
        ]
        found[name] = _alarms(np.concatenate(peaks))
    return found


def simulated(
    gap: float, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[FloatArray, BoolArray]:
    """Claims of P(correct) that are `gap` too sure, and labels."""
    claims = rng.uniform(*CLAIMS, shape)
    return claims, rng.random(shape) < claims - gap


def delays_of_scores(
    sets: Sets, n_reference: int, calm: int, runs: int, rng: np.random.Generator
) -> list[Delays]:
    """Switch from each set, and from all others mixed, to each other one."""
    scores = {name: answers.uncertainty for name, answers in sets.items()}
    changes = [(before, after, scores[before]) for before, after in pairs(sets)]
    for name in sets:
        others = np.concatenate([scores[other] for other in sets if other != name])
        changes.append((MIXED, name, others))
    late = []
    for run in range(runs):
        bins = []
        for i, (_, after, old) in enumerate(changes):
            drift = ScoreDrift(rng.choice(old, n_reference), seed=run * len(changes) + i)
            stream = np.concatenate([rng.choice(old, calm), rng.choice(scores[after], HORIZON)])
            bins.append(drift.bins(stream))
        late.append(until_alarm(log_evidence_of_bins(np.array(bins), drift.gaps), ALPHA, calm))
    return [
        Delays(
            before, after, kolmogorov(old, scores[after]), np.array([of_run[i] for of_run in late])
        )
        for i, (before, after, old) in enumerate(changes)
    ]


def delays_of_labels(sets: Sets, calm: int, runs: int, rng: np.random.Generator) -> list[Delays]:
    """Switch from each set, whose shares of right answers are the claims, to each other one."""
    claims: list[FloatArray] = []
    labels: list[BoolArray] = []
    for before, after in pairs(sets):
        old = sets[before]
        for _ in range(runs):
            p_old, right_old = _claimed(old, old, calm, rng)
            p_new, right_new = _claimed(old, sets[after], HORIZON, rng)
            claims.append(np.concatenate([p_old, p_new]))
            labels.append(np.concatenate([right_old, right_new]))
    evidence = log_evidence_of_labels(np.array(claims), np.array(labels))
    late = until_alarm(evidence, ALPHA, calm).reshape(-1, runs)
    return [
        Delays(before, after, _gap(sets[before], sets[after]), found)
        for (before, after), found in zip(pairs(sets), late, strict=True)
    ]


def delays_of_gaps(runs: int, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Meet claims that are too sure by a constant gap, from the first label on."""
    found = {}
    for gap in CONSTANT_GAPS:
        evidence = log_evidence_of_labels(*simulated(gap, (runs, HORIZON), rng))
        found[f"{gap:g}"] = of_delays(until_alarm(evidence, ALPHA))
    return found


def by_size(found: Sequence[Delays], edges: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Summarise delays by the size of the change; all of them, and the mixed ones, apart."""
    single = [delays for delays in found if delays.before != MIXED]
    rows = {}
    for low, high in itertools.pairwise(edges):
        name = f"{low:g} to {high:g}" if high <= 1.0 else f"{low:g} and more"
        rows[name] = _of_changes([d for d in single if low <= d.size < high])
    rows["all"] = _of_changes(single)
    mixed = [delays for delays in found if delays.before == MIXED]
    if mixed:
        rows[f"from {MIXED}"] = _of_changes(mixed)
    return {name: row for name, row in rows.items() if row["changes"]}


def of_delays(answers: FloatArray) -> dict[str, Any]:
    """Median, 90%, worst (None: beyond the horizon) and share never found; JSON-ready."""
    late = np.sort(answers[answers > 0])
    if not len(late):
        return {"n": 0, "early": len(answers), "never": None, **dict.fromkeys(_QUANTILES)}
    at = {name: late[math.ceil(q * len(late)) - 1] for name, q in _QUANTILES.items()}
    return {
        "n": len(late),
        "early": len(answers) - len(late),
        "never": float(np.isinf(late).mean()),
        **{name: int(value) if np.isfinite(value) else None for name, value in at.items()},
    }


_QUANTILES = {"median": 0.5, "q90": 0.9, "worst": 1.0}


def _of_changes(found: Sequence[Delays]) -> dict[str, Any]:
    answers = np.concatenate([delays.answers for delays in found]) if found else np.array([])
    return {"changes": len(found), **of_delays(answers)}


def _peak_of_scores(
    pool: FloatArray, n_reference: int, runs: int, length: int, rng: np.random.Generator
) -> FloatArray:
    """The highest log evidence of each stream, against a reference of its own."""
    bins = []
    for seed in range(runs):
        scores = rng.choice(pool, n_reference + length)
        drift = ScoreDrift(scores[:n_reference], seed=seed)
        bins.append(drift.bins(scores[n_reference:]))
    peaks: FloatArray = log_evidence_of_bins(np.array(bins), drift.gaps).max(axis=1)
    return peaks


def _alarms(peaks: FloatArray) -> dict[str, Any]:
    shares = {}
    for alpha in ALPHAS:
        n = int((peaks >= -math.log(alpha)).sum())
        low, high = binomial_interval(n, len(peaks))
        shares[f"{alpha:g}"] = {"value": n / len(peaks), "low": low, "high": high}
    return shares


def _batches(runs: int) -> Iterator[int]:
    for start in range(0, runs, BATCH):
        yield min(BATCH, runs - start)


def _claimed(
    old: Answers, answers: Answers, n: int, rng: np.random.Generator
) -> tuple[FloatArray, BoolArray]:
    """What a calibration on `old` claims of `n` answers drawn at random, and whether it is so."""
    rows = rng.choice(np.flatnonzero(np.isfinite(answers.uncertainty)), n)
    return shares_right(old, answers.uncertainty[rows]), answers.correct[rows]


def _gap(old: Answers, new: Answers) -> float:
    known = np.isfinite(new.uncertainty)
    claims = shares_right(old, new.uncertainty[known])
    return float(abs(np.mean(claims - new.correct[known])))
