"""What all calibrators share: checks, the tilt, and how they are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.calibrators.tilt import Tilt, tilted
from calibration.errors import ArtifactError, FitError
from calibration.metrics import BoolArray, FloatArray, check_pairs


class Calibrator(ABC):
    """What turns an uncertainty into P(correct), once fitted.

    A subclass learns in `_learn`, gives its estimate in `_level` and writes itself down in
    `_fields` and `_read`; all that holds for every kind is done here.

    Attributes
    ----------
    kind : str
        Its name in settings and artifacts.
    n_ : int
        Number of answers it was fitted on; of unequally weighted ones the effective number, Kish's
        (sum w)^2 / sum w^2, rounded down.
    """

    kind: ClassVar[str]

    n_: int

    def fit(
        self,
        uncertainty: ArrayLike,
        correct: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from labelled answers, and return self.

        Parameters
        ----------
        uncertainty : array-like of shape (n,)
            Finite; higher = less sure.
        correct : array-like of shape (n,)
            Whether each answer is right.
        sample_weight : array-like of shape (n,), optional
            Positive; how much each answer counts against the others. Only ratios matter, and equal
            weights are no weights.

        Raises
        ------
        FitError
            On one class only, on scores or weights that are not finite, on weights that are not
            positive, and when p_correct would not fall with uncertainty: the score does not rank.
        """
        u, right = check_pairs(uncertainty, correct, both=True)
        weight = effective_weights(sample_weight, len(u))
        if u.min() == u.max():
            raise does_not_rank("it is the same for all of them")
        self._learn(u, right, weight)
        self.n_ = max(2, int(weight.sum() + 1e-6))
        return self

    def predict(self, uncertainty: ArrayLike) -> FloatArray:
        """Return p_correct in (0, 1), of the shape of `uncertainty`; NaN where that is not finite.

        A higher uncertainty never gets a higher p_correct, and always a lower one where the
        difference is more than doubles round off (see `calibration.calibrators.tilt`).

        Raises
        ------
        FitError
            Before `fit`.
        """
        self._require_fit()
        u = known(uncertainty)
        return tilted(self._level(u), self._tilt()(u))

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned, ready for JSON; `from_dict` is the exact inverse."""
        self._require_fit()
        return {"kind": self.kind, **self._fields(), "n": self.n_}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s output; predictions are the same to the bit.

        Raises
        ------
        ArtifactError
            When a field is missing or not one that a fit can leave.
        """
        self = cls()
        self._read(data)
        self.n_ = _count(data)
        return self

    def _require_fit(self) -> None:
        if not hasattr(self, "n_"):
            raise FitError(f"{type(self).__name__} is not fitted yet; call fit first")

    @abstractmethod
    def _learn(self, u: FloatArray, right: BoolArray, weight: FloatArray) -> None:
        """Learn from checked answers of both classes; weights sum to their effective number."""

    @abstractmethod
    def _level(self, u: FloatArray) -> FloatArray:
        """Return P(correct) in (0, 1), never rising with `u`; NaN where that is NaN."""

    @abstractmethod
    def _tilt(self) -> Tilt:
        """Return what parts answers of equal level."""

    @abstractmethod
    def _fields(self) -> dict[str, Any]:
        """Return what was learned, but for kind and n."""

    @abstractmethod
    def _read(self, data: Mapping[str, Any]) -> None:
        """Take over what `_fields` returned. Raises ArtifactError."""


def effective_weights(sample_weight: ArrayLike | None, n: int) -> FloatArray:
    """Return weights that sum to Kish's effective number; all exactly 1 when they are equal.

    Raises
    ------
    FitError
        When there are not `n` of them, or one is not a positive finite number.
    """
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,):
        raise FitError(f"sample_weight has shape {weight.shape}, but there are {n} answers")
    broken = np.flatnonzero(~(np.isfinite(weight) & (weight > 0.0)))
    if len(broken):
        raise FitError(
            f"{len(broken)} of {n} weights are not positive numbers, the first "
            f"({weight[broken[0]]}) at row {broken[0]}; leave rows that should not count out"
        )
    if weight.min() == weight.max():
        return np.ones(n)
    weight = weight / weight.max()
    return np.asarray(weight * (weight.sum() / np.sum(weight**2)))


def known(uncertainty: ArrayLike) -> FloatArray:
    """Return `uncertainty` with NaN for what is not finite."""
    u = np.asarray(uncertainty, dtype=np.float64)
    return np.where(np.isfinite(u), u, np.nan)


def does_not_rank(why: str) -> FitError:
    """Return the error of a score from which P(correct) can't be told."""
    return FitError(
        f"the score does not rank these answers: {why}. Use another estimator, or more answers"
    )


def numbers(data: Mapping[str, Any], field: str) -> NDArray[np.float64]:
    """Return the finite numbers in `field`; raise ArtifactError when there are none."""
    try:
        values = np.asarray(data[field], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"calibrator: {field!r} is missing or not of numbers") from error
    if not np.isfinite(values).all():
        raise ArtifactError(f"calibrator: {field!r} is not finite")
    return values


def number(data: Mapping[str, Any], field: str) -> float:
    """Return the finite number in `field`; raise ArtifactError when there is none."""
    value = numbers(data, field)
    if value.ndim != 0:
        raise ArtifactError(f"calibrator: {field!r} is not a single number")
    return float(value)


def _count(data: Mapping[str, Any]) -> int:
    n = data.get("n")
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise ArtifactError(f"calibrator: 'n' must be a whole number of at least 2, not {n!r}")
    return n
