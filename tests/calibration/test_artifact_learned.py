"""Probes, stacks and bands on disk: they come back, or are refused."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.artifact import Calibration
from calibration.errors import ArtifactError, CalibrationError
from calibration.probe_file import load_probes, save_probes
from tests.calibration.test_artifact import CALIBRATION
from tests.calibration.test_fit import fitted_on_states, fitted_with_band, make_records
from tests.calibration.told import LAYERS, with_p_true, with_states


class TestProbes:
    """Two files that belong together, and only together."""

    def test_round_trip_keeps_the_id_and_every_answer(self, tmp_path: Path) -> None:
        calibration, _ = fitted_on_states()
        calibration.save(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "calibration.json",
            "probe.safetensors",
        ]
        loaded = Calibration.load(tmp_path)
        assert loaded.id == calibration.id
        assert loaded.to_dict() == calibration.to_dict()
        for record in with_states(make_records(20, seed=3)):
            scores, again = calibration.scores(record.trace), loaded.scores(record.trace)
            assert list(again) == list(scores)
            assert np.array_equal([*again.values()], [*scores.values()], equal_nan=True)
            assert loaded.p_correct(scores) == calibration.p_correct(scores)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        fitted_on_states()[0].save(tmp_path)
        (tmp_path / "probe.safetensors").unlink()
        with pytest.raises(ArtifactError, match=r"beside it \(none\); copy both files together"):
            Calibration.load(tmp_path)

    def test_an_altered_file_is_refused(self, tmp_path: Path) -> None:
        fitted_on_states()[0].save(tmp_path)
        path = tmp_path / "probe.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(
            ArtifactError, match=r"probe\.safetensors is damaged or was altered; re"
        ):
            Calibration.load(tmp_path)

    def test_other_probes_of_the_same_names_are_refused(self, tmp_path: Path) -> None:
        fitted_on_states()[0].save(tmp_path)
        path = tmp_path / "probe.safetensors"
        probes = load_probes(path)
        names = sorted(probes)
        assert len(names) == 2
        swapped = dict(zip(names, [probes[name] for name in reversed(names)], strict=True))
        save_probes(path, swapped)
        with pytest.raises(ArtifactError, match=r"not those in the file.*copy both files together"):
            Calibration.load(tmp_path)

    def test_files_of_two_calibrations_are_not_mixed(self, tmp_path: Path) -> None:
        one = fitted_on_states()[0]
        one.save(tmp_path / "one")
        CALIBRATION.save(tmp_path / "two")
        probes = (tmp_path / "one" / "probe.safetensors").read_bytes()
        (tmp_path / "two" / "probe.safetensors").write_bytes(probes)
        with pytest.raises(ArtifactError, match=r"its probes \(none\) are not those in the file"):
            Calibration.load(tmp_path / "two")

    def test_a_later_calibration_without_probes_removes_those_of_the_earlier(
        self, tmp_path: Path
    ) -> None:
        fitted_on_states()[0].save(tmp_path)
        CALIBRATION.save(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.json", "previous"]
        assert Calibration.load(tmp_path).id == CALIBRATION.id

    def test_another_probe_is_another_calibration(self) -> None:
        calibration, _ = fitted_on_states()
        names = list(calibration.learned.probes)
        first = calibration.learned.probes[names[0]]
        probes = {**calibration.learned.probes, names[0]: replace(first, slope=0.5)}
        other = replace(calibration, learned=replace(calibration.learned, probes=probes))
        assert other.id != calibration.id

    def test_each_probe_that_is_read_has_to_be_there(self) -> None:
        calibration, _ = fitted_on_states()
        assert calibration.gate is not None
        gate = replace(calibration.gate, probe="another")
        with pytest.raises(ArtifactError, match="the gate asks the probe 'another', which is not"):
            replace(calibration, gate=gate)
        with pytest.raises(ArtifactError, match="uses the estimator 'linear_probe'"):
            replace(calibration, learned=replace(calibration.learned, probes={}), gate=None)

    def test_can_be_sent_to_another_process(self) -> None:
        calibration, _ = fitted_on_states()
        assert pickle.loads(pickle.dumps(calibration)).id == calibration.id


class TestBand:
    def test_round_trip_keeps_where_to_look_closer(self, tmp_path: Path) -> None:
        calibration, _ = fitted_with_band()
        calibration.save(tmp_path)
        loaded = Calibration.load(tmp_path)
        assert loaded.id == calibration.id
        for record in with_p_true(make_records(40, seed=3)):
            scores = loaded.scores(record.trace)
            assert loaded.looks_closer(scores) == calibration.looks_closer(scores)
            assert loaded.p_correct(scores) == calibration.p_correct(scores)

    def test_an_unknown_first_look_is_looked_at_closer_and_escalates_if_that_fails(self) -> None:
        calibration, _ = fitted_with_band()
        assert calibration.band is not None
        unknown = {calibration.band.method: math.nan, "stack": math.nan}
        assert calibration.looks_closer(unknown)
        assert math.isnan(calibration.p_correct(unknown))

    def test_the_first_look_has_to_be_given(self) -> None:
        with pytest.raises(CalibrationError, match="reads the score"):
            fitted_with_band()[0].p_correct({"stack": 0.5})

    def test_names_all_that_it_reads(self) -> None:
        calibration, _ = fitted_with_band()
        assert {"perplexity", "p_true"} <= set(calibration.needs)
        assert "stack" not in calibration.needs
        assert calibration.layers == frozenset()
        assert fitted_on_states()[0].layers == set(LAYERS)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda data: data["band"].update(luck=1), "band.luck is unknown"),
            (lambda data: data["band"].pop("share"), "band.share is missing"),
            (lambda data: data["band"].update(low="0.5"), "band.low is wrong"),
            (lambda data: data["band"]["calibrator"].update(kind="magic"), "magic"),
            (lambda data: data.update(gate={"probe": "p_ik"}), "gate.above is missing"),
        ],
    )
    def test_what_is_wrong_within_is_named(self, tmp_path: Path, change: Any, name: str) -> None:
        path = fitted_with_band()[0].save(tmp_path)
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        with pytest.raises(ArtifactError, match=name):
            Calibration.load(tmp_path)

    def test_summary_names_what_was_learned_without_its_numbers(self) -> None:
        summary = fitted_with_band()[0].summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert set(summary["band"]["calibrator"]) == {"kind"}
        assert set(summary["learned"]) == {"probes", "stacks"}
        assert "p_true" in summary["learned"]["stacks"]["stack"]
        states = fitted_on_states()[0].summary()
        assert "p_ik" in states["learned"]["probes"]
        assert states["gate"]["max_lost"] == 0.02
