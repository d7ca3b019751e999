"""What the online controller makes of a set of questions that no one has seen.

`calibration.controller` holds a share of escalated queries without labels. Here it starts from the
scores of a hold-out and meets a stream of answers from the set left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.controller import ControllerState, EscalationController
from calibration.metrics import FloatArray

STREAM = 400
"""Queries of a stream."""

SETTLED = 200
"""Queries after which the ratio should be held."""


@dataclass(frozen=True, slots=True)
class Held:
    """One wanted ratio and what the controller achieved, each in [0, 1].

    Attributes
    ----------
    wanted : share of queries to escalate.
    first : share escalated of the first `SETTLED` queries.
    later : share escalated of those after them.
    """

    wanted: float
    first: float
    later: float


def hold_ratios(
    pool: FloatArray, own: FloatArray, wanted: Sequence[float], *, seed: int
) -> tuple[Held, ...]:
    """Stream answers past a controller, for each wanted ratio.

    Parameters
    ----------
    pool : uncertainty of the hold-out, of shape (m,); NaN = unknown.
    own : uncertainty of the set's answers, of shape (n,), drawn from with replacement.
    wanted : escalation ratios.
    seed : of the draw, which is the same for every ratio.
    """
    reference = _p_correct(pool, pool).tolist()
    drawn = np.random.default_rng(seed).integers(len(own), size=STREAM)
    stream = _p_correct(own, pool)[drawn].tolist()
    return tuple(_hold(ratio, reference, stream) for ratio in wanted)


def _hold(ratio: float, reference: Sequence[float], stream: Sequence[float]) -> Held:
    controller, state = EscalationController(ratio, reference), ControllerState()
    escalated = []
    for p_correct in stream:
        escalated.append(controller.escalates(state, p_correct))
        state = controller.after(state, p_correct, float(escalated[-1]))
    return Held(ratio, float(np.mean(escalated[:SETTLED])), float(np.mean(escalated[SETTLED:])))


def _p_correct(uncertainty: FloatArray, pool: FloatArray) -> FloatArray:
    """Turn uncertainty into [0, 1], the surest highest: of a score, the controller sees the order
    alone."""
    known = pool[np.isfinite(pool)]
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else (0.0, 0.0, 0.0)
    return np.asarray(0.5 - np.arctan((uncertainty - middle) / ((high - low) or 1.0)) / np.pi)
