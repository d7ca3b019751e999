"""What the GPU benchmark computes from two engines' answers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.gpu import Distance, Limits, Seen, distance, report, share_equal


def seen(*tokens: int, state: float = 1.0) -> Seen:
    return Seen("text", tokens, np.full((2, 4), state, np.float32))


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ((), (), 1.0),
        ((1, 2), (1, 2), 1.0),
        ((1, 2), (1, 2, 3, 4), 0.5),
        ((1, 2, 3, 4), (1, 9, 3, 4), 0.25),  # what follows a difference does not count
        ((), (1,), 0.0),
    ],
)
def test_share_equal(ours: tuple[int, ...], theirs: tuple[int, ...], share: float) -> None:
    assert share_equal(ours, theirs) == share


def test_distance() -> None:
    found = distance(
        [seen(1, 2), seen(3, 4)],
        [seen(1, 2), seen(3, 5, state=1.5)],
        [(-1.0, -2.0), (-3.0,)],
        [(-1.0, -2.0), (-2.4,)],
    )
    assert found.tokens_equal == 0.75
    assert found.logprob_mean == pytest.approx(0.2)
    assert found.logprob_most == pytest.approx(0.6)
    assert found.hidden_mean == pytest.approx(0.25)
    assert found.hidden_most == pytest.approx(0.5)


CLOSE = Distance(1.0, 0.01, 0.1, 0.01, 0.2)


def test_limits() -> None:
    assert CLOSE.beyond(Limits()) == []
    for far in ({"tokens_equal": 0.1}, {"logprob_mean": 0.5}, {"hidden_mean": math.nan}):
        (line,) = dataclasses.replace(CLOSE, **far).beyond(Limits())
        assert line.startswith(next(iter(far)))


def test_report() -> None:
    found = {
        "questions": 20,
        "device": "31 of 31 layers on X",
        "build": "B",
        "cpu": CLOSE,
        "offload": CLOSE,
        "tokens_per_second": {1: 100.0, 128: 2000.0},
    }
    lines = report(found, Limits())
    assert lines[0] == "Device: 31 of 31 layers on X. Build: B."
    assert lines[-1] == "| 128 | 2000.0 |"
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert tables == [7] * 5 + [3] * 4
