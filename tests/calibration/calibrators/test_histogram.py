from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calibration.calibrators import HistogramCalibrator, calibrator_from_dict
from calibration.errors import ArtifactError
from tests.calibration.calibrators.made import answers

HISTOGRAM = {
    "kind": "histogram",
    "edges": [0.0, 1.0, 3.0],
    "levels": [0.8, 0.2],
    "n": 10,
}


def test_bins_of_equal_mass_take_laplaces_estimate() -> None:
    # 27 answers: 3 bins of 9, with 8, 5 and 1 right ones.
    u = np.arange(27.0)
    right = np.array([1] * 8 + [0] + [1] * 5 + [0] * 4 + [1] + [0] * 8)
    fitted = HistogramCalibrator().fit(u, right)
    assert fitted.edges_.tolist() == [0.0, 8.0, 17.0, 26.0]
    assert fitted.levels_.tolist() == pytest.approx([9 / 11, 6 / 11, 2 / 11])
    p = fitted.predict([-9.0, 8.0, 8.1, 17.0, 17.1, 99.0])
    assert p.tolist() == pytest.approx(np.repeat([9 / 11, 6 / 11, 2 / 11], 2), abs=1e-6)


def test_bins_in_the_wrong_order_are_pooled() -> None:
    u = np.arange(27.0)
    right = np.array([1] * 9 + [1] + [0] * 8 + [1] * 3 + [0] * 6)
    fitted = HistogramCalibrator().fit(u, right)
    assert fitted.edges_.tolist() == [0.0, 8.0, 26.0]
    assert fitted.levels_.tolist() == pytest.approx([10 / 11, 6 / 22])


def test_equal_scores_share_a_bin() -> None:
    u = np.repeat([1.0, 2.0], [20, 7])
    fitted = HistogramCalibrator().fit(u, [1] * 18 + [0] * 2 + [1] + [0] * 6)
    assert fitted.edges_.tolist() == [1.0, 1.0, 2.0]
    assert fitted.levels_.tolist() == pytest.approx([19 / 22, 2 / 9])


def test_there_are_as_many_bins_as_the_cube_root_of_n() -> None:
    u = np.arange(1000.0)
    right = np.random.default_rng(0).random(1000) < 1 - (u // 100) / 10
    assert len(HistogramCalibrator().fit(u, right).levels_) == 10


def test_weights_move_the_edges() -> None:
    u, right = answers(1000)
    fitted = HistogramCalibrator().fit(u, right, np.where(u < 1, 10.0, 1.0))
    assert (fitted.edges_ < 1).sum() > (HistogramCalibrator().fit(u, right).edges_ < 1).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [0.0, 1.0]}, "one edge more than levels"),
        ({"edges": [0.0, 1.0], "levels": [0.5]}, "two levels or more"),
        ({"edges": [0.0, 3.0, 3.0]}, "edges must increase"),
        ({"edges": [2.0, 1.0, 3.0]}, "edges must increase"),
        ({"levels": [0.5, 0.5]}, "levels must decrease"),
        ({"levels": [1.0, 0.5]}, "inside"),
        ({"levels": [0.5, 0.0]}, "inside"),
    ],
)
def test_what_no_fit_leaves_is_refused(change: dict[str, Any], message: str) -> None:
    assert calibrator_from_dict(HISTOGRAM).to_dict() == HISTOGRAM
    with pytest.raises(ArtifactError, match=message):
        calibrator_from_dict(HISTOGRAM | change)
