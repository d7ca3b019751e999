"""The two parts of labelled answers: one to fit on, one to certify on.

They are two types, so that a certificate can't be asked of rows that a score, a probe, a calibrator
or a grid of thresholds was fitted on: mypy refuses it, and so does the code when it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from calibration.bounds import p_at_most
from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray, IntArray
from calibration.records import Key
from calibration.targets import TargetKind

Labels = Literal["gold", "llm"]
"""Who says what is right: a known answer, or agreement with the large model's."""

ESCALATE_ALL = math.nextafter(1.0, 2.0)
"""The threshold that keeps nothing: just above 1, so that even p_correct = 1 escalates."""

GRID_SIZE = 40

_AS_FITTED: FloatArray = np.empty(0)
"""Stands for `p_served` that was not given."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Part:
    """Labelled answers, one row each; see `FitPart` and `HeldOutPart`."""

    keys: tuple[Key, ...]
    p_correct: FloatArray
    correct: BoolArray
    llm: FloatArray | None = None
    labels: Labels = "gold"

    def __post_init__(self) -> None:
        p, right = checked(self.p_correct, self.correct)
        _set(self, "p_correct", p)
        _set(self, "correct", right)
        _set(self, "keys", tuple(self.keys))
        if len(self.keys) != len(p):
            raise FitError(f"{len(self.keys)} keys for {len(p)} answers; give one key per answer")
        if len(frozenset(self.keys)) != len(p):
            twice = next(key for key in self.keys if self.keys.count(key) > 1)
            raise FitError(f"{name_of(twice)} occurs twice; rows must be independent questions")
        if self.llm is not None:
            _set(self, "llm", checked_llm(self.llm, len(p)))
        elif self.labels == "llm":
            _set(self, "llm", np.ones(len(p)))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitPart(_Part):
    """Answers on which something was fitted; thresholds may be chosen on them, never certified.

    Attributes
    ----------
    keys : data set and item id of each row; no two rows the same.
    p_correct : float array of shape (n,), in [0, 1]: out of fold, so that no row's own label shaped
        its value. NaN = unknown; so is an answer that a gate or an early stop gives up.
    correct : bool array of shape (n,), by `labels`.
    llm : float array of shape (n,): is the large model's answer to the same question right? 1 or 0,
        NaN = not recorded. None = none is, except where the labels are its own: there it is right.
    labels : who says what is right.
    p_served : float array of shape (n,): `p_correct` as the finished calibration gives it, with the
        ties that it makes. Budgets, which involve no labels, are set on it. `p_correct` when not
        given.

    Raises
    ------
    FitError
        When shapes differ, a value is impossible, or a key occurs twice.
    """

    p_served: FloatArray = field(default_factory=lambda: _AS_FITTED)

    def __post_init__(self) -> None:
        _Part.__post_init__(self)
        served = self.p_correct if self.p_served is _AS_FITTED else self.p_served
        _set(self, "p_served", checked(served, self.correct)[0])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeldOutPart(_Part):
    """Answers on which nothing was fitted and nothing chosen: what a certificate rests on.

    Attributes
    ----------
    keys, correct, llm, labels : as in `FitPart`; no key of it may be here.
    p_correct : float array of shape (n,), in [0, 1], as the finished calibration gives it;
        NaN = unknown; so is an answer that a gate or an early stop gives up.
    population : what the rows are a random draw of, for a sentence such as "it holds for questions
        drawn like ...": "958 of the built-in hold-out's questions".

    Raises
    ------
    FitError
        As `FitPart`.
    """

    population: str


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Thresholds from strict to lax, set by the fit part alone; the only way to make one.

    Attributes
    ----------
    fit : the part it was set by.
    at_least : no threshold of the grid is lower; itself one of the candidates of `fit`.
    thresholds : float array of shape (k,), strictly falling, k <= 40: they keep 1/40, 2/40, ... of
        the fit part's answers as nearly as ties allow. The last is `at_least`.
    n_kept, n_wrong : int arrays of shape (k,): what each keeps of the fit part, and how many of
        those are wrong.
    fitted_on : the keys of `fit`.

    Raises
    ------
    FitError
        When `fit` is no FitPart, or `at_least` is above all of its candidates.
    """

    fit: FitPart
    at_least: float = 0.0
    thresholds: FloatArray = field(init=False)
    n_kept: IntArray = field(init=False)
    n_wrong: IntArray = field(init=False)
    fitted_on: frozenset[Key] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.fit, FitPart):
            raise FitError(f"a grid is set by a FitPart alone, not by a {type(self.fit).__name__}")
        fit = self.fit
        lax_first = candidate_thresholds(fit.p_served)[:-1]
        strict_first = lax_first[lax_first >= self.at_least][::-1]
        if len(strict_first) == 0:
            raise FitError(f"no threshold from {self.at_least!r} on keeps anything of the fit part")
        kept = counts_kept(strict_first, fit.p_served)
        wanted = np.arange(1, GRID_SIZE + 1) * (kept[-1] / GRID_SIZE)
        chosen = np.unique(np.minimum(np.searchsorted(kept, wanted - 1e-9), len(kept) - 1))
        thresholds = strict_first[chosen]
        _set(self, "fitted_on", frozenset(fit.keys))
        _set(self, "thresholds", thresholds)
        _set(self, "n_kept", counts_kept(thresholds, fit.p_correct))
        _set(self, "n_wrong", counts_kept(thresholds, fit.p_correct[~fit.correct]))

    @property
    def error(self) -> FloatArray:
        """The error among kept answers that the fit part lets expect, shape (k,); never 0."""
        return (self.n_wrong + 0.5) / (self.n_kept + 1.0)

    @property
    def lost(self) -> FloatArray | None:
        """The loss that the fit part lets expect, shape (k,), never 0; None when it can't tell."""
        counts = self.lost_counts
        if counts is None:
            return None
        n_lost, n = counts
        return np.asarray((n_lost + 0.5) / (n + 1.0))

    @property
    def lost_counts(self) -> tuple[IntArray, int] | None:
        """Right answers of the large model lost on the fit part, shape (k,), and of how many rows.

        Rows of known outcome, that is; None when there are none.
        """
        fit = self.fit
        if fit.llm is None or np.isnan(fit.llm).all():
            return None
        lost = fit.p_correct[~fit.correct & (fit.llm == 1.0)]
        return counts_kept(self.thresholds, lost), int(np.sum(~np.isnan(fit.llm)))

    def start(self, bounds: Mapping[TargetKind, float], n: Mapping[TargetKind, int]) -> int:
        """Return at which threshold to begin testing: where the smallest p-value is promised.

        The promise is that of the fit part's rates for `n` rows; of two claims the larger p-value
        counts. No held-out answer is looked at, only their number.

        Parameters
        ----------
        bounds : mapping
            The risk, the loss, or both that are to be tested.
        n : mapping
            Held-out rows for each; for the loss, those of known outcome of the large model.
        """
        promised = np.zeros(len(self.thresholds))
        if "risk" in bounds:
            n_kept = n["risk"] * self.n_kept / len(self.fit)
            promised = p_at_most(self.error * n_kept, n_kept, bounds["risk"])
        lost = self.lost
        if "loss" in bounds and lost is not None:
            all_rows = np.full(len(promised), n["loss"])
            p_loss = p_at_most(lost * n["loss"], all_rows, bounds["loss"])
            promised = np.maximum(promised, p_loss)
        return int(np.argmin(promised))


def candidate_thresholds(p_correct: ArrayLike) -> FloatArray:
    """Return one threshold for every set of answers that some threshold keeps, lowest first.

    `p_correct` has shape (n,), NaN = unknown. The result starts with 0, ends with `ESCALATE_ALL`,
    and holds between them the middle of each gap between neighbouring distinct values: a p_correct
    that another machine computes a rounding error away falls on the same side.
    """
    values = np.unique(np.asarray(p_correct, dtype=np.float64))
    values = values[~np.isnan(values)]
    low, high = values[:-1], values[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle > low, middle, high)  # neighbours so close that nothing lies between
    return np.concatenate([[0.0], middle, [ESCALATE_ALL]])


def counts_kept(thresholds: FloatArray, p_correct: FloatArray) -> IntArray:
    """Return how many of `p_correct` are at least each threshold; NaN never is."""
    known = np.sort(p_correct)  # NaN last
    n_known = len(known) - int(np.isnan(known).sum())
    return n_known - np.searchsorted(known[:n_known], thresholds, side="left").astype(np.int64)


def checked(p_correct: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Return both as arrays of shape (n,) that can be worked with.

    Raises
    ------
    FitError
        When they are empty, of different lengths, or hold impossible values.
    """
    p = np.asarray(p_correct, dtype=np.float64)
    labels = np.asarray(correct)
    if p.ndim != 1 or p.shape != labels.shape:
        raise FitError(
            f"p_correct {p.shape} and correct {labels.shape} must both have shape (n,): one value "
            "each per answer"
        )
    if len(p) == 0:
        raise FitError("there are no answers to choose or measure a threshold on")
    impossible = (p < 0) | (p > 1)
    if impossible.any():
        raise FitError(
            f"p_correct holds {float(p[impossible][0])!r}; a probability is from 0 to 1, NaN if "
            "unknown"
        )
    if labels.dtype != np.bool_ and not np.isin(labels, (0.0, 1.0)).all():
        raise FitError("correct must hold only true and false (or 1 and 0)")
    return p, labels.astype(np.bool_)


def checked_llm(llm: ArrayLike, n: int) -> FloatArray:
    """Return the large model's outcomes as a float array of shape (`n`,).

    Raises
    ------
    FitError
        When there are not `n`, or one is not 0, 1 or NaN.
    """
    outcome = np.asarray(llm, dtype=np.float64)
    if outcome.shape != (n,):
        raise FitError(f"llm has shape {outcome.shape}; expected ({n},), one value per answer")
    if not (np.isnan(outcome) | (outcome == 0.0) | (outcome == 1.0)).all():
        raise FitError("llm must hold only 1, 0 and NaN (not recorded)")
    return outcome


def name_of(key: Key) -> str:
    """Return a row's name for a message."""
    return f"item {key[1]!r} of data set {key[0]!r}"


def _set(part: object, name: str, value: object) -> None:
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.setflags(write=False)
    object.__setattr__(part, name, value)
