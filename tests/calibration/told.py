"""Records whose hidden states, or what the model says of its answer, tell right from wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from calibration.records import Record
from calibration.trained import Answers
from uq.signals import SIGNAL_COST, Float32Array, HiddenStates

LAYERS = (18, 20)
WIDTH = 12
N_LAYER = 26  # so that the 8th layer from the end is layer 18


@contextmanager
def dear_p_true() -> Iterator[None]:
    """Set a price at which p(True) is only sometimes worth it, whatever was last measured."""
    with patch.dict(SIGNAL_COST, p_true=0.25):
        yield


def states(rng: np.random.Generator, towards_wrong: float) -> HiddenStates:
    """Noise, and `towards_wrong` in one direction at the answer, half of it at the prompt."""
    direction = np.zeros(WIDTH)
    direction[:4] = (0.5, -0.5, 0.5, 0.5)

    def draw(share: float) -> Float32Array:
        noise = rng.normal(size=(len(LAYERS), WIDTH))
        return (noise + share * towards_wrong * direction).astype(np.float32)

    return HiddenStates(LAYERS, draw(0.5), draw(1.0), draw(1.0))


def with_states(
    records: list[Record], *, strength: float = 2.5, seed: int = 0, relabel: bool = False
) -> list[Record]:
    """Give each record hidden states that lie `strength` apart for right and for wrong answers.

    `relabel` draws new labels first, which nothing tells.
    """
    rng = np.random.default_rng(seed)
    if relabel:
        records = [replace(record, correct=bool(rng.random() < 0.5)) for record in records]
    return [
        replace(
            record,
            trace=replace(record.trace, hidden=states(rng, 0.0 if record.correct else strength)),
        )
        for record in records
    ]


def with_p_true(records: list[Record], *, strength: float = 3.0, seed: int = 1) -> list[Record]:
    """Give each record the log-probabilities of True and False, asked whether it is right."""
    rng = np.random.default_rng(seed)
    out = []
    for record in records:
        logit = rng.normal() + strength * (0.5 if record.correct else -0.5)
        pair = (float(-np.logaddexp(0.0, -logit)), float(-np.logaddexp(0.0, logit)))
        out.append(replace(record, trace=replace(record.trace, p_true=pair)))
    return out


def answers_of(records: list[Record], *, groups: int = 1) -> Answers:
    """What there is to learn from, with one registered score: perplexity."""
    return Answers(
        traces=[record.trace for record in records],
        wrong=np.array([not record.correct for record in records]),
        scores={"perplexity": np.array([-record.trace.logprobs.mean() for record in records])},
        groups=np.array([f"set {i % groups}" for i in range(len(records))]),
        n_layer=N_LAYER,
    )
