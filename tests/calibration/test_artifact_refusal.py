"""Calibrations that are not what they should be are refused, and the message says why."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibration.artifact import Calibration
from calibration.errors import ArtifactError
from tests.calibration.test_artifact import BINDING, CALIBRATION, rewritten


class TestRefusal:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"there is no calibration at .*router calibrate"):
            Calibration.load(tmp_path)

    def test_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "calibration.json").mkdir()
        with pytest.raises(ArtifactError, match="can't be read"):
            Calibration.load(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "PK\x03", '{"threshold": NaN}', '{"a": Infinity}'])
    def test_not_json(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(ArtifactError, match="not valid JSON"):
            Calibration.load(tmp_path)

    def test_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "calibration.json").write_bytes(b"\x80\x04\x95")
        with pytest.raises(ArtifactError, match="not valid JSON"):
            Calibration.load(tmp_path)

    def test_not_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "calibration.json").write_text("[1]")
        with pytest.raises(ArtifactError, match="no JSON object"):
            Calibration.load(tmp_path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data["operating_point"].update(threshold=0.1),
            lambda data: data["calibrator"].update(slope=-0.5),
            lambda data: data["binding"].update(model_sha256="m2"),
            lambda data: data["binding"]["sampler"].update(temperature=1.0),
            lambda data: data["holdout"].update(name="another"),
            lambda data: data.update(accuracy=0.9),
            lambda data: data.update(id="sha256:0"),
        ],
    )
    def test_altered(self, tmp_path: Path, change: Any) -> None:
        with pytest.raises(ArtifactError, match="has been altered: its id is sha256:"):
            Calibration.load(rewritten(tmp_path, change, sign=False))

    @pytest.mark.parametrize("field", sorted(CALIBRATION.to_dict()))
    def test_a_missing_field_is_named(self, tmp_path: Path, field: str) -> None:
        def drop(data: dict[str, Any]) -> None:
            del data[field]

        with pytest.raises(ArtifactError, match=f"the field {field} is missing"):
            Calibration.load(rewritten(tmp_path, drop, sign=field != "id"))

    @pytest.mark.parametrize(
        ("owner", "field"),
        [
            ("binding", "engine_build"),
            ("operating_point", "certificate"),
            ("ece", "expected"),
            ("ece", "smooth"),
            ("histogram", "counts"),
            ("reference", "n"),
        ],
    )
    def test_a_missing_field_within_is_named(self, tmp_path: Path, owner: str, field: str) -> None:
        def drop(data: dict[str, Any]) -> None:
            del data[owner][field]

        with pytest.raises(ArtifactError, match=f"the field {owner}.{field} is missing"):
            Calibration.load(rewritten(tmp_path, drop))

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda data: data.update(mood="good"), "mood"),
            (lambda data: data["binding"].update(lora="x"), "binding.lora"),
            (lambda data: data["operating_point"].update(luck=1), "operating_point.luck"),
            (lambda data: data["operating_points"][1].update(luck=1), "operating_points.1.luck"),
            (lambda data: data["routing_curve"][0].update(luck=1), "routing_curve.0.luck"),
            (lambda data: data["estimators"]["margin"].update(f1=1), "estimators.margin.f1"),
            (lambda data: data["histogram"].update(mean=1), "histogram.mean"),
            (lambda data: data["reference"].update(mean=1), "reference.mean"),
            (lambda data: data["calibrator"].update(bias=1), "calibrator.bias"),
        ],
    )
    def test_an_unknown_field_is_named(self, tmp_path: Path, change: Any, name: str) -> None:
        with pytest.raises(ArtifactError, match=f"the field {name} is unknown"):
            Calibration.load(rewritten(tmp_path, change))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: data["operating_point"].update(threshold="0.5"), "threshold is wrong"),
            (lambda data: data.update(n="many"), "field n is wrong"),
            (lambda data: data["operating_point"].update(certificate={}), "certificate is wrong"),
            (
                lambda data: data["operating_points"][1]["certificate"].update(labels="mine"),
                "operating_points.1.certificate is wrong.*labels",
            ),
            (lambda data: data.update(labels="mine"), "field labels is wrong"),
            (lambda data: data.update(cost={"local_usd": 1.0}), "cost.escalated_usd is missing"),
            (
                lambda data: data.update(cost={"escalated_usd": -1.0}),
                "escalated_usd is -1.0; a price",
            ),
            (lambda data: data.update(calibrator=[]), "calibrator is wrong.*is an object"),
            (lambda data: data["calibrator"].update(kind="magic"), "unknown kind.*magic"),
            (lambda data: data["calibrator"].pop("slope"), "'slope' is missing"),
            (lambda data: data.update(method="sorcery"), "'sorcery', whose version"),
        ],
    )
    def test_an_impossible_value_is_named(self, tmp_path: Path, change: Any, message: str) -> None:
        with pytest.raises(ArtifactError, match=message):
            Calibration.load(rewritten(tmp_path, change))

    def test_another_format(self, tmp_path: Path) -> None:
        for number in (2, 4):
            folder = rewritten(tmp_path, lambda data, n=number: data.update(format=n, new_field=1))
            with pytest.raises(
                ArtifactError, match=f"has format {number}, but this version reads format 3"
            ):
                Calibration.load(folder)

    def test_every_problem_is_in_the_message(self, tmp_path: Path) -> None:
        def damage(data: dict[str, Any]) -> None:
            del data["seed"]
            data["mood"] = "good"

        with pytest.raises(ArtifactError, match=r"calibration\.json can't be used") as caught:
            Calibration.load(rewritten(tmp_path, damage))
        assert "the field seed is missing" in str(caught.value)
        assert "the field mood is unknown" in str(caught.value)

    def test_what_json_can_not_hold(self) -> None:
        with pytest.raises(ArtifactError, match="holdout can't be written as JSON"):
            replace(CALIBRATION, holdout={"made": object()})
        with pytest.raises(ArtifactError, match="sampler can't be written as JSON"):
            replace(BINDING, sampler={"temperature": math.nan})
