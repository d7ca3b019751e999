"""What keeps p_correct from tying: a trace of the raw score.

Levels are flat where they know no better: between two steps, beyond the last answers seen, at a
bound. Decisions are made on p_correct alone, so a tie there would keep or escalate many answers
together although their scores differ. A share of `TILT` of a function that falls strictly parts
them, and moves no probability by more than `TILT`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.metrics import FloatArray

TILT = 1e-6
"""Share of the strictly falling function in p_correct."""


@dataclass(frozen=True, slots=True)
class Tilt:
    """A function of the uncertainty that falls strictly from 1 to 0, as far as doubles can tell.

    With z = (u - centre) / spread it is 1/2 - z / (2 (1 + abs z)), which saturates at no score met
    in practice. For a score that is a probability it is the mean of that and of
    1 / (1 + (u / (1 - u))^(1/4)), which still parts 1e-12 from 1e-13. Both are made of operations
    that IEEE 754 rounds correctly, so rounding never turns the order round.

    Attributes
    ----------
    centre, spread : float
        Of the scores; spread > 0.
    probability : bool
        Whether the scores lie strictly between 0 and 1.
    """

    centre: float
    spread: float
    probability: bool

    @classmethod
    def around(cls, scores: FloatArray) -> Tilt:
        """Return the tilt for scores like these, at least two of which differ."""
        x = np.unique(scores)
        centre = x[len(x) // 2]
        with np.errstate(over="ignore"):
            spread = np.sum(np.abs(x - centre) / len(x))
        spread = np.clip(spread, np.finfo(np.float64).tiny, np.finfo(np.float64).max)
        return cls(float(centre), float(spread), bool(x[0] > 0.0 and x[-1] < 1.0))

    def __call__(self, u: FloatArray) -> FloatArray:
        """Return values in [0, 1] of the shape of `u`; NaN where that is NaN."""
        with np.errstate(over="ignore", divide="ignore"):
            z = (u - self.centre) / self.spread
            falling = np.where(z < 0.0, 1.0 - 0.5 / (1.0 - z), 0.5 / (1.0 + z))
            if self.probability:
                inside = np.clip(u, 0.0, 1.0)
                odds = inside / (1.0 - inside)
                falling = (falling + 1.0 / (1.0 + np.sqrt(np.sqrt(odds)))) / 2.0
        return np.asarray(falling)


def tilted(level: FloatArray, falling: FloatArray) -> FloatArray:
    """Return (1 - TILT) level + TILT falling: strictly falling where one of them is."""
    return np.asarray((1.0 - TILT) * level + TILT * falling)
