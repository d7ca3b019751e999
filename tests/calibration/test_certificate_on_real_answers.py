"""Certificates on recorded answers of a real model: kept on unseen rows of the same population.

Without the shared data sets, answers made up to look like theirs stand in.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from calibration.calibrators import PlattCalibrator
from calibration.certificates import attempt
from calibration.datasets import read_items
from calibration.evaluated_rows import RECORDED, recorded_rows
from calibration.metrics import BoolArray, FloatArray
from calibration.parts import FitPart, Grid, HeldOutPart
from calibration.targets import Target
from calibration.thresholds import binomial_interval
from tests.calibration.test_shared_data import FOLDER

DRAWS = 600
N_FIT = N_HELD_OUT = 300
DELTA = 0.1


@functools.cache
def population(model: str) -> tuple[FloatArray, BoolArray]:
    """Uncertainty and correctness of all recorded answers of `model`."""
    path = FOLDER / "mmlu_val.jsonl.gz"
    if not path.exists():
        rng = np.random.default_rng(len(model))
        right = rng.random(750) < 0.55
        return np.clip(rng.normal(np.where(right, 0.3, 0.5), 0.2), 0.001, 0.999), right
    rows = recorded_rows(read_items([path], skip_bad=True).items, model)
    known = [row for row in rows if np.isfinite(row.scores[RECORDED])]
    return (
        np.array([row.scores[RECORDED] for row in known]),
        np.array([row.correct for row in known], dtype=np.bool_),
    )


def drawn(part: str, rows: np.ndarray) -> tuple[tuple[str, str], ...]:
    """Names for rows drawn with replacement: each draw is a question of its own."""
    return tuple((part, str(i)) for i in range(len(rows)))


@pytest.mark.parametrize(("model", "risk"), [("llama3.2-1b", 0.4), ("llama3.1-8b", 0.2)])
def test_a_certified_risk_is_broken_no_more_often_than_stated(model: str, risk: float) -> None:
    u, right = population(model)
    rng = np.random.default_rng(7)
    issued = broken = 0
    for _ in range(DRAWS):
        fit, held_out = rng.integers(len(u), size=(2, N_FIT))
        calibrator = PlattCalibrator().fit(u[fit], right[fit])
        p = calibrator.predict(u)
        certificate = attempt(
            Grid(FitPart(keys=drawn("fit", fit), p_correct=p[fit], correct=right[fit])),
            HeldOutPart(
                keys=drawn("held out", held_out),
                p_correct=p[held_out],
                correct=right[held_out],
                population="recorded answers",
            ),
            [Target("risk", risk)],
            1 - DELTA,
        )
        if certificate is not None:
            issued += 1
            broken += bool((~right[p >= certificate.threshold]).mean() > risk)
    assert issued > DRAWS / 10, "too seldom issued to tell"
    assert binomial_interval(broken, DRAWS)[0] <= DELTA
