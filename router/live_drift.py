"""Watches whether live answers and their labels are still as the calibration was tested on."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from calibration.artifact import Calibration
from calibration.drift import (
    MIN_REFERENCE,
    CalibrationDrift,
    CalibrationDriftState,
    Gap,
    ScoreDrift,
    ScoreDriftState,
)
from calibration.thresholds import ESCALATE_ALL


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Where a test stands.

    Attributes
    ----------
    evidence : 1 = none; by chance alone x or more once in x.
    log10_evidence : the same, of any size.
    alarm : whether the evidence has ever reached 1 / alpha.
    n : scores or labels seen.
    gap : by how much P(correct) was too high on average, with an interval; None without labels.
    """

    evidence: float
    log10_evidence: float
    alarm: bool
    n: int
    gap: Gap | None = None


def score_drift_of(calibration: Calibration, alpha: float) -> ScoreDrift | None:
    """Return the test on uncertainties; None when too few answers were held out for one."""
    reference = calibration.reference
    if reference.n < MIN_REFERENCE:
        return None
    unknown = reference.n - len(reference.uncertainty)
    return ScoreDrift([*reference.uncertainty, *[math.nan] * unknown], alpha=alpha)


def score_report(drift: ScoreDrift, state: ScoreDriftState) -> DriftReport:
    """Return where the test on uncertainties stands."""
    log10 = state.wealth.log / math.log(10.0)
    return DriftReport(drift.evidence(state), log10, drift.alarm(state), state.n)


def label_report(drift: CalibrationDrift, state: CalibrationDriftState) -> DriftReport:
    """Return where the test on audited labels stands."""
    log10 = state.wealth.log / math.log(10.0)
    gap = drift.gap(state) if state.n else None
    return DriftReport(drift.evidence(state), log10, drift.alarm(state), state.n, gap)


def tightened(calibration: Calibration) -> float:
    """Return the threshold that keeps half as many held-out answers as the calibration's own.

    At most half of them: answers of equal p_correct are kept or escalated together.
    """
    p = calibration.reference.p_correct
    n_kept = len(p) - bisect_left(p, calibration.threshold)
    if n_kept < 2:
        return ESCALATE_ALL
    return math.nextafter(p[-1 - n_kept // 2], 2.0)
