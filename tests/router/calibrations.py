"""Small calibrations made by hand, of what `samples.engine_info` says is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from calibration.artifact import Calibration
from calibration.band import Band
from calibration.calibrators import PlattCalibrator
from calibration.exits import EarlyStop, Gate
from calibration.figures import BrierScores, EceScores, Histogram, Reference
from calibration.learned import Learned
from calibration.probes import Probe, ProbeInput
from calibration.stack import Part, Stack
from calibration.thresholds import OperatingPoint
from router.binding import binding_of
from router.engine.messages import EngineInfo
from tests.router.samples import engine_info
from uq.signals import HiddenStates

LAYERS = (1, 2)
INFO: EngineInfo = dataclasses.replace(engine_info(Path("tiny.gguf")), hidden_layers=LAYERS)


def falling(middle: float) -> PlattCalibrator:
    """P(correct) is 0.5 at `middle` and falls steeply."""
    return PlattCalibrator.from_dict(
        {"kind": "platt", "slope": -1.0, "intercept": 0.0, "mean": middle, "scale": 0.05, "n": 998}
    )


def probe(place: Any = "prompt_end") -> Probe:
    """Its log-odds of being wrong are the sum of two states, each a mean over `LAYERS`."""
    return Probe(
        ProbeInput(place, LAYERS),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
        ((np.ones((1, 2), np.float32), np.zeros(1, np.float32)),),
    )


def states(prompt_end: float, answer: float = 0.0) -> HiddenStates:
    """States that `probe` sums up to twice the value given for its place."""
    end, rest = (np.full((len(LAYERS), 2), value, np.float32) for value in (prompt_end, answer))
    return HiddenStates(LAYERS, end, rest, rest)


def stack(*names: str) -> Stack:
    """The mean of the signals called `names`, each from 0 to 1, none of them dispensable."""
    parts = [Part(name, (0.0, 1.0), (-6.0, 6.0), 1 / len(names), None, 0.0, 0.0) for name in names]
    return Stack(tuple(parts), intercept=0.0, C=1.0, n=100)


PROBES = {"p_ik": probe(), "answer_probe": probe("answer_mean")}
GATE = Gate("p_ik", above=0.9, max_lost=0.02, lost=0.0, gated=0.1)
EARLY_STOP = EarlyStop(((2, 1.5), (4, 1.0)), max_lost=0.02, lost=0.0, stopped=0.1, saved=0.1)
BAND = Band(
    "perplexity",
    falling(1.0),
    low=0.5,
    high=2.0,
    share=0.4,
    cost=0.1,
    cost_everything=0.25,
    auroc_cheap=0.7,
    auroc=0.79,
    auroc_everything=0.8,
)


def calibration(method: str = "perplexity", **changes: Any) -> Calibration:
    """Keeps what is right with a probability of at least 0.5: perplexity 1, all else 0.5."""
    fields: dict[str, Any] = {
        "binding": binding_of(INFO),
        "method": method,
        "calibrator": falling(1.0 if method == "perplexity" else 0.5),
        "learned": Learned(),
        "band": None,
        "gate": None,
        "early_stop": None,
        "target": "escalation=0.3",
        "confidence": 0.95,
        "cost": None,
        "labels": "gold",
        "labelled_by": "",
        "population": "100 questions made by hand",
        "operating_point": OperatingPoint("escalation=0.3", 0.5, 0.3, 0.8, 0.3, 70, 100),
        "operating_points": (),
        "unreachable": (),
        "routing_curve": (),
        "estimators": {},
        "ece": EceScores(0.2, 0.02, (0.01, 0.03), 0.01, 0.03, 0.02),
        "brier": BrierScores(0.3, 0.2),
        "n": 200,
        "n_fit": 100,
        "n_test": 100,
        "n_unknown": 0,
        "accuracy": 0.6,
        "accuracy_test": 0.6,
        "histogram": Histogram((0.0, 1.0), (100,), 0),
        "reference": Reference.of(np.linspace(0.005, 0.995, 100), np.linspace(0.0, 2.0, 100)),
        "holdout": {},
        "seed": 0,
        "created": "2026-01-01T12:00:00Z",
    }
    return Calibration(**(fields | changes))
