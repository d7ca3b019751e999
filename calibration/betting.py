r"""Wealth spread over bets and "no bet": the part that all tests by betting share.

Each bet pays at most 1 on average while the hypothesis is true; then so does any mixture of bets
that was fixed before the outcome, and the wealth is a test supermartingale. By Ville's inequality
it ever reaches 1 / alpha with probability alpha at most.

The mixture follows Herbster and Warmuth, "Tracking the Best Expert", Machine Learning 32 (1998): at
the n-th outcome, a share 1 / (n + 49) of what is not bet is put on the bets, and 1/1000 of each bet
is withdrawn. So a calm spell of n outcomes costs a factor that grows with n, not with exp(n), and a
late change is found nearly as fast as an early one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.metrics import FloatArray

_CALM = 49.0
_WITHDRAWN = 1e-3


@dataclass(frozen=True, slots=True)
class Wealth:
    """What a test has won so far.

    Attributes
    ----------
    log : natural logarithm of the wealth.
    peak : the highest that `log` has been; an alarm stays.
    shares : of the wealth not bet, and on each bet; they add up to 1.
    """

    log: float
    peak: float
    shares: tuple[float, ...]

    @classmethod
    def start(cls, n_bets: int) -> Wealth:
        """Return a wealth of 1, nothing bet."""
        return cls(0.0, 0.0, (1.0,) + (0.0,) * n_bets)

    def after(self, returns: FloatArray, n: int) -> Wealth:
        """Return the wealth after outcome `n` (0 = the first), which paid `returns`, (n_bets,)."""
        growth, shares = grown(np.array(self.shares), returns, n)
        log = self.log + float(growth)
        return Wealth(log, max(self.peak, log), tuple(shares.tolist()))

    @property
    def evidence(self) -> float:
        """The wealth: 1 = none; 10^300 stands for all beyond."""
        return math.exp(self.log) if self.log < 690.0 else 1e300

    def ever_reached(self, evidence: float) -> bool:
        """Tell whether the wealth ever was this high."""
        return self.peak >= math.log(evidence)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"log": self.log, "peak": self.peak, "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, data: Any, n_bets: int) -> Wealth:
        """Rebuild the wealth of a test with `n_bets` bets from `to_dict`'s output.

        Raises
        ------
        CalibrationError
            When a field is missing, unknown or impossible.
        """
        check_fields(cls, data)
        log, peak = number("log", data["log"]), number("peak", data["peak"])
        shares = numbers("shares", data["shares"])
        if len(shares) != 1 + n_bets or min(shares) < 0.0 or not math.isclose(sum(shares), 1.0):
            raise CalibrationError(
                f"drift state: {1 + n_bets} shares must add up to 1, not {shares!r}"
            )
        if peak < max(log, 0.0):
            raise CalibrationError(f"drift state: a peak of {peak!r} is below 0 or log={log!r}")
        return cls(log, peak, shares)


class Evidence:
    """Log wealth of many streams at once, outcome by outcome; for simulations."""

    def __init__(self, n_streams: int, n_bets: int) -> None:
        self._shares = np.tile(np.array(Wealth.start(n_bets).shares), (n_streams, 1))
        self._growth: list[FloatArray] = []

    def add(self, returns: FloatArray) -> None:
        """Add an outcome of each stream; `returns` has shape (n_streams, n_bets)."""
        growth, self._shares = grown(self._shares, returns, len(self._growth))
        self._growth.append(growth)

    def path(self) -> FloatArray:
        """Return the log wealth after each outcome, shape (n_streams, n)."""
        return np.cumsum(np.array(self._growth).T, axis=1)


def grown(shares: FloatArray, returns: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Place the bets of outcome `n` (0 = first), and return the log growth and the new shares.

    `shares` has shape (..., 1 + n_bets), `returns` (..., n_bets).
    """
    idle, bets = shares[..., :1], shares[..., 1:]
    placed, withdrawn = idle / (n + 1.0 + _CALM), bets * _WITHDRAWN
    idle = idle - placed + withdrawn.sum(axis=-1, keepdims=True)
    bets = (bets - withdrawn + placed / bets.shape[-1]) * returns
    paid = np.concatenate([idle, bets], axis=-1)
    total = paid.sum(axis=-1, keepdims=True)
    return np.log(total[..., 0]), paid / total


def check_fields(kind: type[Any], data: Any) -> None:
    """Raise CalibrationError unless `data` has the fields of this dataclass, and no other."""
    names = {field.name for field in fields(kind)}
    if not isinstance(data, Mapping) or set(data) != names:
        raise CalibrationError(f"a drift state's {kind.__name__} has the fields {sorted(names)}")


def number(name: str, value: Any) -> float:
    """Return a value from JSON as a number; raises CalibrationError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CalibrationError(f"drift state: {name} must be a finite number, not {value!r}")
    return float(value)


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return a list from JSON as numbers; raises CalibrationError where it is none."""
    if not isinstance(values, list):
        raise CalibrationError(f"drift state: {name} must be a list, not {values!r}")
    return tuple(number(name, value) for value in values)
