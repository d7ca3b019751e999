"""A target for the router -> the threshold on P(correct) that meets it.

The rule everywhere: an answer is kept iff ``p_correct >= threshold``. An unknown p_correct (NaN)
is always escalated, and counted. Decisions rest on p_correct alone, so answers that a calibrator
gave the same p_correct (isotonic ones tie many) are kept or escalated together.

`choose_operating_point` is the whole: any targets, chosen on the fit part, a risk or a loss
certified on the held-out part, all figures measured there. `choose_threshold` only measures: what
it finds is no guarantee for answers to come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import SerializerFunctionWrapHandler, model_serializer

from calibration.bounds import BOUND_CONFIDENCE, MIN_KEPT, binomial_interval, risk_upper_bound
from calibration.certificates import CertificateField
from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from calibration.limits import budget_of, meet_qualities
from calibration.metrics import BoolArray, FloatArray
from calibration.parts import (
    ESCALATE_ALL,
    FitPart,
    HeldOutPart,
    candidate_thresholds,
    checked,
    checked_llm,
    counts_kept,
)
from calibration.targets import (
    BUDGETS,
    CostModel,
    Target,
    TargetKind,
    Targets,
    check_targets,
    join_targets,
    parse_targets,
)

__all__ = [
    "BOUND_CONFIDENCE",
    "ESCALATE_ALL",
    "MIN_KEPT",
    "CostModel",
    "OperatingPoint",
    "Target",
    "TargetKind",
    "Targets",
    "binomial_interval",
    "candidate_thresholds",
    "choose_operating_point",
    "choose_threshold",
    "measure",
    "parse_targets",
    "risk_upper_bound",
]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and what it did on a set of labelled answers.

    Attributes
    ----------
    target : what it was chosen for, as `parse_targets` reads it.
    threshold : keep iff p_correct >= threshold; in [0, 1], or `ESCALATE_ALL`.
    escalation_ratio : share of all `n` answers not kept, those of unknown p_correct included.
    accuracy_kept : measured share of right answers among those kept; None when none was kept.
    risk_upper : exact one-sided 95% binomial (Clopper-Pearson) upper bound on the error among kept
        answers, for a threshold fixed before these answers were looked at; None when none was kept.
        A reported figure, not a certificate: it is optimistic for a threshold chosen on the same
        answers, and says nothing about queries of another kind.
    n_kept, n : answers kept, and answers in all.
    certificate : what is certain of this threshold; None when nothing is. Where there is one, the
        same answers have picked the threshold among those tested, and the measured figures are
        slightly optimistic; the certificate's own bounds are not.
    loss : measured share of answers on which a wrong one is kept though the large model's is right;
        None where none of its outcomes is known.
    accuracy_overall : measured share of right answers, kept ones and the large model's for the
        others; None as for `loss`. Both are shares of the answers of known outcome.
    """

    target: str
    threshold: float
    escalation_ratio: float
    accuracy_kept: float | None
    risk_upper: float | None
    n_kept: int
    n: int
    certificate: CertificateField = None
    loss: float | None = None
    accuracy_overall: float | None = None

    @model_serializer(mode="wrap")
    def _leave_out_unmeasured(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As files were before these two were measured, so that those keep their hash."""
        fields: dict[str, Any] = serialise(self)
        for name in ("loss", "accuracy_overall"):
            if fields[name] is None:
                del fields[name]
        return fields


def choose_operating_point(
    targets: Sequence[Target],
    fit: FitPart,
    held_out: HeldOutPart,
    *,
    confidence: float = BOUND_CONFIDENCE,
    cost: CostModel | None = None,
) -> OperatingPoint:
    """Return a threshold that meets all `targets`, with what it does on the held-out part.

    - ``escalation`` and ``cost`` are budgets. A single escalation ratio is met as nearly as ties
      allow (see `choose_threshold`), other budgets are used in full but not exceeded. Beside one of
      the qualities below they are limits. They are set on the fit part's `p_served`, which takes no
      labels.
    - ``risk`` and ``loss`` come with a certificate: `calibration.certificates.certify`, on a grid
      that the fit part sets and the held-out part tests.
    - ``accuracy`` is met on the fit part, out of fold, and measured on the held-out part. It has no
      certificate.
    - ``savings`` changes nothing: qualities are always met by escalating as little as they allow.
    - ``threshold`` is taken as given.

    Parameters
    ----------
    targets : sequence of Target
        As `check_targets` allows them together.
    fit, held_out : FitPart, HeldOutPart
        No row in both, where something is to be certified.
    confidence : float
        Of the certificate, in (0, 1).
    cost : CostModel, optional
        Needed for a cost.

    Returns
    -------
    OperatingPoint
        All its figures are those of the held-out part.

    Raises
    ------
    InfeasibleTarget
        When no threshold meets them all; the message says what is feasible, or which two contradict
        and by how much.
    CalibrationError
        When the targets make no sense together, or a cost is asked for without prices.
    FitError
        When something was not recorded that a target needs, or a part is not of its type.
    """
    check_targets(targets)
    if not isinstance(fit, FitPart) or not isinstance(held_out, HeldOutPart):
        raise FitError(
            f"expected a FitPart and a HeldOutPart, not a {type(fit).__name__} and a "
            f"{type(held_out).__name__}"
        )
    certificate = None
    kinds = [target.kind for target in targets]
    if kinds == ["threshold"]:
        threshold = targets[0].value
    elif kinds == ["escalation"]:
        threshold = _nearest_ratio(targets[0].value, fit.p_served)
    else:
        budgets = [budget_of(target, fit, cost) for target in targets if target.kind in BUDGETS]
        if set(kinds) <= set(BUDGETS):
            threshold = min(budget.threshold for budget in budgets)
        else:
            threshold, certificate = meet_qualities(targets, budgets, fit, held_out, confidence)
    point = measure(
        join_targets(targets), threshold, held_out.p_correct, held_out.correct, held_out.llm
    )
    return replace(point, certificate=certificate)


def choose_threshold(
    target: Target, p_correct: ArrayLike, correct: ArrayLike, *, min_kept: int = MIN_KEPT
) -> OperatingPoint:
    """Return the threshold that meets `target` on these answers, with what it measures on them.

    The candidates are 0 (keep all that is known), the middle of every gap between neighbouring
    distinct values of `p_correct`, and `ESCALATE_ALL`; any other threshold keeps the same answers
    as one of these.

    - ``escalation``: the candidate whose escalation ratio is nearest to the target; of two equally
      near, the one that escalates more. Tied p_correct move together, so the ratio can miss the
      target by up to half the largest tied group; it can't go below the share of unknown p_correct.
    - ``risk``: the lowest candidate, hence the one that keeps most, that keeps at least `min_kept`
      answers of which a share of at most the target is wrong. That share is measured on the very
      answers that the choice was made on; measure again elsewhere for an honest figure.
    - ``threshold``: the value as given.

    Parameters
    ----------
    target : Target
    p_correct : array-like of shape (n,)
        In [0, 1]; NaN = unknown.
    correct : array-like of shape (n,)
        Whether each answer is right (bool or 0/1).
    min_kept : int
        Fewest kept answers on which a risk may be judged.

    Raises
    ------
    InfeasibleTarget
        When no threshold reaches the risk asked for; the message says what can be reached.
    FitError
        When the arrays are empty, of different lengths, or hold impossible values.
    CalibrationError
        When the target is of another kind: those need `choose_operating_point`.
    """
    p, right = checked(p_correct, correct)
    if target.kind == "threshold":
        threshold = target.value
    elif target.kind == "escalation":
        threshold = _nearest_ratio(target.value, p)
    elif target.kind == "risk":
        threshold = _lowest_at_risk(target.value, p, right, min_kept)
    else:
        raise CalibrationError(
            f"{target} can't be chosen on these answers alone; `choose_operating_point` can"
        )
    return measure(str(target), threshold, p, right)


def measure(
    target: str,
    threshold: float,
    p_correct: ArrayLike,
    correct: ArrayLike,
    llm: ArrayLike | None = None,
) -> OperatingPoint:
    """Return what `threshold` does on these answers.

    Parameters
    ----------
    target : str
        What to note as the target.
    threshold : float
    p_correct, correct : array-like of shape (n,)
        As in `choose_threshold`.
    llm : array-like of shape (n,), optional
        Whether the large model is right on the same questions: 1, 0, or NaN for not recorded.

    Raises
    ------
    FitError
        When the arrays are empty, of different lengths, or hold impossible values.
    """
    p, right = checked(p_correct, correct)
    kept = p >= threshold  # NaN compares false: unknown is never kept
    n, n_kept = len(p), int(kept.sum())
    n_wrong = int((kept & ~right).sum())
    loss, accuracy = None, None
    outcome = np.full(n, np.nan) if llm is None else checked_llm(llm, n)
    known = ~np.isnan(outcome)
    if known.any():
        loss = float(np.mean((kept & ~right & (outcome == 1.0))[known]))
        accuracy = float(np.mean(np.where(kept, right, outcome)[known]))
    return OperatingPoint(
        target=target,
        threshold=float(threshold),
        escalation_ratio=(n - n_kept) / n,
        accuracy_kept=(n_kept - n_wrong) / n_kept if n_kept else None,
        risk_upper=risk_upper_bound(n_wrong, n_kept) if n_kept else None,
        n_kept=n_kept,
        n=n,
        loss=loss,
        accuracy_overall=accuracy,
    )


def _nearest_ratio(ratio: float, p: FloatArray) -> float:
    thresholds = candidate_thresholds(p)
    distance = np.abs(1.0 - counts_kept(thresholds, p) / len(p) - ratio)
    nearest = np.flatnonzero(distance <= distance.min() + 1e-12)
    return float(thresholds[nearest[-1]])


def _lowest_at_risk(risk: float, p: FloatArray, right: BoolArray, min_kept: int) -> float:
    thresholds = candidate_thresholds(p)
    kept = counts_kept(thresholds, p)
    wrong = counts_kept(thresholds, p[~right])
    enough = kept >= max(min_kept, 1)
    meets = enough & (wrong <= risk * kept + 1e-9)
    if meets.any():
        return float(thresholds[np.argmax(meets)])
    n, n_known = len(p), int(kept[0])
    if not enough.any():
        raise InfeasibleTarget(
            f"risk={risk!r} can't be judged: {n_known} of {n} answers have a known p_correct, and "
            f"at least {min_kept} must be kept to measure an error; use more records, or a target "
            "escalation=R or threshold=R"
        )
    measured = np.where(enough, wrong / np.maximum(kept, 1), np.inf)
    best = int(np.argmin(measured))
    raise InfeasibleTarget(
        f"no threshold that keeps at least {min_kept} of these {n} answers has a measured error "
        f"of at most {risk!r}; the lowest there is, {measured[best]:.3f}, is that of threshold "
        f"{thresholds[best]:.3f}, which keeps {kept[best]} ({kept[best] / n:.0%}). Ask for "
        f"risk={math.ceil(measured[best] * 1000) / 1000} or more, or for an escalation=R"
    )
