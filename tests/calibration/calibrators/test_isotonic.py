from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from calibration.calibrators import IsotonicCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError
from tests.calibration.calibrators.made import answers

ISOTONIC = {"kind": "isotonic", "x": [1.0, 2.0], "y": [0.8, 0.2], "n": 10}


def test_it_pools_what_violates_the_order() -> None:
    # Shares right 3/4, 1/4, 2/4, 0/2 at u = 1, 2, 3, 4: the middle two pool to 3/8.
    u = np.repeat([1, 2, 3, 4], [4, 4, 4, 2])
    right = [1, 1, 1, 0, *[1, 0, 0, 0], *[1, 1, 0, 0], *[0, 0]]
    p = IsotonicCalibrator().fit(u, right).predict([1, 2, 3, 4])
    expected = [3 / 4, 3 / 8, 3 / 8, 1 / 4]  # the last: (0 + 1) / (2 + 2)
    assert p.tolist() == pytest.approx(expected, abs=1e-6)


def test_it_is_linear_between_its_corners_and_all_but_constant_beyond() -> None:
    u = np.repeat([1.0, 2.0], 4)
    calibrator = IsotonicCalibrator().fit(u, [1, 1, 1, 0, 1, 0, 0, 0])
    p = calibrator.predict([-5, 1, 1.25, 1.5, 2, 9])
    assert p.tolist() == pytest.approx([0.75, 0.75, 0.625, 0.5, 0.25, 0.25], abs=1e-6)


def test_pure_ends_take_laplaces_estimate() -> None:
    u = np.arange(8.0)
    p = IsotonicCalibrator().fit(u, [1, 1, 1, 0, 1, 0, 0, 0]).predict(u)
    assert p.tolist() == pytest.approx([4 / 5] * 3 + [1 / 2] * 2 + [1 / 5] * 3, abs=1e-6)


def test_pure_ends_never_pass_their_neighbours() -> None:
    # One right answer, then 9 of 10: 2/3 would fall below 9/10. The same upside down at the end.
    u = np.repeat([1.0, 2.0, 3.0, 4.0], [1, 10, 10, 1])
    right = [1] + [1] * 9 + [0] + [1] + [0] * 9 + [0]
    p = IsotonicCalibrator().fit(u, right).predict([1, 2, 3, 4])
    assert p.tolist() == pytest.approx([0.9, 0.9, 0.1, 0.1], abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_scikit_learn_but_for_pure_ends(weighted: bool) -> None:
    u, right = answers(500)
    weight = np.random.default_rng(2).uniform(0.5, 2.0, 500) if weighted else np.ones(500)
    model = IsotonicRegression(increasing=False).fit(u, right, weight)
    expected = model.predict(u)
    impure = (expected > 0) & (expected < 1)
    assert impure.sum() > 400
    p = IsotonicCalibrator().fit(u, right, weight).predict(u)
    np.testing.assert_allclose(p[impure], expected[impure], atol=1e-6)


def test_what_is_read_is_what_was_written() -> None:
    assert calibrator_from_dict(ISOTONIC).to_dict() == ISOTONIC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [1.0, math.nan]}, "'x' is not finite"),
        ({"x": [2.0, 1.0]}, "not the corners of a function"),
        ({"x": [1.0]}, "not the corners of a function"),
        ({"x": [1.0], "y": [0.5]}, "not the corners of a function"),
        ({"y": [0.2, 0.8]}, "must not increase"),
        ({"y": [1.0, 0.2]}, "must not increase and lie inside"),
        ({"y": [0.8, 0.0]}, "must not increase and lie inside"),
    ],
)
def test_what_no_fit_leaves_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        calibrator_from_dict(ISOTONIC | change)
