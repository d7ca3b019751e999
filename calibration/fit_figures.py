"""The figures that a fit measures and its report shows, from scores and P(correct)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.choosing import MIN_PER_CLASS
from calibration.figures import BrierScores, CurvePoint, EceScores, EstimatorQuality, Histogram
from calibration.fit_results import GroupQuality, ReliabilityBin, ScoreHistogram
from calibration.metrics import (
    BoolArray,
    FloatArray,
    auroc,
    bootstrap_ci,
    brier,
    ece,
    ece_under_calibration,
    routing_curve,
)
from calibration.records import Record
from calibration.smooth_ece import smooth_ece, smooth_ece_under_calibration
from calibration.thresholds import ESCALATE_ALL, binomial_interval, candidate_thresholds

_BINS = 10
_CURVE_POINTS = 101


def quality(u: FloatArray, right: BoolArray, n_boot: int, seed: int) -> EstimatorQuality:
    known = ~np.isnan(u)
    u, right = u[known], right[known]
    if min(int(right.sum()), int((~right).sum())) < MIN_PER_CLASS:
        return EstimatorQuality(None, None, len(u))
    interval = bootstrap_ci(auroc, u, right, n_boot=n_boot, seed=seed)
    return EstimatorQuality(auroc(u, right), interval, len(u))


def honesty(
    naive: FloatArray, p: FloatArray, right: BoolArray, n_boot: int, seed: int
) -> tuple[EceScores, BrierScores]:
    told, known = ~np.isnan(naive), ~np.isnan(p)
    naive, naive_right = naive[told], right[told]
    p, right = p[known], right[known]
    any_told = len(naive) > 0
    after = ece(p, right, _BINS)
    expected = ece_under_calibration(p, _BINS, n_sim=n_boot, seed=seed)
    return (
        EceScores(
            before=ece(naive, naive_right, _BINS) if any_told else None,
            after=after,
            after_ci=_ece_interval(after, expected, p, right, n_boot=n_boot, seed=seed),
            expected=expected,
            smooth=smooth_ece(p, right),
            smooth_expected=smooth_ece_under_calibration(p, seed=seed),
        ),
        BrierScores(before=brier(naive, naive_right) if any_told else None, after=brier(p, right)),
    )


def _ece_interval(
    value: float, expected: float, p: FloatArray, right: BoolArray, *, n_boot: int, seed: int
) -> tuple[float, float]:
    """Return [ECE - `expected` - h, ECE + h], not below 0, h half the width of the bootstrap's.

    A resample's ECE is biased upwards twice over, so the bootstrap's own interval often lies wholly
    above the ECE, and in simulations it never held the true one of a calibrated p. This one held
    it in 96 to 100 of 100, at 200 and 860 answers and true ECEs from 0 to 0.16.
    """
    low, high = bootstrap_ci(lambda q, y: ece(q, y, _BINS), p, right, n_boot=n_boot, seed=seed)
    half = (high - low) / 2
    return max(value - expected - half, 0.0), min(value + half, 1.0)


def thinned_curve(p: FloatArray, right: BoolArray) -> tuple[CurvePoint, ...]:
    """The routing curve at those of its points that are nearest to 0%, 1%, 2%... escalated."""
    curve = routing_curve(p, right)
    thresholds = candidate_thresholds(p)  # one for each point of the curve, and ESCALATE_ALL
    wanted = np.linspace(0.0, 1.0, _CURVE_POINTS - 1)
    nearest = np.abs(curve.escalation_ratio[np.newaxis, :] - wanted[:, np.newaxis]).argmin(axis=1)
    points = [
        CurvePoint(
            threshold=float(thresholds[i]),
            escalation_ratio=float(curve.escalation_ratio[i]),
            accuracy_kept=float(curve.accuracy_kept[i]),
            n_kept=int(curve.n_kept[i]),
        )
        for i in np.unique(nearest)
    ]
    return (*points, CurvePoint(ESCALATE_ALL, 1.0, None, 0))


def reference_histogram(u: FloatArray) -> Histogram:
    known = u[~np.isnan(u)]
    edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _BINS + 1)))
    counts = np.histogram(known, edges)[0]
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), len(u) - len(known))


def reliability(confidence: FloatArray, right: BoolArray) -> tuple[ReliabilityBin, ...]:
    known = ~np.isnan(confidence)
    p, outcome = confidence[known], right[known]
    n_below = np.searchsorted(np.sort(p), p, side="left")
    bins = n_below * _BINS // max(len(p), 1)  # the bins of `calibration.metrics.ece`
    out = []
    for b in np.unique(bins):
        inside = bins == b
        n, n_right = int(inside.sum()), int(outcome[inside].sum())
        low, high = binomial_interval(n_right, n)
        out.append(ReliabilityBin(n, float(p[inside].mean()), n_right / n, low, high))
    return tuple(out)


def score_histogram(u: FloatArray, right: BoolArray) -> ScoreHistogram:
    known = ~np.isnan(u)
    top = np.quantile(u[known], 0.99)
    edges = np.linspace(u[known].min(), top if top > u[known].min() else u[known].max(), 31)
    clipped = np.minimum(u[known], edges[-1])
    n_right = np.histogram(clipped[right[known]], edges)[0]
    n_wrong = np.histogram(clipped[~right[known]], edges)[0]
    return ScoreHistogram(tuple(edges.tolist()), tuple(n_right.tolist()), tuple(n_wrong.tolist()))


def groups(
    rows: Sequence[Record], right: BoolArray, p: FloatArray, in_fit: BoolArray, threshold: float
) -> dict[str, GroupQuality]:
    names = np.array([record.family or record.dataset for record in rows])
    out = {}
    for name in np.unique(names):
        inside = names == name
        test = inside & ~in_fit
        kept = test & (p >= threshold)
        out[str(name)] = GroupQuality(
            n=int(inside.sum()),
            accuracy=float(right[inside].mean()),
            n_test=int(test.sum()),
            escalation_ratio=1.0 - float(kept.sum() / test.sum()) if test.any() else None,
            accuracy_kept=float(right[kept].mean()) if kept.any() else None,
        )
    return out
