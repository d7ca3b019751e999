"""How sure an answer is beside the answers to similar questions.

A threshold on an uncertainty escalates another share on every kind of question: a score that is
high among letters is low among proofs. Its rank among similar answers to similar questions has
nearly the same distribution everywhere, so a threshold on the rank carries over better. What it
gives up is telling easy kinds of questions from hard ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import ArtifactError, FitError
from calibration.metrics import FloatArray, IntArray
from calibration.probes import ProbeInput
from uq import Trace
from uq.signals import Float32Array

Float16Array = NDArray[np.float16]

ANSWER = 0.5
"""How much the answers' similarity counts beside that of the questions. Chosen, with the width, on
a part of the answers of SmolLM2-135M to 16 data sets; on the others, and perplexity, the mean gap
between wanted and achieved escalation ratio of a set left out is 10.1 points, and 12.0 points by
the questions' similarity alone."""

WIDTH = 0.03
"""Of the kernel, in units of cosine similarity."""

MIN_ANSWERS = 50
"""Fewer known answers than this are no reference."""

_BLOCK = 512
"""Rows that are weighed at a time, so that memory grows with the references alone."""


@dataclass(frozen=True, slots=True)
class NeighbourInput:
    """What is read of a trace: the states at the prompt's end and at the answer's last token.

    At the prompt's end the model has read the question and is about to answer.

    Parameters
    ----------
    layer : after which layer, named as in `uq.signals.HiddenStates`; >= 0.
    """

    layer: int

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise ValueError(f"a layer is numbered from 0 on, not {self.layer}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read."""
        return (self.layer,)

    def read(self, trace: Trace) -> Float32Array | None:
        """Return the states of `trace`, of shape (2, d): of the question, and of the answer.

        None when the trace has no hidden states, lacks the layer, or holds a state there that is
        not finite.
        """
        question = ProbeInput("prompt_end", self.layers).read(trace)
        answer = ProbeInput("answer_last", self.layers).read(trace)
        return None if question is None or answer is None else np.stack([question, answer])


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourRank:
    r"""Ranks a score among reference answers, each weighing by how similar it and its question are.

    .. math:: r(x, u) = \frac{\sum_i w_i \, ([u_i < u] + [u_i = u] / 2)}{\sum_i w_i}, \quad
              w_i = \exp\big((\cos(x - c, x_i - c)
                    + \mathrm{ANSWER} \cos(y - e, y_i - e)) / \mathrm{width}\big)

    x is the hidden state at the prompt's last token and y that at the answer's, c and e the means
    of the references'. This is the conditional distribution function of the score given the
    question and roughly the kind of answer, estimated with a kernel
    (Nadaraya, 1964; Watson, 1964). Only differences of similarity count: far from all references,
    the least far ones decide.

    Parameters
    ----------
    base : the estimator whose score is ranked.
    input : what is read of a trace.
    center : float array of shape (2, d)
        c and e.
    states : float array of shape (n, 2, d)
        x_i - c and y_i - e, each scaled to length 1; kept in half precision.
    scores : float array of shape (n,)
        u_i, rising.
    width : of the kernel, > 0 and finite.

    Raises
    ------
    ArtifactError
        When the shapes don't go together, a number is not finite, the width is not positive, or the
        scores don't rise.
    """

    base: str
    input: NeighbourInput
    center: Float32Array
    states: Float16Array
    scores: FloatArray
    width: float = WIDTH
    _references: Float32Array = field(init=False, repr=False)
    """The states as they are multiplied: made once, not for every answer."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _frozen(self.center, np.float32))
        object.__setattr__(self, "states", _frozen(self.states, np.float16))
        object.__setattr__(self, "scores", _frozen(self.scores, np.float64))
        n, d = self.scores.size, self.center.size // 2
        shapes = (self.scores.shape, self.center.shape, self.states.shape)
        fits = n > 0 and d > 0 and shapes == ((n,), (2, d), (n, 2, d))
        known = all(np.isfinite(a).all() for a in (self.center, self.states, self.scores))
        if not (fits and known and (np.diff(self.scores) >= 0).all()):
            raise ArtifactError(
                f"neighbours: center {self.center.shape}, states {self.states.shape} and rising "
                f"scores {self.scores.shape} must go together and be finite; calibrate again, or "
                "restore the file"
            )
        if not 0.0 < self.width < math.inf:
            raise ArtifactError(
                f"neighbours: the width is {self.width!r}, but must be positive and finite; "
                "calibrate again, or restore the file"
            )
        object.__setattr__(self, "_references", _flat(self.states))

    def score(self, trace: Trace, base_score: float) -> float:
        """Return the rank in [0, 1]; NaN when the score or the hidden state is unknown."""
        state = self.input.read(trace)
        if state is None or state.shape != self.center.shape:
            return math.nan
        return float(self.ranks(state[np.newaxis], [base_score])[0])

    def ranks(self, states: ArrayLike, base_scores: ArrayLike) -> FloatArray:
        """Return the ranks of answers, of shape (m,); NaN where a state or score is not finite.

        Parameters
        ----------
        states : array-like of shape (m, 2, d)
            As `input` reads them.
        base_scores : array-like of shape (m,)

        Raises
        ------
        ValueError
            When the shapes are not these.
        """
        x, u = np.asarray(states, dtype=np.float32), np.asarray(base_scores, dtype=np.float64)
        if u.ndim != 1 or x.shape != (len(u), *self.center.shape):
            d = self.center.shape[1]
            raise ValueError(f"states {x.shape} and scores {u.shape} must be (m, 2, {d}) and (m,)")
        known = np.isfinite(u) & np.isfinite(x).all(axis=(1, 2))
        ranks = np.full(len(u), np.nan)
        for rows in _blocks(np.flatnonzero(known)):
            similarity = _weighted(_unit(x[rows], self.center)) @ self._references.T
            ranks[rows] = _weighted_ranks(u[rows], self.scores, _weights(similarity, self.width))
        return ranks


def fit_neighbours(
    base: str,
    reads: NeighbourInput,
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
    states : array-like of shape (n, 2, d)
        As `reads` gives them; a row with NaN is left out.
    scores : array-like of shape (n,)
        NaN = unknown: left out.
    groups : array-like of shape (n,)
        What kind of question each is. An answer is ranked among those of the other kinds, as one
        to a question of an unseen kind would be; where these are fewer than `MIN_ANSWERS`, among
        all but itself.

    Returns
    -------
    NeighbourRank
    float array of shape (n,)
        Ranks; NaN for what was left out.

    Raises
    ------
    FitError
        When fewer than `MIN_ANSWERS` answers are known.
    ValueError
        When the shapes don't go together.
    """
    x, u, kinds = (np.asarray(rows) for rows in (states, scores, groups))
    shapes = (x.shape[:2], u.shape, kinds.shape)
    if x.ndim != 3 or shapes != ((len(x), 2), (len(x),), (len(x),)):
        raise ValueError(
            f"states {x.shape}, scores {u.shape} and groups {kinds.shape} must be (n, 2, d), (n,) "
            "and (n,)"
        )
    known = np.isfinite(u) & np.isfinite(x).all(axis=(1, 2))
    if known.sum() < MIN_ANSWERS:
        raise FitError(
            f"{int(known.sum())} answers have both a hidden state and the score {base!r}; "
            f"{MIN_ANSWERS} are needed to rank others among them"
        )
    order = np.flatnonzero(known)[np.argsort(u[known], kind="stable")]
    center = x[order].mean(axis=0, dtype=np.float64).astype(np.float32)
    unit = _unit(x[order], center)
    rank = NeighbourRank(base, reads, center, unit.astype(np.float16), u[order], width)
    weighted = _weighted(unit)
    _, kind = np.unique(kinds[order], return_inverse=True)
    ranks = np.full(len(u), np.nan)
    for rows in _blocks(np.arange(len(order))):
        own = kind[rows, np.newaxis] == kind[np.newaxis, :]
        alone = (~own).sum(axis=1) < MIN_ANSWERS
        own[alone] = rows[alone, np.newaxis] == np.arange(len(order))
        similarity = np.where(own, -np.inf, weighted[rows] @ rank._references.T)
        ranks[order[rows]] = _weighted_ranks(
            rank.scores[rows], rank.scores, _weights(similarity, width)
        )
    return rank, ranks


def _blocks(rows: IntArray) -> Iterator[IntArray]:
    return (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK))


def _unit(rows: NDArray[np.floating], center: Float32Array) -> Float32Array:
    """Directions of `rows` from `center`; none, 0, for one that is there."""
    away = rows.astype(np.float64) - center  # of single precision, no square overflows
    length = np.linalg.norm(away, axis=-1, keepdims=True)
    return np.asarray(away / np.where(length > 0.0, length, 1.0), dtype=np.float32)


def _flat(states: NDArray[np.floating]) -> Float32Array:
    return states.reshape(len(states), -1).astype(np.float32)


def _weighted(unit: Float32Array) -> Float32Array:
    """Rows whose products with `_flat` ones are the similarity."""
    return _flat(unit * np.array([[1.0], [ANSWER]], dtype=np.float32))


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
    with np.errstate(over="ignore"):  # what doesn't fit becomes infinite, and is refused
        array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
