"""Many signals in one: a logistic regression over the uncertainties of one answer.

`calibration.stack_fit` fits it; a gateway only predicts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ConfigDict, TypeAdapter, ValidationError

from calibration.errors import ArtifactError
from calibration.metrics import FloatArray

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Part:
    """What a stack knows of one signal.

    Parameters
    ----------
    name : of the estimator.
    x, z : tuples of k >= 2 floats
        Corners of a piecewise linear function, constant beyond them, from the signal to standard
        scores: x strictly increasing, z not decreasing.
    weight : float
        Log-odds of being wrong per unit of z.
    weight_missing : float or None
        Log-odds when the signal is missing. None: it never was, and the stack can't do without it.
    slope, intercept : float
        The logistic curve of this signal alone, for when the stack can't be used.
    """

    __pydantic_config__ = _STRICT

    name: str
    x: tuple[float, ...]
    z: tuple[float, ...]
    weight: float
    weight_missing: float | None
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if len(self.x) < 2 or len(self.x) != len(self.z):
            raise ArtifactError(f"stack, part {self.name!r}: x and z must be of one length, >= 2")
        if np.any(np.diff(self.x) <= 0) or np.any(np.diff(self.z) < 0):
            raise ArtifactError(f"stack, part {self.name!r}: x must increase and z not decrease")

    def standardise(self, signal: FloatArray) -> FloatArray:
        """Return standard scores; NaN where `signal` is not finite."""
        known = np.where(np.isfinite(signal), signal, np.nan)
        return np.asarray(np.interp(known, self.x, self.z))


@dataclass(frozen=True, slots=True)
class Stack:
    r"""An L2-logistic regression of being wrong over standardised signals.

    .. math:: \mathrm{logit} = b + \sum_j w_j z_j(u_j)

    z_j maps the ranks of signal j among the answers fitted on to those of a standard normal
    distribution, in corners with straight lines between: no tail is heavy, and a signal further
    out than any seen counts as the furthest seen. C decides how the w_j compare; their scale is
    such that the log-odds are right on answers left out of the fit.

    A signal that some questions don't have (option scores of a free-form one) has a term of its
    own for being missing. When a signal is missing that never was, the stack can't be used: the
    first of `parts` speaks alone that is present and ranks. With none the answer is NaN.

    Parameters
    ----------
    parts : tuple of Part
        The one that predicts best alone first.
    intercept : float
        b.
    C : float
        The inverse of the penalty that was chosen.
    n : int
        How many answers it was fitted on.

    References
    ----------
    Wolpert, "Stacked Generalization", 1992. Breiman, "Stacked Regressions", 1996 (weights that
    can't be negative).
    """

    __pydantic_config__ = _STRICT

    parts: tuple[Part, ...]
    intercept: float
    C: float
    n: int

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.needs)) < len(self.parts):
            raise ArtifactError(f"stack: parts must be of different names, not {self.needs}")
        if self.C <= 0 or self.n < 2:
            raise ArtifactError(f"stack: C = {self.C} must be positive and n = {self.n} at least 2")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the signals it reads."""
        return tuple(part.name for part in self.parts)

    def predict(self, scores: Mapping[str, ArrayLike]) -> FloatArray:
        """Return the log-odds of being wrong; NaN where no signal that ranks is known.

        Parameters
        ----------
        scores : mapping
            Signals by name, numbers or arrays that broadcast together. One that is not there, NaN
            or infinite is missing; others than `needs` are ignored.

        Returns
        -------
        float array
            Of the signals' common shape; ``float(...)`` of it when they are numbers.
        """
        columns = [np.asarray(scores.get(name, np.nan), dtype=np.float64) for name in self.needs]
        shape = np.broadcast_shapes(*(column.shape for column in columns))
        z = [
            part.standardise(np.broadcast_to(column, shape))
            for part, column in zip(self.parts, columns, strict=True)
        ]
        logit = np.full(shape, self.intercept)
        for part, values in zip(self.parts, z, strict=True):
            missing = math.nan if part.weight_missing is None else part.weight_missing
            logit += np.where(np.isnan(values), missing, part.weight * values)
        logit[np.isnan(z).all(axis=0)] = np.nan
        for part, values in zip(self.parts, z, strict=True):
            if part.slope > 0.0:
                alone = part.intercept + part.slope * values
                logit = np.where(np.isnan(logit), alone, logit)
        return np.asarray(logit)

    def score(self, scores: Mapping[str, ArrayLike]) -> FloatArray:
        """Return P(wrong) in [0, 1], or NaN, as `predict` does the log-odds."""
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            return np.asarray(np.exp(-np.logaddexp(0.0, -self.predict(scores))))

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned, ready for JSON; `from_dict` is the exact inverse."""
        plain: dict[str, Any] = _stack_type().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stack:
        """Rebuild from `to_dict`'s output.

        Raises
        ------
        ArtifactError
            When a field is missing, unknown, of the wrong type or not one that a fit can leave.
        """
        try:
            return _stack_type().validate_json(json.dumps(dict(data)), strict=True)
        except (TypeError, ValidationError, ValueError) as error:
            raise ArtifactError(f"stack can't be used: {error}") from error


_types: list[TypeAdapter[Stack]] = []


def _stack_type() -> TypeAdapter[Stack]:
    if not _types:  # built once, on first use: its schema needs the finished class
        _types.append(TypeAdapter(Stack))
    return _types[0]
