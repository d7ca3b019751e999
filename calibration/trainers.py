"""The trained estimators, as `calibration.evaluation` fits them to some sets to score others."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.errors import FitError
from calibration.evaluated_rows import EvaluatedRow, Trainer
from calibration.learned import CHEAP_STACK, STACK, Learned
from calibration.leave_one_out import Repair
from calibration.metrics import FloatArray
from calibration.neighbours import NeighbourRank
from calibration.trained import (
    STACKED_PROBES,
    Answers,
    rank_among_neighbours,
    train,
    train_named_probe,
)
from uq import estimator_names

LEFT_OUT = (*STACKED_PROBES, "ood_probe", CHEAP_STACK, STACK)
"""Fitted on all sets but one, to score that one."""

IN_DOMAIN = ("trained_probe",)
"""Fitted on a set's own answers."""

TRAINED = (*LEFT_OUT, *IN_DOMAIN)


def trainers(
    names: Sequence[str], *, n_layer: int, seed: int = 0
) -> tuple[dict[str, Trainer], dict[str, Trainer]]:
    """Return those to fit on other sets, and those to fit in domain, of `names`.

    Parameters
    ----------
    names : of `TRAINED`; others are ignored.
    n_layer : layers of the small model.
    seed : of folds and initial weights.
    """
    together = _Together(n_layer, seed)
    left_out: dict[str, Trainer] = {
        name: together.trainer(name) for name in LEFT_OUT if name in names and name != "ood_probe"
    }
    alone = {name: _alone(name, n_layer, seed) for name in ("ood_probe", *IN_DOMAIN)}
    if "ood_probe" in names:
        left_out["ood_probe"] = alone["ood_probe"]
    return left_out, {name: alone[name] for name in IN_DOMAIN if name in names}


def _alone(name: str, n_layer: int, seed: int) -> Trainer:
    def fit(rows: Sequence[EvaluatedRow]) -> Callable[[EvaluatedRow], float]:
        probe = train_named_probe(name, _answers(rows, n_layer), seed)
        return lambda row: math.nan if row.record is None else probe.score(row.record.trace)

    return fit


def among_neighbours(name: str, n_layer: int) -> Repair:
    """Repair the estimator called `name`: its rank among a hold-out's answers to similar questions.

    See `calibration.neighbours`. The rank of an answer of the hold-out itself is that among the
    answers to other kinds of questions. Rows without hidden states are unknown.

    Parameters
    ----------
    name : an estimator whose scores the rows bear.
    n_layer : layers of the small model.
    """

    def fit(rows: Sequence[EvaluatedRow]) -> _Ranked:
        known = [row for row in rows if row.record is not None]
        answers = replace(_answers(known, n_layer, scored=False), groups=_kinds(known))
        rank, ranks = rank_among_neighbours(name, _scores(name, known), answers)
        pool = np.full(len(rows), np.nan)
        pool[[row.record is not None for row in rows]] = ranks
        return _Ranked(pool, rank)

    return fit


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """A `FittedRepair` that ranks all rows in one go."""

    pool: FloatArray
    rank: NeighbourRank

    def scores(self, rows: Sequence[EvaluatedRow]) -> FloatArray:
        unknown = np.full(self.rank.center.shape, np.nan, dtype=np.float32)
        states = [
            unknown if row.record is None else self.rank.input.read(row.record.trace)
            for row in rows
        ]
        known = [unknown if state is None else state for state in states]
        return self.rank.ranks(np.stack(known), _scores(self.rank.base, rows))


def _scores(name: str, rows: Sequence[EvaluatedRow]) -> FloatArray:
    return np.array([row.scores.get(name, math.nan) for row in rows])


def _kinds(rows: Sequence[EvaluatedRow]) -> NDArray[np.str_]:
    """The kind of question of each row with a record: its family, or else its data set."""
    return np.array([row.record.family or row.dataset for row in rows if row.record is not None])


class _Together:
    """Trains the quick probes and the stacks once for each choice of rows."""

    def __init__(self, n_layer: int, seed: int) -> None:
        self._n_layer = n_layer
        self._seed = seed
        self._rows: tuple[EvaluatedRow, ...] = ()
        self._trained: Learned | None = None

    def trainer(self, name: str) -> Trainer:
        def fit(rows: Sequence[EvaluatedRow]) -> Callable[[EvaluatedRow], float]:
            trained = self._train(rows)
            if name not in trained.names:
                raise FitError(f"{name} can't be learned from these answers")
            return lambda row: _score(trained, name, row)

        return fit

    def _train(self, rows: Sequence[EvaluatedRow]) -> Learned:
        same = len(rows) == len(self._rows) and all(map(operator.is_, rows, self._rows))
        if self._trained is None or not same:
            self._trained, _ = train(_answers(rows, self._n_layer), seed=self._seed)
            self._rows = tuple(rows)
        return self._trained


def _score(trained: Learned, name: str, row: EvaluatedRow) -> float:
    if row.record is None:
        return math.nan
    return trained.score(row.record.trace, row.scores)[name]


def _answers(rows: Sequence[EvaluatedRow], n_layer: int, *, scored: bool = True) -> Answers:
    """Rows whose traces are known, `scored` or not. Raises FitError when there are none."""
    known = [row for row in rows if row.record is not None]
    if not known:
        raise FitError("these answers were recorded elsewhere, without what a probe reads")
    # A set's rows may bear scores that were fitted on that very set: nothing to learn from.
    registered = frozenset(estimator_names())
    every = (name for row in known for name in row.scores if name in registered)
    names = dict.fromkeys(every) if scored else {}
    return Answers(
        traces=[row.record.trace for row in known if row.record is not None],
        wrong=np.array([not row.correct for row in known]),
        scores={
            name: np.array([row.scores.get(name, math.nan) for row in known]) for name in names
        },
        groups=np.array([row.dataset for row in known]),
        n_layer=n_layer,
    )
