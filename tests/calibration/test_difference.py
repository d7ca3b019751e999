"""What a new calibration changes, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from calibration.artifact import Calibration
from calibration.calibrators import Calibrator, PlattCalibrator
from calibration.difference import changes, difference, to_json
from calibration.figures import EstimatorQuality
from tests.calibration.test_artifact import (
    BINDING,
    CALIBRATION,
    PLATT,
    POINT,
    PROBED,
    RISK_POINT,
)
from tests.calibration.test_fit import fitted_with_band


class Other(PlattCalibrator):
    """A calibrator of another kind."""

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "kind": "other"}


OTHER: Calibrator = Other.from_dict(PLATT)


def changed(**fields: Any) -> Calibration:
    return replace(CALIBRATION, **fields)


def in_use(**fields: Any) -> Calibration:
    return changed(operating_point=replace(POINT, **fields))


def test_a_calibration_does_not_differ_from_itself() -> None:
    assert difference(CALIBRATION, CALIBRATION) == []
    assert to_json(CALIBRATION, CALIBRATION)["changes"] == []


def test_what_decides_nothing_is_left_out() -> None:
    assert difference(CALIBRATION, changed(created="2027-01-01T12:00:00+00:00", seed=3)) == []


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (in_use(threshold=0.6), "threshold: 0.500 -> 0.600"),
        (in_use(threshold=0.50000001), "threshold: 0.5 -> 0.50000001"),
        (changed(target="risk=0.1"), "target: escalation=0.5 -> risk=0.1"),
        (in_use(escalation_ratio=0.253), "escalation ratio: 50.0% -> 25.3%"),
        (in_use(accuracy_kept=0.9), "accuracy kept: 80.0% -> 90.0%"),
        (in_use(accuracy_kept=None), "accuracy kept: 80.0% -> none"),
        (changed(accuracy=0.5), "accuracy of all answers: 60.0% -> 50.0%"),
        (changed(n=300), "n: 250 -> 300"),
        (changed(n_fit=200), "n_fit: 150 -> 200"),
        (
            changed(estimators={"perplexity": EstimatorQuality(0.8, (0.7, 0.9), 250)}),
            "AUROC of the method: 0.750 -> 0.800",
        ),
        (changed(estimators={}), "AUROC of the method: 0.750 -> none"),
        (changed(calibrator=OTHER), "calibrator: platt -> other"),
        (
            changed(binding=replace(BINDING, model_sha256="m2")),
            "bound to, model_sha256: m1 -> m2",
        ),
    ],
)
def test_one_line_for_one_change(new: Calibration, line: str) -> None:
    assert difference(CALIBRATION, new) == [line]


def test_another_method_has_another_alignment() -> None:
    assert difference(CALIBRATION, changed(method="margin")) == [
        "method: perplexity -> margin",
        "AUROC of the method: 0.750 -> none",
    ]


def test_the_population_is_compared_field_by_field() -> None:
    holdout: Mapping[str, Any] = {"name": "traffic", "seed": 0, "feedback": {"rows": 12}}
    assert difference(CALIBRATION, changed(holdout=holdout)) == [
        "population, families: ['sums', 'logic'] -> none",
        "population, feedback: none -> {'rows': 12}",
        "population, name: built-in -> traffic",
    ]
    deeper = {**holdout, "feedback": {"rows": 13}}
    assert difference(changed(holdout=holdout), changed(holdout=deeper)) == [
        "population, feedback, rows: 12 -> 13"
    ]


def test_long_values_are_cut_unless_only_their_ends_differ() -> None:
    (line,) = difference(changed(holdout={"name": "a" * 100}), changed(holdout={"name": "b"}))
    assert line == f"population, name: {'a' * 77}... -> b"
    (line,) = difference(
        changed(holdout={"name": "a" * 100}), changed(holdout={"name": "a" * 100 + "b"})
    )
    assert line == f"population, name: {'a' * 100} -> {'a' * 100}b"


def test_operating_points_are_compared_by_target() -> None:
    points = (
        replace(POINT, target="risk=0.2", threshold=0.7, escalation_ratio=0.7, accuracy_kept=None),
        replace(POINT, target="risk=0.02", threshold=0.9, accuracy_kept=1.0),
    )
    assert difference(CALIBRATION, changed(operating_points=points)) == [
        "escalation=0.5: threshold 0.500 (50.0% escalated, 80.0% of the kept right) -> not reached",
        "risk=0.2: threshold 0.750 (60.0% escalated, 92.5% of the kept right) -> "
        "threshold 0.700 (70.0% escalated, none kept)",
        "risk=0.02: not reached -> threshold 0.900 (50.0% escalated, 100.0% of the kept right)",
    ]


def test_a_certificate_comes_and_changes() -> None:
    certificate = RISK_POINT.certificate
    assert certificate is not None
    certain = in_use(certificate=certificate)
    (line,) = difference(CALIBRATION, certain)
    assert line.startswith("certificate: none -> {'threshold': 0.75, 'claims': [{'kind': 'risk'")
    other = replace(certificate, confidence=0.9, population="questions of another kind")
    assert difference(certain, in_use(certificate=other)) == [
        "certificate, confidence: 0.950 -> 0.900",
        "certificate, population: questions made by hand -> questions of another kind",
    ]
    (line,) = difference(certain, CALIBRATION)
    assert line.endswith(" -> none")


def test_a_gate_comes_and_changes() -> None:
    assert PROBED.gate is not None
    gate = replace(PROBED.gate, above=0.99, gated=0.125)
    bare, other = replace(PROBED, gate=None), replace(PROBED, gate=gate)
    (line,) = difference(bare, other)
    assert line.startswith("gate: none -> {")
    assert difference(PROBED, other) == [
        "gate, above: 0.900 -> 0.990",
        "gate, gated: 0.100 -> 0.125",
    ]


def test_a_band_shows_without_its_calibrators_parameters() -> None:
    banded, _ = fitted_with_band()
    assert banded.band is not None
    other = replace(banded, band=replace(banded.band, low=banded.band.low - 1))
    (change,) = changes(banded, other)
    assert (change.name, change.was) == ("band, low", banded.band.low)


def test_as_json_values_keep_all_their_digits() -> None:
    found = to_json(CALIBRATION, in_use(threshold=0.123456789))
    assert found == {
        "object": "calibration.difference",
        "old": CALIBRATION.id,
        "new": in_use(threshold=0.123456789).id,
        "changes": [{"name": "threshold", "was": 0.5, "now": 0.123456789}],
    }
    assert json.loads(json.dumps(found)) == found
