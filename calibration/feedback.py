"""Labelled answers of live traffic, weighted for what they say of all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray

HALF_LIFE_DAYS = 14.0
"""After so many days a label counts half."""

MOST_WEIGHT = 20.0
"""A label stands for at most so many answers: a rare audit must not outvote all else."""


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer of live traffic whose correctness is known.

    Attributes
    ----------
    scores : its uncertainties by estimator.
    correct : whether the local answer is right.
    age_days : since it was given.
    inclusion : with what probability an answer like it came to be labelled; None = unknown, as for
        those that users send in by themselves.
    """

    scores: Mapping[str, float]
    correct: bool
    age_days: float
    inclusion: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """Live answers as columns, `n` of them.

    Attributes
    ----------
    scores : by estimator, float arrays of shape (n,), NaN = unknown.
    correct : bool array of shape (n,).
    weight : float array of shape (n,), > 0. Fresh ones sum to the effective number of answers,
        (sum w)^2 / sum w^2 with w = 1 / inclusion (Kish, "Survey Sampling", 1965), so that beside
        rows of weight 1 they count as what they are worth; with age they count for less.
    """

    scores: Mapping[str, FloatArray]
    correct: BoolArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.correct)

    @classmethod
    def of(
        cls, answers: Sequence[LabelledAnswer], *, half_life_days: float = HALF_LIFE_DAYS
    ) -> Feedback:
        """Weigh each answer by 1 / inclusion (Horvitz and Thompson, 1952) and by its age.

        An answer of unknown inclusion weighs as one that was sure to be labelled.

        Raises
        ------
        FitError
            When there are no answers, an age is not finite, an inclusion is not in (0, 1], or the
            half-life is not positive.
        """
        if not answers:
            raise FitError("there is no feedback to learn from")
        if not half_life_days > 0:  # also refuses NaN
            raise FitError(f"the half-life must be positive, not {half_life_days!r} days")
        inclusion = np.array([1.0 if a.inclusion is None else a.inclusion for a in answers])
        if not ((inclusion > 0) & (inclusion <= 1)).all():
            raise FitError("the probability of being labelled must be in (0, 1]")
        age = np.array([a.age_days for a in answers], dtype=np.float64)
        if not np.isfinite(age).all():
            raise FitError("the age of an answer must be a number of days")
        age = np.maximum(age, 0.0)
        drawn = 1.0 / np.maximum(inclusion, 1.0 / MOST_WEIGHT)
        effective = drawn.sum() ** 2 / (drawn**2).sum()
        weight = drawn * (effective / drawn.sum()) * 0.5 ** (age / half_life_days)
        weight = np.maximum(weight, np.finfo(np.float64).tiny)
        names = dict.fromkeys(name for a in answers for name in a.scores)
        return cls(
            scores={n: np.array([a.scores.get(n, np.nan) for a in answers]) for n in names},
            correct=np.array([a.correct for a in answers], dtype=np.bool_),
            weight=weight,
        )

    def known(self, name: str) -> tuple[FloatArray, BoolArray, FloatArray]:
        """Return scores by `name`, correctness and weights of the answers that have the score."""
        column = self.scores.get(name, np.full(len(self), np.nan))
        known = np.isfinite(column)
        return column[known], self.correct[known], self.weight[known]
