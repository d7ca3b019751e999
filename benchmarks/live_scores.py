"""The answers that `benchmarks/live.py` streams: a score of each, and whether it was right."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.drift import MIN_REFERENCE
from calibration.errors import DataError
from calibration.metrics import BoolArray, FloatArray, auroc


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to one data set.

    Attributes
    ----------
    uncertainty : float array of shape (n,); NaN = unknown.
    correct : bool array of shape (n,).
    """

    uncertainty: FloatArray
    correct: BoolArray

    @property
    def auroc(self) -> float:
        """How well the known scores tell wrong answers from right ones; NaN for one class."""
        known = np.isfinite(self.uncertainty)
        right = self.correct[known]
        if right.all() or not right.any():
            return math.nan
        return auroc(self.uncertainty[known], right)


Sets = Mapping[str, Answers]


def read_scores(path: Path, score: str) -> Sets:
    """Read data set -> {"correct": [0 or 1, ...], SCORE: [number or null, ...], ...}.

    Raises
    ------
    DataError
        The file can't be read, has another form, or lacks the score.
    """
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name, of_set in columns.items() if score not in of_set]
        if missing:
            known = ", ".join(sorted(set.intersection(*map(set, columns.values())) - {"correct"}))
            raise DataError(f"{path}: {missing[0]} has no score {score!r}; all sets have {known}")
        sets = {name: _answers(of[score], of["correct"]) for name, of in columns.items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} can't be read as scores by data set: {error}") from error
    return usable(sets)


def read_records(path: Path, score: str) -> Sets:
    """Score the answers of a record log.

    Raises
    ------
    DataError
        The file can't be read, or no estimator has that name.
    """
    from benchmarks.routing import read_records as read  # noqa: PLC0415  loads scikit-learn
    from uq import estimator_names, score_all  # noqa: PLC0415

    if score not in estimator_names():
        raise DataError(f"no estimator is called {score!r}; there are {list(estimator_names())}")
    columns: dict[str, tuple[list[Any], list[Any]]] = {}
    for record in read(path):
        scores, correct = columns.setdefault(record.dataset, ([], []))
        scores.append(score_all(record.trace, (score,))[score])
        correct.append(record.correct)
    return usable({name: _answers(*column) for name, column in columns.items()})


def usable(sets: Sets) -> Sets:
    """Return the sets with enough known scores for a reference.

    Raises
    ------
    DataError
        Fewer than three are left: a switch needs two sets, and a reference a third.
    """
    kept = {
        name: answers
        for name, answers in sets.items()
        if np.isfinite(answers.uncertainty).sum() >= MIN_REFERENCE
    }
    if len(kept) < 3:
        raise DataError(
            f"three data sets with {MIN_REFERENCE} known scores are needed, here are {len(kept)}"
        )
    return kept


def sureness(sets: Sets) -> dict[str, FloatArray]:
    """Return scores in (0, 1] instead, the surest highest: ranks among all, NaN where unknown.

    A controller sees little more of a score than its order, and so needs no calibrator.
    """
    pooled = np.concatenate([answers.uncertainty for answers in sets.values()])
    values = np.unique(pooled[np.isfinite(pooled)])
    sure = 1.0 - np.searchsorted(values, pooled) / len(values)
    ends = np.cumsum([len(answers.uncertainty) for answers in sets.values()])[:-1]
    parts = np.split(np.where(np.isfinite(pooled), sure, np.nan), ends)
    return dict(zip(sets, parts, strict=True))


def pairs(sets: Sets) -> list[tuple[str, str]]:
    """Every set with every other, in both orders."""
    return list(itertools.permutations(sets, 2))


def _answers(scores: Sequence[float | None], correct: Sequence[int]) -> Answers:
    uncertainty = np.array([math.nan if s is None else float(s) for s in scores])
    uncertainty[~np.isfinite(uncertainty)] = math.nan
    right = np.array(correct, dtype=np.bool_)
    if len(right) != len(uncertainty):
        raise ValueError(f"{len(uncertainty)} scores for {len(right)} answers")
    return Answers(uncertainty, right)
