"""How sure an answer is beside the answers to similar questions.

A threshold on an uncertainty escalates another share on every kind of question: a score that is
high among letters is low among proofs. Its rank among the answers to similar questions has nearly
the same distribution everywhere, so a threshold on the rank carries over better. What it gives up
is telling easy kinds of questions from hard ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import ArtifactError, FitError
from calibration.metrics import FloatArray
from calibration.probes import ProbeInput
from uq import Trace
from uq.signals import Float32Array

Float16Array = NDArray[np.float16]

WIDTH = 0.02
"""Of the kernel, in units of cosine similarity."""

MIN_ANSWERS = 50
"""Fewer known answers than this are no reference."""


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourRank:
    r"""Ranks a score among reference answers, each weighing by how similar its question is.

    .. math:: r(x, u) = \frac{\sum_i w_i \, ([u_i < u] + [u_i = u] / 2)}{\sum_i w_i}, \quad
              w_i = \exp(\cos(x - c, x_i - c) / \mathrm{width})

    x is the hidden state at the prompt's last token, c the mean of the references'. This is the
    conditional distribution function of the score given the question, estimated with a kernel
    (Nadaraya, 1964; Watson, 1964).

    Parameters
    ----------
    base : the estimator whose score is ranked.
    input : what is read of a trace.
    center : float array of shape (d,)
    states : float array of shape (n, d)
        x_i - c, scaled to length 1; kept in half precision.
    scores : float array of shape (n,)
        u_i, rising.
    width : of the kernel, > 0.

    Raises
    ------
    ArtifactError
        When the shapes don't go together, a number is not finite, or the scores don't rise.
    """

    base: str
    input: ProbeInput
    center: Float32Array
    states: Float16Array
    scores: FloatArray
    width: float = WIDTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _frozen(self.center, np.float32))
        object.__setattr__(self, "states", _frozen(self.states, np.float16))
        object.__setattr__(self, "scores", _frozen(self.scores, np.float64))
        n, d = len(self.scores), self.center.size
        fits = n > 0 and self.states.shape == (n, d) and self.center.shape == (d,)
        known = all(np.isfinite(a).all() for a in (self.center, self.states, self.scores))
        if not (fits and known and self.width > 0 and (np.diff(self.scores) >= 0).all()):
            raise ArtifactError(
                f"neighbours: center {self.center.shape}, states {self.states.shape} and rising "
                f"scores ({n}) must go together and be finite; calibrate again, or restore the file"
            )

    def score(self, trace: Trace, base_score: float) -> float:
        """Return the rank in [0, 1]; NaN when the score or the hidden state is unknown."""
        state = self.input.read(trace)
        if state is None or state.shape != self.center.shape or not math.isfinite(base_score):
            return math.nan
        return float(self.ranks(state[np.newaxis], np.array([base_score]))[0])

    def ranks(self, states: ArrayLike, base_scores: ArrayLike) -> FloatArray:
        """Return the ranks, of shape (m,), of answers with `states` (m, d) and scores (m,)."""
        x = _unit(np.asarray(states, dtype=np.float32) - self.center)
        weights = _weights(x @ self.states.astype(np.float32).T, self.width)
        return _weighted_ranks(np.asarray(base_scores, dtype=np.float64), self.scores, weights)


def fit_neighbours(
    base: str,
    reads: ProbeInput,
    states: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    width: float = WIDTH,
) -> tuple[NeighbourRank, FloatArray]:
    """Take answers as the reference; rank each of them among those of other groups.

    Parameters
    ----------
    base, reads, width : see `NeighbourRank`.
    states : array-like of shape (n, d)
        As `reads` gives them; a row with NaN is left out.
    scores : array-like of shape (n,)
        NaN = unknown: left out.
    groups : array-like of shape (n,)
        What kind of question each is. The ranks are those of questions of an unseen kind, as long
        as there are two kinds; of one kind alone only the answer itself is left out.

    Returns
    -------
    NeighbourRank
    float array of shape (n,)
        Ranks; NaN for what was left out.

    Raises
    ------
    FitError
        When fewer than `MIN_ANSWERS` answers are known.
    """
    x, u, kinds = (np.asarray(rows) for rows in (states, scores, groups))
    known = np.isfinite(u) & np.isfinite(x).all(axis=1)
    if known.sum() < MIN_ANSWERS:
        raise FitError(
            f"{int(known.sum())} answers have both a hidden state and the score {base!r}; "
            f"{MIN_ANSWERS} are needed to rank others among them"
        )
    order = np.flatnonzero(known)[np.argsort(u[known], kind="stable")]
    center = x[order].mean(axis=0, dtype=np.float64).astype(np.float32)
    unit = _unit(x[order].astype(np.float32) - center)
    rank = NeighbourRank(base, reads, center, unit.astype(np.float16), u[order], width)
    similarity = unit @ rank.states.astype(np.float32).T
    kind = kinds[order]
    own = kind[:, np.newaxis] == kind[np.newaxis, :]
    if own.all():
        own = np.eye(len(order), dtype=np.bool_)
    weights = _weights(np.where(own, -np.inf, similarity), width)
    ranks = np.full(len(u), np.nan)
    ranks[order] = _weighted_ranks(rank.scores, rank.scores, weights)
    return rank, ranks


def _unit(rows: Float32Array) -> Float32Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)


def _weights(similarity: Float32Array, width: float) -> FloatArray:
    nearest = similarity.max(axis=1, keepdims=True)
    return np.asarray(np.exp((similarity - nearest).astype(np.float64) / width))


def _weighted_ranks(u: FloatArray, rising: FloatArray, weights: FloatArray) -> FloatArray:
    """Return for each score its weighted share of `rising` below it, ties counting half."""
    total = np.concatenate([np.zeros((len(u), 1)), np.cumsum(weights, axis=1)], axis=1)
    row = np.arange(len(u))
    below = total[row, np.searchsorted(rising, u, side="left")]
    not_above = total[row, np.searchsorted(rising, u, side="right")]
    return np.asarray((below + not_above) / 2 / total[:, -1])


def _frozen(values: ArrayLike, dtype: type[np.floating]) -> NDArray[np.floating]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
