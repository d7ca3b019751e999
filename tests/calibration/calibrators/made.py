"""Answers made up for the tests of calibrators."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from calibration.calibrators import CALIBRATORS, Calibrator
from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray

KINDS = sorted(CALIBRATORS)
OF_PROBABILITIES = ("beta", "temperature")
OF_ANY_SCORE = tuple(kind for kind in KINDS if kind not in OF_PROBABILITIES)

Pairs = list[tuple[float, bool]]


def pairs_of(scores: st.SearchStrategy[float]) -> st.SearchStrategy[Pairs]:
    return st.lists(st.tuples(scores, st.booleans()), min_size=4, max_size=60)


ANY_PAIRS = pairs_of(st.one_of(st.floats(0, 20), st.sampled_from([0.0, 1.0, 2.0])))
PROBABILITY_PAIRS = pairs_of(
    st.one_of(st.floats(0, 1, exclude_min=True, exclude_max=True), st.sampled_from([0.2, 0.5, 0.9]))
)


def answers(n: int, seed: int = 0) -> tuple[FloatArray, BoolArray]:
    """Uncertainties spread over [0, 4] whose P(correct) is a logistic curve, 0.88 to 0.12."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0, 4, n)
    return u, rng.random(n) < 1 / (1 + np.exp(u - 2))


def overconfident(n: int, seed: int = 0, temperature: float = 2.0) -> tuple[FloatArray, BoolArray]:
    """Probabilities of being wrong whose logit is `temperature` times what it should be."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, 1.0, n)
    return 1 / (1 + np.exp(-temperature * truth)), rng.random(n) < 1 / (1 + np.exp(truth))


def answers_for(kind: str, n: int, seed: int = 0) -> tuple[FloatArray, BoolArray]:
    return overconfident(n, seed) if kind in OF_PROBABILITIES else answers(n, seed)


def fit_either_way(kind: str, pairs: Pairs) -> tuple[Calibrator, Pairs]:
    """Fit, with right and wrong changed over where they are ranked the wrong way round.

    Returns also what it was fitted on. Discards the example where neither way can be fitted.
    """
    turned = [(u, not right) for u, right in pairs]
    for way in (pairs, turned):
        with contextlib.suppress(FitError):
            fitted = CALIBRATORS[kind]().fit([u for u, _ in way], [right for _, right in way])
            return fitted, way
    assume(False)
    raise AssertionError("unreachable")
