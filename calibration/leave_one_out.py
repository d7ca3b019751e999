"""Does a threshold carry over to a set of questions that no one has seen?

The founding paper's experiment (Chuang et al., arXiv:2502.04428, section 4). Each data set is left
out in turn; from the others a hold-out is built; on it, thresholds are set for the shares of
questions that one wants to escalate; on the set left out they escalate what they escalate. That
needs no labels: a threshold for an escalation ratio is a quantile of uncertainty.

What is measured says nothing of a further set: sets are not drawn at random from one population,
and leaving one out gives no guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from calibration.controlled import hold_ratios
from calibration.errors import FitError
from calibration.evaluated_rows import EvaluatedRow, Trainer, pick_upstream
from calibration.folds import stratified_folds
from calibration.holdout import N_BINS, SHARE, Binning, build_holdout
from calibration.leave_one_out_results import Carried, Controlled, LeaveOneOut, Point, PoolChoice
from calibration.metrics import BoolArray, FloatArray

WANTED = tuple(tenths / 10 for tenths in range(1, 10))
"""Escalation ratios that thresholds are set for."""

MIN_KNOWN = 0.5
"""Share of a set's answers whose uncertainty must be known for the set to be judged."""

_FOLDS = 5


class FittedRepair(Protocol):
    """A repaired uncertainty, fitted on the rows of a hold-out."""

    @property
    def pool(self) -> FloatArray:
        """Of the rows it was fitted on, in their order, shape (n,); NaN = unknown.

        Thresholds are quantiles of these, so they must be what a row not seen would get: out of
        fold, where fitting on a row changes its score.
        """

    def scores(self, rows: Sequence[EvaluatedRow]) -> FloatArray:
        """Of rows of a set it has not seen, shape (n,); higher = less sure, NaN = unknown."""


Repair = Callable[[Sequence[EvaluatedRow]], FittedRepair]
"""Fits a repair to a hold-out's rows, which hold none of the set left out. A FitError means that
these rows can't be learned from."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A `FittedRepair` that scores row by row."""

    pool: FloatArray
    of_row: Callable[[EvaluatedRow], float]

    def scores(self, rows: Sequence[EvaluatedRow]) -> FloatArray:
        """Return the uncertainty of `rows`."""
        return np.array([self.of_row(row) for row in rows], dtype=np.float64)


def as_it_is(name: str) -> Repair:
    """No repair: the estimator called `name`, unknown in rows without a score of it."""

    def of_row(row: EvaluatedRow) -> float:
        return row.scores.get(name, math.nan)

    return lambda rows: Fitted(np.array([of_row(row) for row in rows]), of_row)


def out_of_fold(trainer: Trainer, *, seed: int = 0) -> Repair:
    """Make a repair of what fits an estimator.

    The rows' own scores come of fits without their data set, as the set left out is scored; with a
    single data set, of five folds. They are unknown where the rest can't be learned from.
    """

    def fit(rows: Sequence[EvaluatedRow]) -> Fitted:
        of_row = trainer(rows)
        sets = np.array([row.dataset for row in rows])
        if len(np.unique(sets)) > 1:
            _, folds = np.unique(sets, return_inverse=True)
        else:
            folds = stratified_folds([row.correct for row in rows], _FOLDS, seed)
        pool = np.full(len(rows), np.nan)
        for fold in np.unique(folds):
            rest = [row for row, own in zip(rows, folds, strict=True) if own != fold]
            try:
                without = trainer(rest)
            except FitError:  # too few of the others, or of one class
                continue
            for i in np.flatnonzero(folds == fold).tolist():
                pool[i] = without(rows[i])
        return Fitted(pool, of_row)

    return fit


def escalation_threshold(uncertainty: ArrayLike, ratio: float) -> float:
    """Return the threshold that escalates `ratio` of these answers, or as nearly as ties allow.

    The rule is: an answer is kept iff its uncertainty is below the threshold; NaN is escalated,
    and so is inf. The threshold lies in the middle of a gap between neighbouring values, or is
    -inf (keep none) or inf. Of two equally near the one that escalates more is taken.

    Parameters
    ----------
    uncertainty : array-like of shape (n,), n > 0
    ratio : in [0, 1].
    """
    values = np.asarray(uncertainty, dtype=np.float64)
    known = np.sort(values[values < math.inf])
    distinct = np.unique(known)
    finite = np.maximum(distinct, -np.finfo(np.float64).max)
    middle = np.maximum(finite[:-1] + (finite[1:] - finite[:-1]) / 2, finite[:-1])
    middle = np.where(middle > finite[:-1], middle, finite[1:])  # nothing lies between
    thresholds = np.concatenate([[-math.inf], middle, [math.inf] if len(known) else []])
    kept = np.searchsorted(known, thresholds, side="left")
    distance = np.abs(1.0 - kept / len(values) - ratio)
    return float(thresholds[np.flatnonzero(distance <= distance.min() + 1e-12)[0]])


def leave_one_out(
    rows: Sequence[EvaluatedRow],
    names: Sequence[str],
    *,
    builtin: Sequence[EvaluatedRow] = (),
    repairs: Mapping[str, Repair] | None = None,
    control: str = "",
    n_bins: int = N_BINS,
    share: float = SHARE,
    binning: Binning = "width",
    upstream: str = "",
    seed: int = 0,
) -> LeaveOneOut:
    """Set thresholds without a data set, use them on it; for each set, pool, and uncertainty.

    Parameters
    ----------
    rows : graded and scored answers of several data sets.
    names : estimators, taken as they are. The first also decides, by its bins, which rows of a pool
        are the hold-out that repairs are fitted on.
    builtin : rows of the built-in hold-out, which is never left out. It serves as a pool of its own
        in full, and as one more data set beside the others.
    repairs : further uncertainties, by name, to be shown beside those.
    control : which of all these the online controller is tried on as well; "" for none.
    n_bins, share, binning : of `calibration.holdout.build_holdout`. With a `share` of 1 the whole
        pool is the hold-out.
    upstream : whose recorded outcomes stand for the large model, see `pick_upstream`.
    seed : of the hold-outs.

    Raises
    ------
    FitError
        There is no estimator or name twice, or no pool: one data set alone and no built-in rows.
    DataError
        `upstream` names no recorded model, or several.
    """
    repairs = repairs or {}
    _check_names(names, repairs)
    groups: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        groups.setdefault(row.dataset, []).append(row)
    pools = _pools(groups, has_builtin=bool(builtin))
    large = pick_upstream(groups, upstream)

    def hold_out(pool: Sequence[EvaluatedRow], name: str) -> list[EvaluatedRow]:
        chosen = build_holdout(
            [row.scores.get(name, math.nan) for row in pool],
            [row.dataset for row in pool],
            ids=["" if row.record is None else row.record.item_id for row in pool],
            n_bins=n_bins,
            share=share,
            seed=seed,
            binning=binning,
        )
        return [pool[i] for i in chosen]

    carried: list[Carried] = []
    controlled: list[Controlled] = []
    notes: list[str] = []
    for name, repair in {**{name: as_it_is(name) for name in names}, **repairs}.items():
        binned_by = name if name in names else names[0]
        alone = _fit(repair, builtin) if "builtin" in pools else ""
        for choice in pools:
            for dataset, group in groups.items():
                fitted = alone
                if choice != "builtin":
                    pool = [row for row in rows if row.dataset != dataset]
                    pool += builtin if choice == "others+builtin" else ()
                    fitted = _fit(repair, hold_out(pool, binned_by))
                found = _carry(fitted, group, name, choice, large.get(dataset, ""))
                if isinstance(found, str) or isinstance(fitted, str):
                    notes.append(f"{name} from {choice} to {dataset}: {found}")
                    continue
                carried.append(found)
                if name == control:
                    held = hold_ratios(fitted.pool, fitted.scores(group), WANTED, seed=seed)
                    controlled.append(Controlled(name, choice, dataset, found.kind, held))
    return LeaveOneOut(
        tuple(carried),
        tuple(names),
        tuple(repairs),
        tuple(notes),
        n_bins,
        share,
        binning,
        seed,
        tuple(controlled),
    )


def _check_names(names: Sequence[str], repairs: Mapping[str, Repair]) -> None:
    every = [*names, *repairs]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise FitError(f"{', '.join(twice)}: the name is given twice; rename the repair")
    if not names:
        raise FitError("there is no estimator to set thresholds on; name one at least")


def _pools(groups: Mapping[str, object], *, has_builtin: bool) -> tuple[PoolChoice, ...]:
    if not groups:
        raise FitError("there are no answers to carry a threshold to")
    pools: tuple[PoolChoice, ...] = ("others",) if len(groups) > 1 else ()
    if has_builtin:
        pools += ("others+builtin", "builtin") if pools else ("builtin",)
    if not pools:
        raise FitError(
            f"{next(iter(groups))} is the only data set: nothing is left to set a threshold on; "
            "name another set, or add the built-in hold-out"
        )
    return pools


def _fit(repair: Repair, rows: Sequence[EvaluatedRow]) -> FittedRepair | str:
    """Fit `repair`; or say why it can't be used."""
    try:
        fitted = repair(rows)
    except FitError as error:
        return str(error)
    if len(fitted.pool) != len(rows):
        raise ValueError(f"the repair gives {len(fitted.pool)} scores for {len(rows)} rows")
    return _unless_unknown(fitted.pool, "of the hold-out") or fitted


def _unless_unknown(uncertainty: FloatArray, where: str) -> str:
    n_known = int((~np.isnan(uncertainty)).sum())
    if n_known and n_known >= MIN_KNOWN * len(uncertainty):
        return ""
    return f"known for {n_known} of {len(uncertainty)} answers {where}"


def _carry(
    fitted: FittedRepair | str,
    group: Sequence[EvaluatedRow],
    name: str,
    pool: PoolChoice,
    large: str,
) -> Carried | str:
    """Use the thresholds of `fitted` on the rows of one set; or say why it can't be judged."""
    if isinstance(fitted, str):
        return fitted
    own = fitted.scores(group)
    why = _unless_unknown(own, "of the set")
    if why:
        return why
    right = np.array([row.correct for row in group])
    outcome = np.array([float(row.llm[large]) if large in row.llm else math.nan for row in group])

    def points(of: FloatArray) -> tuple[Point, ...]:
        return tuple(
            _point(ratio, escalation_threshold(of, ratio), own, right, outcome) for ratio in WANTED
        )

    return Carried(
        score=name,
        pool=pool,
        dataset=group[0].dataset,
        n=len(group),
        n_pool=len(fitted.pool),
        options=float(np.mean([row.n_choices > 0 for row in group])),
        points=points(fitted.pool),
        full=points(own),
    )


def _point(
    wanted: float, threshold: float, own: FloatArray, right: BoolArray, large: FloatArray
) -> Point:
    kept = own < threshold
    asked = np.isfinite(large)
    routed = np.where(kept, right, large)[asked]
    return Point(
        wanted=wanted,
        threshold=threshold,
        achieved=float(1.0 - kept.mean()),
        accuracy_kept=float(right[kept].mean()) if kept.any() else None,
        accuracy=float(routed.mean()) if len(routed) else None,
    )
