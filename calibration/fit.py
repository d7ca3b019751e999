"""Labelled answers in, a calibration and its evidence out.

The records are split once, 60 : 40, at random within each data set and family. The *fit part*
chooses the estimator and the calibrator (by cross-validation), fits the calibrator and picks the
threshold of a budget. The *held-out part* is used for nothing but measuring: escalation ratio,
accuracy of what is kept, ECE, Brier score and routing curve are all its figures; and for testing
the thresholds of a risk or a loss, which makes their certificate. Accuracy and the AUROC of the raw
scores involve no fitting and use all records.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.artifact import Calibration
from calibration.binding import Binding, estimator_versions
from calibration.bounds import BOUND_CONFIDENCE
from calibration.choosing import FOLDS, Chooser, require_both_classes
from calibration.errors import FitError, InfeasibleTarget
from calibration.exits import choose_early_stop, choose_gate
from calibration.feedback import Feedback
from calibration.figures import EceScores, Reference
from calibration.fit_figures import (
    groups,
    honesty,
    quality,
    reference_histogram,
    reliability,
    score_histogram,
    thinned_curve,
)
from calibration.fit_results import FitReport
from calibration.learned import Learned
from calibration.metrics import BoolArray, FloatArray, IntArray
from calibration.parts import FitPart, HeldOutPart, Labels
from calibration.records import Key, Record
from calibration.targets import CostModel, Target, Targets, check_targets, join_targets
from calibration.thresholds import OperatingPoint, choose_operating_point
from calibration.trained import Answers, scores_as_served, train
from uq import Trace, get_estimator, score_all

FEW_PER_CLASS = 50
"""With fewer right or wrong answers the report warns."""

USUAL_TARGETS = tuple(
    [Target("risk", value) for value in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)]
    + [Target("escalation", tenth / 10) for tenth in range(1, 10)]
)
"""What the table of operating points holds."""

GATE_PROBE = "p_ik"


@dataclass(frozen=True, slots=True)
class Truth:
    """Who said what is right, and what is known besides of the large model.

    Attributes
    ----------
    labels : ``"gold"`` for known answers, ``"llm"`` for agreement with the large model's.
    labelled_by : the large model's name, where it labelled.
    llm : by data set and item: is the large model's own answer right?
    """

    labels: Labels = "gold"
    labelled_by: str = ""
    llm: Mapping[Key, bool] | None = None

    def outcomes(self, rows: Sequence[Record]) -> FloatArray | None:
        """Return the large model's outcomes on `rows`: 1, 0, NaN = unknown; None without any."""
        if not self.llm:
            return None
        return np.array([float(self.llm.get(row.key, np.nan)) for row in rows])


def fit_calibration(
    records: Sequence[Record],
    *,
    binding: Binding,
    target: Target | Targets,
    holdout: Mapping[str, Any],
    method: str = "auto",
    calibrator: str = "auto",
    confidence: float = BOUND_CONFIDENCE,
    cost: CostModel | None = None,
    truth: Truth = Truth(),
    population: str = "",
    feedback: Feedback | None = None,
    n_layer: int = 0,
    seed: int = 0,
    n_boot: int = 1000,
    created: str | None = None,
) -> tuple[Calibration, FitReport]:
    """Fit score -> P(correct), choose the threshold for `target`, and measure both.

    How a threshold is chosen: see `calibration.thresholds.choose_operating_point`. The result does
    not depend on the order of `records`.

    Parameters
    ----------
    records : sequence of Record
        No (data set, item) twice. A record whose score is NaN is fitted on by nobody and counted as
        escalated.
    binding : Binding
        What the records were made with. The estimators it names are the ones considered.
    target : Target, or several of them
    holdout : mapping
        How the labelled set was made; JSON values, kept in the artifact.
    method : str
        The name of an estimator, registered or learned (see `calibration.trained`), or ``"auto"``:
        the one with the highest `MethodValue.value`.
    calibrator : str
        A kind in `calibration.calibrators.CALIBRATORS`, or ``"auto"``:
        `calibration.calibrators.choose_calibrator`.
    confidence : float
        Of certificates, in (0, 1).
    cost : CostModel, optional
        What an answer costs; needed for the target ``cost``.
    truth : Truth
        Whose labels `Record.correct` are, and the large model's outcomes.
    population : str
        What the records are drawn from, for the certificate: "questions of faq.jsonl".
    feedback : Feedback, optional
        Labelled answers of live traffic, which the calibrator is fitted on beside the fit part.
    n_layer : int
        Layers of the model, by which the founding paper's probe finds its layer.
    seed : int
        Of the split, the folds and the bootstrap.
    n_boot : int
        Bootstrap resamples behind each interval.
    created : str, optional
        Date and time to note in the artifact; now, when not given.

    Raises
    ------
    FitError
        When there are too few records of a class, one twice, an unknown method or calibrator, an
        estimator of another version than `binding` says, or no score that ranks the answers.
    InfeasibleTarget
        When no threshold meets the target.
    CalibrationError
        When the targets make no sense together, or a cost is asked for without prices.
    """
    targets = (target,) if isinstance(target, Target) else tuple(target)
    check_targets(targets)
    rows = _in_fixed_order(records)
    right = np.array([record.correct for record in rows], dtype=np.bool_)
    require_both_classes(right, "records")
    scores = _scores(rows, binding)
    in_fit, fold = _split(rows, seed)

    learned, transferred, scores = _learn(rows, right, in_fit, scores, n_layer=n_layer, seed=seed)
    chooser = Chooser(transferred, scores, learned, right, in_fit, fold, calibrator, seed, feedback)
    decision = chooser.decide(method)
    chosen, band, p = decision.choice, decision.band, decision.p
    right_fit, p_test, right_test = right[in_fit], p[~in_fit], right[~in_fit]

    gate, gated = None, np.zeros(len(rows), dtype=np.bool_)
    if GATE_PROBE in learned.probes:
        gate = choose_gate(GATE_PROBE, scores[GATE_PROBE], right, in_fit)
    if gate is not None:
        gated = np.asarray(scores[GATE_PROBE] > gate.above)
    llm = truth.outcomes(rows)
    population = population or _population(rows)

    def parts(given_up: BoolArray) -> tuple[FitPart, HeldOutPart]:
        p_honest = np.where(given_up[in_fit], np.nan, chosen.p_out_of_fold)
        fit = FitPart(
            keys=tuple(row.key for row, fits in zip(rows, in_fit, strict=True) if fits),
            p_correct=p_honest,
            correct=right_fit,
            llm=None if llm is None else llm[in_fit],
            labels=truth.labels,
            p_served=np.where(given_up, np.nan, p)[in_fit],
        )
        held_out = HeldOutPart(
            keys=tuple(row.key for row, fits in zip(rows, in_fit, strict=True) if not fits),
            p_correct=np.where(given_up, np.nan, p)[~in_fit],
            correct=right_test,
            llm=None if llm is None else llm[~in_fit],
            labels=truth.labels,
            population=population,
        )
        return fit, held_out

    served = parts(gated)
    point = choose_operating_point(targets, *served, confidence=confidence, cost=cost)
    points, unreachable = _usual_points(*parts(np.zeros_like(gated)), confidence)

    p_kept = np.where(in_fit, np.nan, p)
    p_kept[in_fit] = chosen.p_out_of_fold
    early_stop = None
    if point.certificate is None:  # what it breaks off would change what is certified
        traces = [record.trace for record in rows]
        early_stop = choose_early_stop(traces, (p_kept >= point.threshold) & ~gated, in_fit)
    used = {chosen.method, *([band.method] if band else []), *([gate.probe] if gate else [])}
    naive = np.array([naive_confidence(record.trace) for record in rows])[~in_fit]
    qualities = {name: quality(score, right, n_boot, seed) for name, score in scores.items()}
    ece_scores, brier_scores = honesty(naive, p_test, right_test, n_boot, seed)
    uncertainty = scores[decision.first_look]
    n, n_fit, n_unknown = len(rows), int(in_fit.sum()), int(np.isnan(p).sum())
    calibration = Calibration(
        binding=binding,
        method=chosen.method,
        calibrator=chosen.model,
        learned=learned.only(frozenset(used)),
        band=band,
        gate=gate,
        early_stop=early_stop,
        target=join_targets(targets),
        confidence=confidence,
        cost=cost,
        labels=truth.labels,
        labelled_by=truth.labelled_by,
        population=population,
        operating_point=point,
        operating_points=points,
        unreachable=unreachable,
        routing_curve=thinned_curve(p_test, right_test),
        estimators=qualities,
        ece=ece_scores,
        brier=brier_scores,
        n=n,
        n_fit=n_fit,
        n_test=n - n_fit,
        n_unknown=n_unknown,
        accuracy=float(right.mean()),
        accuracy_test=float(right_test.mean()),
        histogram=reference_histogram(uncertainty[in_fit]),
        reference=Reference.of(p_test, uncertainty[~in_fit]),
        holdout=holdout,
        seed=seed,
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
    )
    report = FitReport(
        n=n,
        accuracy=calibration.accuracy,
        estimators=qualities,
        ece=ece_scores,
        brier=brier_scores,
        target=calibration.target,
        threshold=point.threshold,
        escalation_ratio=point.escalation_ratio,
        accuracy_kept=point.accuracy_kept,
        risk_upper=point.risk_upper,
        n_kept=point.n_kept,
        loss=point.loss,
        accuracy_overall=point.accuracy_overall,
        certificate=point.certificate,
        labels=truth.labels,
        labelled_by=truth.labelled_by,
        population=population,
        n_feedback=0 if feedback is None else len(feedback),
        accuracy_test=calibration.accuracy_test,
        method=chosen.method,
        calibrator=chosen.model.kind,
        mean_width=getattr(chosen.model, "mean_width_", None),
        cv_brier=decision.cv_brier,
        methods=decision.methods,
        spending=decision.spending,
        gate=gate,
        early_stop=early_stop,
        n_fit=n_fit,
        n_test=n - n_fit,
        n_unknown=n_unknown,
        groups=groups(rows, right, p, in_fit, point.threshold),
        warnings=(
            *_unheard(method, chosen.method),
            *_warnings(right, n_unknown, ece_scores, chosen.loss(right_fit)),
        ),
        reliability_before=reliability(naive, right_test),
        reliability_after=reliability(p_test, right_test),
        scores=score_histogram(uncertainty, right),
    )
    return calibration, report


def _usual_points(
    fit: FitPart, held_out: HeldOutPart, confidence: float
) -> tuple[tuple[OperatingPoint, ...], tuple[str, ...]]:
    """The points of `USUAL_TARGETS`, and those of them that no threshold meets."""
    points, unreachable = [], []
    for goal in USUAL_TARGETS:
        try:
            points.append(choose_operating_point([goal], fit, held_out, confidence=confidence))
        except InfeasibleTarget:
            unreachable.append(str(goal))
    return tuple(points), tuple(unreachable)


def _population(rows: Sequence[Record]) -> str:
    names = sorted({row.dataset for row in rows})
    return f"the {len(rows)} answered questions of {', '.join(names)}"


def _unheard(asked: str, deciding: str) -> tuple[str, ...]:
    """Says so when the score that was asked for is not the one that decides."""
    if asked in ("auto", deciding):
        return ()
    return (
        f"{asked} was asked for, but on the fit part it adds nothing to {deciding}, which costs "
        "less and decides alone.",
    )


def _warnings(
    right: BoolArray, n_unknown: int, ece_scores: EceScores, cv_brier: float
) -> tuple[str, ...]:
    out = []
    n, rarer = len(right), int(min(right.sum(), (~right).sum()))
    base = float(right.mean() * (1 - right.mean()))
    if rarer < FEW_PER_CLASS:
        out.append(
            f"Only {rarer} answers of the rarer kind (right or wrong): all figures have wide "
            f"intervals. Have at least {FEW_PER_CLASS} of each, better some hundreds."
        )
    if cv_brier >= base:
        out.append(
            "The score predicts unseen answers no better than their share of right ones does "
            f"(cross-validated Brier score {cv_brier:.3f} against {base:.3f}): routing by it is "
            "close to chance."
        )
    if n_unknown > 0.1 * n:
        out.append(f"The score of {n_unknown} of {n} answers is unknown; such always escalate.")
    if ece_scores.after_ci[0] > 0:
        out.append(
            f"P(correct) is off by {ece_scores.after:.3f} on average, more than chance explains: "
            "the two parts differ, or the other calibrator would fit better."
        )
    return tuple(out)


def naive_confidence(trace: Trace) -> float:
    """Return exp(mean log p) of the answer's tokens, in (0, 1]; NaN when it can't be told.

    The usual confidence of those who calibrate nothing, and the "before" of ECE and Brier score.
    """
    return float(np.exp(-get_estimator("perplexity").score(trace)))


def _in_fixed_order(records: Sequence[Record]) -> list[Record]:
    rows = sorted(records, key=lambda record: record.key)
    for before, after in itertools.pairwise(rows):
        if before.key == after.key:
            raise FitError(
                f"item {after.item_id!r} of data set {after.dataset!r} occurs twice; the same "
                "answer in both parts would make the measured figures too good"
            )
    return rows


def _scores(rows: Sequence[Record], binding: Binding) -> dict[str, FloatArray]:
    installed = estimator_versions()
    for name, version in binding.estimators.items():
        if installed.get(name) != version:
            raise FitError(
                f"the records are bound to version {version} of the estimator {name!r}, but "
                f"{'version ' + str(installed[name]) if name in installed else 'none'} is installed"
            )
    if not binding.estimators:
        raise FitError("the binding names no estimators; give it `estimator_versions()`")
    each = [score_all(record.trace, binding.estimators) for record in rows]
    columns = {name: np.array([row[name] for row in each]) for name in binding.estimators}
    return {name: np.where(np.isfinite(u), u, np.nan) for name, u in columns.items()}


def _split(rows: Sequence[Record], seed: int) -> tuple[BoolArray, IntArray]:
    """Return which rows are in the fit part, and a fold for each row of it.

    Rows are dealt out like cards, those of a group in a row, groups and the rows in them in random
    order: every group is spread over the parts as evenly as its size allows. Labels have no say in
    it: what is certified must not depend on what was fitted. Folds are dealt by (correctness,
    group).
    """
    rng = np.random.default_rng(seed)
    group = [(row.dataset, row.family or "") for row in rows]
    names = sorted(set(group))
    rank = dict(zip(names, rng.permutation(len(names)), strict=True))
    shuffled = [int(i) for i in rng.permutation(len(rows))]
    in_fit = np.zeros(len(rows), dtype=np.bool_)
    for place, i in enumerate(sorted(shuffled, key=lambda i: rank[group[i]])):
        in_fit[i] = (place + 1) * 3 // 5 > place * 3 // 5  # three of each five in a row
    fold = np.zeros(len(rows), dtype=np.int64)
    fitted = [i for i in shuffled if in_fit[i]]
    for place, i in enumerate(sorted(fitted, key=lambda i: (rows[i].correct, rank[group[i]]))):
        fold[i] = place % FOLDS
    return in_fit, fold[in_fit]


def _learn(
    rows: Sequence[Record],
    right: BoolArray,
    in_fit: BoolArray,
    scores: Mapping[str, FloatArray],
    *,
    n_layer: int,
    seed: int,
) -> tuple[Learned, dict[str, FloatArray], dict[str, FloatArray]]:
    """Train probes and stacks on the fit part, and add their scores.

    Those of the fit part are once as of kinds of questions not trained on, which tells what
    transfers, and once as they are served, which is what P(correct) is fitted on.
    """
    answers = Answers(
        traces=[record.trace for record in rows],
        wrong=~right,
        scores=scores,
        groups=_kinds(rows),
        n_layer=n_layer,
    )
    fitted_on = answers.take(in_fit)
    learned, honest = train(fitted_on, seed=seed)
    as_served = scores_as_served(learned, honest, fitted_on, seed)
    final = [
        learned.score(rows[i].trace, {name: float(column[i]) for name, column in scores.items()})
        for i in np.flatnonzero(~in_fit).tolist()
    ]
    transferred, served = dict(scores), dict(scores)
    for name in honest:
        for columns, of_fit_part in ((transferred, honest), (served, as_served)):
            column = np.full(len(rows), np.nan)
            column[in_fit] = of_fit_part[name]
            column[~in_fit] = [row[name] for row in final]
            columns[name] = column
    return learned, transferred, served


def _kinds(rows: Sequence[Record]) -> NDArray[np.str_]:
    """What kind of question each is: its data set, or where there are few of them its family."""
    few = len({record.dataset for record in rows}) < 3
    return np.array([record.family or record.dataset if few else record.dataset for record in rows])
