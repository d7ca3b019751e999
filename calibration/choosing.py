"""Which score decides, and what turns it into P(correct): chosen on the fit part.

What a score is worth is the alignment above chance that a unit of compute buys. A costly score that
wins is asked for only where the best cheap one leaves doubt (`calibration.band`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.band import Band, combine
from calibration.calibrators import CALIBRATORS, Calibrator, choose_calibrator
from calibration.errors import FitError
from calibration.feedback import Feedback
from calibration.fit_results import CostedQuality, MethodValue, Spending
from calibration.learned import CHEAP_SIGNALS, Learned
from calibration.metrics import BoolArray, FloatArray, IntArray, auroc, brier
from calibration.spending import adaptive_curve
from calibration.trained import BASELINES
from uq.estimator import extra_cost

MIN_PER_CLASS = 20
"""Fewest right and fewest wrong answers to work with: 12 of each to fit, 8 to measure. The figures
then have wide intervals; some hundreds of each make a calibration to rely on."""

FOLDS = 5

_FAR = 1e300
"""Stands for no limit, where JSON has no infinity."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A score and its calibrator.

    Attributes
    ----------
    method : the estimator.
    model : its score -> P(correct), fitted on the fit part.
    p_out_of_fold : float array of shape (fit part,)
        P(correct) there, each by a calibrator that did not see the answer; NaN = unknown.
    """

    method: str
    model: Calibrator
    p_out_of_fold: FloatArray

    def loss(self, right: BoolArray) -> float:
        """Brier score of `p_out_of_fold`; an unknown answer gets the share of right ones."""
        p = self.p_out_of_fold
        return brier(np.where(np.isnan(p), right.mean(), p), right)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was chosen to decide by.

    Attributes
    ----------
    choice : the score; in a band its `p_out_of_fold` is that of the band.
    band : where a cheaper score decides alone; None for nowhere.
    p : float array of shape (n,)
        P(correct) of all answers; NaN = unknown.
    cv_brier, methods, spending : see `calibration.fit_results.FitReport`.
    """

    choice: Choice
    band: Band | None
    p: FloatArray
    cv_brier: Mapping[str, float]
    methods: Mapping[str, MethodValue]
    spending: Spending | None

    @property
    def first_look(self) -> str:
        """The score that is read for every answer."""
        return self.choice.method if self.band is None else self.band.method


@dataclass(frozen=True, slots=True, eq=False)
class _CloserLook:
    band: Band | None
    p: FloatArray
    p_out_of_fold: FloatArray
    spending: Spending


@dataclass(frozen=True, slots=True, eq=False)
class Chooser:
    """Chooses among the scores of `n` graded answers.

    Attributes
    ----------
    transferred : by estimator, float arrays of shape (n,), NaN = unknown. In the fit part, a
        learned estimator's are as of kinds of questions it was not trained on: they tell what a
        score is worth.
    scores : the same as they will be served for these kinds, out of fold in the fit part: what
        calibrators and bands are fitted on.
    learned : what tells which signals a score reads.
    right, in_fit : bool arrays of shape (n,).
    fold : int array of shape (fit part,), in [0, `FOLDS`).
    kind : of calibrator, or ``"auto"``.
    seed : draws the halves on which a band is chosen.
    feedback : answers of live traffic that calibrators are fitted on as well.
    """

    transferred: Mapping[str, FloatArray]
    scores: Mapping[str, FloatArray]
    learned: Learned
    right: BoolArray
    in_fit: BoolArray
    fold: IntArray
    kind: str
    seed: int
    feedback: Feedback | None = None

    def __post_init__(self) -> None:
        if self.kind != "auto" and self.kind not in CALIBRATORS:
            raise FitError(
                f"unknown calibrator {self.kind!r}; there are auto, {', '.join(CALIBRATORS)}"
            )

    def decide(self, method: str) -> Decision:
        """Choose what decides: the score called `method`, or the best with ``"auto"``.

        A costly score is only read where the best cheap one leaves doubt; where that is nowhere,
        the cheap one decides.

        Raises
        ------
        FitError
            When there is no such score, or none that ranks the answers.
        """
        chosen, losses = self._best(self._candidates(method))
        methods = {name: self._value(name) for name in losses}
        look = None
        if self._is_cheap(chosen.method):
            costly = self._everything()
            if costly is not None:
                look = self._look_closer(chosen, costly)
            spending = look.spending if look is not None else None
            return Decision(chosen, None, self._p_correct(chosen), losses, methods, spending)
        cheap = self._best_cheap()
        if cheap is not None:
            look = self._look_closer(cheap, chosen)
        if cheap is None or look is None:
            return Decision(chosen, None, self._p_correct(chosen), losses, methods, None)
        if look.band is None:
            return Decision(cheap, None, self._p_correct(cheap), losses, methods, look.spending)
        mixed = Choice(chosen.method, chosen.model, look.p_out_of_fold)
        return Decision(mixed, look.band, look.p, losses, methods, look.spending)

    def _cost(self, name: str) -> float:
        return extra_cost(self.learned.needs(name))

    def _is_cheap(self, name: str) -> bool:
        return self.learned.needs(name) <= CHEAP_SIGNALS

    def _candidates(self, method: str) -> list[str]:
        if method == "auto":
            return [name for name in self.scores if name not in BASELINES]
        if method not in self.scores:
            raise FitError(
                f"unknown method {method!r}; there are auto, {', '.join(sorted(self.scores))}"
            )
        return [method]

    def _best(self, names: Sequence[str]) -> tuple[Choice, dict[str, float]]:
        """The one of highest value; and the loss of each that could be fitted."""
        best: Choice | None = None
        best_value = -math.inf
        losses: dict[str, float] = {}
        refusals: list[str] = []
        for name in names:
            try:
                choice = self._fit(name)
            except FitError as error:
                refusals.append(f"{name}: {error}")
                continue
            losses[name] = choice.loss(self.right[self.in_fit])
            value = self._value(name).value
            if value > best_value:
                best, best_value = choice, value
        if best is None:
            raise FitError("nothing could be fitted. " + ". ".join(refusals))
        return best, losses

    def _best_cheap(self) -> Choice | None:
        """The best of the cheap scores; None when none of them ranks."""
        try:
            return self._best([n for n in self._candidates("auto") if self._is_cheap(n)])[0]
        except FitError:
            return None

    def _everything(self) -> Choice | None:
        """The costly score that aligns best; None when there is none that ranks."""
        costly: list[tuple[float, str, Choice]] = []
        for name in self._candidates("auto"):
            if self._is_cheap(name):
                continue
            try:
                costly.append((self._value(name).auroc, name, self._fit(name)))
            except FitError:
                continue
        return max(costly, key=lambda entry: entry[:2])[2] if costly else None

    def _value(self, name: str) -> MethodValue:
        """What speaks for a score; an unknown one ranks last, as it does when the router decides.

        Raises FitError when no score of the fit part is known.
        """
        u, right = self.transferred[name][self.in_fit], self.right[self.in_fit]
        cost = self._cost(name)
        if np.isnan(u).all():
            raise FitError("no score of the fit part is known")
        alignment = auroc(np.where(np.isnan(u), np.nanmax(u) + 1.0, u), right)
        return MethodValue(alignment, cost, (alignment - 0.5) / (1.0 + cost))

    def _fit(self, name: str) -> Choice:
        known = ~np.isnan(self.scores[name])
        require_both_classes(self.right[known], "records of known score")
        u, right = self.scores[name][self.in_fit], self.right[self.in_fit]
        known = known[self.in_fit]
        kind = self.kind
        if kind == "auto":
            kind = choose_calibrator(u[known], right[known], self.seed)
        model = self._calibrator(kind, name, u[known], right[known])
        p = np.full(len(u), np.nan)
        for k in range(FOLDS):
            train, held_out = known & (self.fold != k), known & (self.fold == k)
            try:
                p[held_out] = self._calibrator(kind, name, u[train], right[train]).predict(
                    u[held_out]
                )
            except FitError:  # it does not rank without this fold: no better than the base rate
                p[held_out] = right[train].mean()
        return Choice(name, model, p)

    def _calibrator(self, kind: str, name: str, u: FloatArray, right: BoolArray) -> Calibrator:
        """Fit to the answers given and, where there is any, to feedback."""
        if self.feedback is None:
            return CALIBRATORS[kind]().fit(u, right)
        live_u, live_right, weight = self.feedback.known(name)
        return CALIBRATORS[kind]().fit(
            np.concatenate([u, live_u]),
            np.concatenate([right, live_right]),
            np.concatenate([np.ones(len(u)), weight]),
        )

    def _p_correct(self, choice: Choice) -> FloatArray:
        return choice.model.predict(self.scores[choice.method])

    def _look_closer(self, cheap: Choice, costly: Choice) -> _CloserLook | None:
        """Ask for the costly score only where the cheap one leaves doubt.

        None when too few answers are known by both scores, or one ranks too little, to tell where.
        """
        u, u_costly = self.scores[cheap.method], self.scores[costly.method]
        base = self._cost(cheap.method)
        extra = self._cost(costly.method) - base
        known = self.in_fit & np.isfinite(u) & np.isfinite(u_costly)
        try:
            shares = adaptive_curve(
                u[known], u_costly[known], self.right[known], extra_cost=extra, seed=self.seed
            ).band
        except FitError:
            return None
        low, high = _limits(u[known], shares)
        p_cheap, p_costly = self._p_correct(cheap), self._p_correct(costly)
        p, p_out_of_fold = p_cheap, cheap.p_out_of_fold
        inside: BoolArray = np.zeros(len(u), dtype=np.bool_)
        if shares[0] < shares[1]:
            p, inside = combine(u, p_cheap, p_costly, low, high)
            p_out_of_fold, _ = combine(
                u[self.in_fit], cheap.p_out_of_fold, costly.p_out_of_fold, low, high
            )
        share = float(inside[~self.in_fit].mean())
        cheapest = CostedQuality(1.0 + base, self._alignment(p_cheap))
        adaptive = CostedQuality(1.0 + base + extra * share, self._alignment(p))
        everything = CostedQuality(1.0 + base + extra, self._alignment(p_costly))
        spending = Spending(
            cheap=cheap.method,
            costly=costly.method,
            share=share,
            cheapest=cheapest,
            adaptive=adaptive,
            everything=everything,
            share_of_gain=_share_of_gain(cheapest, adaptive, everything),
        )
        if shares[0] == shares[1]:
            return _CloserLook(None, p, p_out_of_fold, spending)
        band = Band(
            method=cheap.method,
            calibrator=cheap.model,
            low=low,
            high=high,
            share=share,
            cost=base + extra * share,
            cost_everything=base + extra,
            auroc_cheap=spending.cheapest.auroc,
            auroc=spending.adaptive.auroc,
            auroc_everything=spending.everything.auroc,
        )
        return _CloserLook(band, p, p_out_of_fold, spending)

    def _alignment(self, p_correct: FloatArray) -> float | None:
        """AUROC on the test part, unknown answers least sure; None with one class only."""
        p, right = p_correct[~self.in_fit], self.right[~self.in_fit]
        if right.all() or not right.any():
            return None
        return auroc(-np.where(np.isnan(p), -1.0, p), right)


def require_both_classes(right: BoolArray, what: str) -> None:
    """Raise FitError when fewer than `MIN_PER_CLASS` answers are right, or wrong."""
    n_right, n = int(right.sum()), len(right)
    missing = [
        f"{MIN_PER_CLASS - count} more {kind}"
        for kind, count in (("right", n_right), ("wrong", n - n_right))
        if count < MIN_PER_CLASS
    ]
    if missing:
        raise FitError(
            f"{n} {what} hold {n_right} right and {n - n_right} wrong answers, but at least "
            f"{MIN_PER_CLASS} of each are needed: {' and '.join(missing)} answers; raise the "
            "limit, or use questions that the model gets right about as often as wrong"
        )


def _limits(u: FloatArray, shares: tuple[float, float]) -> tuple[float, float]:
    """The scores between which `shares`, quantiles from 0 to 1, lie; far out at 0 and at 1."""
    low, high = shares
    return (
        float(np.quantile(u, low)) if low > 0 else -_FAR,
        float(np.quantile(u, high)) if high < 1 else _FAR,
    )


def _share_of_gain(
    cheapest: CostedQuality, adaptive: CostedQuality, everything: CostedQuality
) -> float | None:
    if cheapest.auroc is None or adaptive.auroc is None or everything.auroc is None:
        return None
    gain = everything.auroc - cheapest.auroc
    return (adaptive.auroc - cheapest.auroc) / gain if gain > 0 else None
