from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from calibration import smooth_ece as module
from calibration.errors import FitError
from calibration.metrics import BoolArray, FloatArray, ece
from calibration.smooth_ece import smooth_ece, smooth_ece_under_calibration

ROW = np.arange(500)
P = (ROW + 0.5) / 500
DRAW = (ROW * 7919 % 500 + 0.5) / 500
"""Evenly spread over [0, 1] in an order that has nothing to do with P's."""

WORLDS: dict[str, tuple[FloatArray, BoolArray, float]] = {
    "bent": (P, DRAW < P**1.1, 0.02829),
    "calibrated": (P, DRAW < P, 0.02062),
    "too bold": (P, DRAW < 0.1 + 0.8 * P, 0.05840),
    "wavy": (P, P + 0.08 * np.sin(8 * P) > DRAW, 0.04730),
}
"""p, right, and what `relplot.smECE` makes of them, PyPI relplot 1.0.3."""


def by_quadrature(p: FloatArray, right: BoolArray, s: float) -> float:
    """smECE_s by its formula: each Gaussian with its mirror images at 0 and 1."""
    t = (np.arange(2000) + 0.5) / 2000
    density = np.zeros((len(t), len(p)))
    for image in range(-4, 5):
        for mirrored in (p, -p):
            density += np.exp(-(((t[:, np.newaxis] - mirrored - 2 * image) / s) ** 2) / 2)
    density /= s * math.sqrt(2 * math.pi)
    return float(np.abs(density @ (right - p) / len(p)).mean())


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("world", WORLDS)
def test_it_equals_the_authors_implementation(world: str) -> None:
    p, right, expected = WORLDS[world]
    assert smooth_ece(p, right) == pytest.approx(expected, abs=0.0015)  # theirs is found to 0.001


@pytest.mark.parametrize("p", [P, P**2, np.where(ROW % 2, 0.2, 0.9), np.full(500, 0.07)])
def test_it_is_the_scale_at_which_the_smoothed_error_equals_the_scale(p: FloatArray) -> None:
    value = smooth_ece(p, DRAW < 0.4)
    assert by_quadrature(p, DRAW < 0.4, value) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(("share", "error"), [(0.5, 0.3), (0.8, 0.0), (1.0, 0.2), (0.0, 0.8)])
def test_of_one_probability_it_is_the_distance_to_the_share(share: float, error: float) -> None:
    right = np.arange(10) < 10 * share
    assert smooth_ece(np.full(10, 0.8), right) == pytest.approx(error, abs=2e-5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certainty_that_is_right_has_no_error_and_that_is_wrong_has_all(p: float) -> None:
    assert smooth_ece([p] * 5, [bool(p)] * 5) == pytest.approx(0.0, abs=2e-5)
    assert smooth_ece([p] * 5, [not p] * 5) == pytest.approx(1.0, abs=2e-5)


def test_next_to_no_difference_is_next_to_no_error_where_bins_see_one_of_one_half() -> None:
    right = ROW < 250
    p = np.where(right, 0.5 + 1e-6, 0.5)
    assert ece(p, right) == pytest.approx(0.5, abs=1e-5)
    assert smooth_ece(p, right) < 2 * math.sqrt(1e-6)


def test_the_order_of_rows_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(500)
    value = smooth_ece(P[order], (DRAW < P**1.1)[order])
    assert value == pytest.approx(smooth_ece(P, DRAW < P**1.1), abs=1e-12)


def test_what_calibrated_answers_show_is_what_is_expected_of_them() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(2, 1, 400)
    shown = [smooth_ece(p, rng.random(400) < p) for _ in range(60)]
    expected = smooth_ece_under_calibration(p)
    assert np.mean(shown) == pytest.approx(expected, rel=0.1)
    assert smooth_ece_under_calibration(p) == expected
    assert smooth_ece_under_calibration(np.tile(p, 9)) < expected / 1.8


def test_certain_answers_can_show_none() -> None:
    assert smooth_ece_under_calibration([0.0, 1.0, 1.0], n_sim=5) == pytest.approx(0.0, abs=2e-5)


@pytest.mark.parametrize(
    ("p", "right", "message"),
    [
        ([0.5, 1.1], [1, 0], r"must be in \[0, 1\], but spans 0.5 to 1.1"),
        ([0.5, math.nan], [1, 0], "1 of 2 values of p_correct are not finite"),
        ([], [], "p_correct is empty"),
        ([0.5], [2], "only True and False"),
    ],
)
def test_what_cannot_be_measured_is_named(p: list[float], right: list[int], message: str) -> None:
    with pytest.raises(FitError, match=message):
        smooth_ece(p, right)


def test_there_must_be_a_simulation() -> None:
    with pytest.raises(FitError, match="n_sim must be at least 1, not 0"):
        smooth_ece_under_calibration([0.5], n_sim=0)
