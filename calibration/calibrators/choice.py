"""Which calibrator: the simplest that predicts unseen answers as well as the best does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from calibration.calibrators.base import Calibrator, effective_weights
from calibration.calibrators.beta import BetaCalibrator
from calibration.calibrators.histogram import HistogramCalibrator
from calibration.calibrators.isotonic import IsotonicCalibrator
from calibration.calibrators.platt import PlattCalibrator
from calibration.calibrators.temperature import TemperatureCalibrator
from calibration.calibrators.venn_abers import VennAbersCalibrator
from calibration.errors import FitError
from calibration.folds import stratified_folds
from calibration.metrics import BoolArray, FloatArray, IntArray, check_pairs

CALIBRATORS: Mapping[str, type[Calibrator]] = {
    cls.kind: cls
    for cls in (
        IsotonicCalibrator,
        PlattCalibrator,
        BetaCalibrator,
        TemperatureCalibrator,
        HistogramCalibrator,
        VennAbersCalibrator,
    )
}
"""The calibrators by their kind."""

FOLDS = 5
"""Folds of the cross-validation in `choose_calibrator`."""

FROM_N = {"platt": 0, "beta": 200, "venn_abers": 500}
"""From how many answers on `choose_calibrator` considers a kind; fewest parameters first."""


def choose_calibrator(
    uncertainty: ArrayLike,
    correct: ArrayLike,
    seed: int,
    sample_weight: ArrayLike | None = None,
) -> str:
    """Return the simplest kind of calibrator that predicts unseen answers as well as any.

    The kinds in `FROM_N` are judged by log-loss in a stratified cross-validation of `FOLDS` folds
    (fewer when the rarer class has fewer answers). Of those whose loss exceeds the lowest by no
    more than one standard error of the paired difference, the one with the fewest parameters is
    chosen. A fold on which a fit finds that the score does not rank is predicted by its share of
    right answers. With one answer of the rarer class there is nothing to compare: ``"platt"``.

    What is considered, by simulation (log-loss on unseen answers above the least possible, in
    thousandths of a nat, on a logistic, a bent, a kinked curve and a staircase):

    - below 200 answers platt alone, above also beta: 4.8 and 7.3, 8.0 and 8.8, 15 and 12, 55 and
      55 at 200;
    - from 500 on venn_abers: there 8.1, 6.0, 5.5, 12 against platt's 2.1, 4.9, 11, 52. Below it
      loses to platt on smooth curves by more than one standard error would notice;
    - never isotonic or histogram, which lose to venn_abers: 10, 8.6, 7.1, 11 and 11, 6.5, 5.8, 39
      at 500. Both are there for who asks for them;
    - never temperature: what it saves against platt is one parameter, 1 / (2 n) nats, and what it
      loses where the score is wrong about one half is more than that and, below 1,000 answers,
      often within one standard error.

    Parameters
    ----------
    uncertainty : array-like of shape (n,)
        Finite; higher = less sure.
    correct : array-like of shape (n,)
    seed : int
        Draws the folds.
    sample_weight : array-like of shape (n,), optional
        See `Calibrator.fit`.

    Raises
    ------
    FitError
        When no kind can be fitted to all the answers; see `Calibrator.fit`.
    """
    u, right = check_pairs(uncertainty, correct, both=True)
    weight = effective_weights(sample_weight, len(u))
    n = weight.sum()
    considered = [kind for kind, least in FROM_N.items() if n >= least]
    kinds, failure = _those_that_fit(considered, u, right, weight)
    if not kinds:
        kinds, _ = _those_that_fit([k for k in FROM_N if k not in considered], u, right, weight)
    if not kinds and failure is not None:
        raise failure
    rarer = int(min(right.sum(), (~right).sum()))
    if len(kinds) == 1 or rarer < 2:
        return "platt" if "platt" in kinds else kinds[0]
    fold = stratified_folds(right, min(FOLDS, rarer), seed)
    losses = {kind: _losses(kind, u, right, weight, fold) for kind in kinds}
    best = min(kinds, key=lambda kind: float(weight @ losses[kind]))
    return next(k for k in kinds if _as_good(losses[k] - losses[best], weight))


def _those_that_fit(
    kinds: Iterable[str], u: FloatArray, right: BoolArray, weight: FloatArray
) -> tuple[list[str], FitError | None]:
    """Return those of `kinds` that all the answers can be fitted by; and why another can't."""
    fitting, failure = [], None
    for kind in kinds:
        try:
            CALIBRATORS[kind]().fit(u, right, weight)
            fitting.append(kind)
        except FitError as error:
            failure = error
    return fitting, failure


def _as_good(excess: FloatArray, weight: FloatArray) -> bool:
    """Whether the mean of paired excess losses is within one standard error of 0."""
    share = weight / weight.sum()
    mean = float(share @ excess)
    return mean**2 <= float(share**2 @ (excess - mean) ** 2)


def _losses(
    kind: str, u: FloatArray, right: BoolArray, weight: FloatArray, fold: IntArray
) -> FloatArray:
    """Log-loss in nats of each answer, by a calibrator that did not see its fold."""
    p = np.empty(len(u))
    for k in range(fold.max() + 1):
        train, held_out = fold != k, fold == k
        try:
            model = CALIBRATORS[kind]().fit(u[train], right[train], weight[train])
            p[held_out] = model.predict(u[held_out])
        except FitError:  # it does not rank without this fold: no better than the base rate
            p[held_out] = np.average(right[train], weights=weight[train])
    return np.asarray(-np.log(np.where(right, p, 1.0 - p)))
