"""The calibration on disk: what it holds, what it refuses, what it answers."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.artifact import (
    Binding,
    BrierScores,
    Calibration,
    CurvePoint,
    EceScores,
    EstimatorQuality,
    Histogram,
    estimator_versions,
)
from calibration.calibrators import PlattCalibrator
from calibration.errors import ArtifactError, ArtifactMismatch, CalibrationError
from calibration.learned import Learned
from calibration.probe_file import load_probes, save_probes
from calibration.thresholds import ESCALATE_ALL, OperatingPoint
from tests.calibration.test_fit import fitted, fitted_on_states, fitted_with_band, make_records
from tests.calibration.told import LAYERS, with_p_true, with_states
from uq import get_estimator

BINDING = Binding(
    model_sha256="m1",
    quantisation="Q4_1",
    template_sha256="t1",
    sampler={"temperature": 0.0, "logit_bias": ((1, 2.0),)},
    estimators={"perplexity": 1, "margin": 3},
    engine_build="b1",
)

POINT = OperatingPoint("escalation=0.5", 0.5, 0.5, 0.8, 0.284, 50, 100)

# p = 1 / (1 + exp(4 (u - 0.5))), within [1/1002, 1001/1002].
PLATT = {"kind": "platt", "slope": -4.0, "intercept": 0.0, "mean": 0.5, "scale": 1.0, "n": 1000}

CALIBRATION = Calibration(
    binding=BINDING,
    method="perplexity",
    calibrator=PlattCalibrator.from_dict(PLATT),
    learned=Learned(),
    band=None,
    gate=None,
    early_stop=None,
    target="escalation=0.5",
    operating_point=POINT,
    operating_points=(POINT, replace(POINT, target="risk=0.2")),
    unreachable=("risk=0.02",),
    routing_curve=(
        CurvePoint(0.0, 0.0, 0.6, 100),
        CurvePoint(0.4, 0.3, 0.7, 70),
        CurvePoint(0.5, 0.5, 0.8, 50),
        CurvePoint(0.6, 0.6, 0.75, 40),
        CurvePoint(0.7, 0.75, 0.88, 25),
        CurvePoint(0.9, 0.95, 1.0, 5),
        CurvePoint(ESCALATE_ALL, 1.0, None, 0),
    ),
    estimators={
        "perplexity": EstimatorQuality(0.75, (0.7, 0.8), 250),
        "margin": EstimatorQuality(None, None, 0),
    },
    ece=EceScores(0.2, 0.03, (0.0, 0.06), 0.04),
    brier=BrierScores(0.25, 0.2),
    n=250,
    n_fit=150,
    n_test=100,
    n_unknown=0,
    accuracy=0.6,
    accuracy_test=0.6,
    histogram=Histogram((0.1, 0.4, 0.9), (75, 75), 0),
    holdout={"name": "built-in", "seed": 0, "families": ["sums", "logic"]},
    seed=0,
    created="2025-01-01T12:00:00+00:00",
)


def rewritten(folder: Path, change: Any, *, sign: bool = True) -> Path:
    """Save a calibration, let `change` edit its JSON, and sign it again (or not)."""
    path = CALIBRATION.save(folder)
    data = json.loads(path.read_text())
    change(data)
    if sign:
        content = {name: value for name, value in data.items() if name != "id"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data["id"] = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(data))
    return folder


class TestOnDisk:
    @pytest.mark.parametrize("calibration", [CALIBRATION, fitted()[0]], ids=["by hand", "fitted"])
    def test_round_trip_loses_nothing(self, calibration: Calibration, tmp_path: Path) -> None:
        calibration.save(tmp_path)
        loaded = Calibration.load(tmp_path)
        assert loaded.id == calibration.id
        assert loaded.to_dict() == calibration.to_dict()
        equal = replace(loaded, calibrator=calibration.calibrator, learned=calibration.learned)
        assert equal == calibration
        for i in range(50):
            score = {calibration.method: i / 25}
            assert loaded.p_correct(score) == calibration.p_correct(score)

    def test_is_readable_json_with_sorted_keys(self, tmp_path: Path) -> None:
        text = CALIBRATION.save(tmp_path / "new" / "folder").read_text()
        data = json.loads(text)
        assert text == json.dumps(data, indent=2, sort_keys=True) + "\n"
        assert data["id"] == CALIBRATION.id
        assert data["format"] == 2

    def test_id_is_the_hash_of_the_canonical_content(self) -> None:
        content = CALIBRATION.to_dict()
        stated = content.pop("id")
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        assert stated == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
        assert replace(CALIBRATION, seed=1).id != CALIBRATION.id
        assert replace(CALIBRATION).id == CALIBRATION.id

    def test_text_in_any_script_survives(self, tmp_path: Path) -> None:
        calibration = replace(CALIBRATION, holdout={"name": "Prüfsatz 問題"})
        assert "問題" in calibration.save(tmp_path).read_text(encoding="utf-8")
        assert Calibration.load(tmp_path).id == calibration.id

    def test_save_replaces_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        CALIBRATION.save(tmp_path)
        other = replace(CALIBRATION, seed=7)
        other.save(tmp_path)
        assert Calibration.load(tmp_path).id == other.id
        assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.json", "previous"]

    def test_a_failed_save_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "calibration.json").mkdir()
        with pytest.raises(OSError, match=r"calibration\.json"):
            CALIBRATION.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]

    def test_can_be_sent_to_another_process(self) -> None:
        assert pickle.loads(pickle.dumps(CALIBRATION)).id == CALIBRATION.id


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
            ("histogram", "counts"),
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
        folder = rewritten(tmp_path, lambda data: data.update(format=3, new_field=1))
        with pytest.raises(ArtifactError, match="has format 3, but this version reads format 2"):
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


class TestCheck:
    def test_the_same_passes_without_a_word(self) -> None:
        assert CALIBRATION.check(copy.deepcopy(BINDING)) == []

    def test_lists_and_tuples_of_settings_are_one(self) -> None:
        listed = replace(BINDING, sampler={"temperature": 0.0, "logit_bias": [[1, 2.0]]})
        assert CALIBRATION.check(listed) == []

    @pytest.mark.parametrize(
        ("changes", "difference"),
        [
            (
                {"model_sha256": "m2"},
                "model_sha256 is m2, but the calibration was measured with m1",
            ),
            ({"quantisation": "Q8_0"}, "quantisation is Q8_0, .* with Q4_1"),
            ({"template_sha256": "t2"}, "template_sha256 is t2, .* with t1"),
            (
                {"sampler": {"temperature": 0.7, "logit_bias": [[1, 2.0]]}},
                "sampler.temperature is 0.7",
            ),
            ({"sampler": {"temperature": 0.0}}, "sampler.logit_bias is not set"),
            ({"sampler": {**BINDING.sampler, "top_k": 5}}, "sampler.top_k is 5, .* with not set"),
            ({"estimators": {"perplexity": 2}}, "version of estimator perplexity is 2, .* with 1"),
            ({"estimators": {"margin": 3}}, "version of estimator perplexity is missing"),
        ],
    )
    def test_each_difference_is_named(self, changes: dict[str, Any], difference: str) -> None:
        with pytest.raises(ArtifactMismatch, match=difference) as caught:
            CALIBRATION.check(replace(BINDING, **changes))
        assert len(caught.value.differences) == 1

    def test_all_differences_are_named_at_once(self) -> None:
        other = Binding("m2", "Q8_0", "t2", {"temperature": 1.0}, {"perplexity": 9}, "b2")
        with pytest.raises(ArtifactMismatch) as caught:
            CALIBRATION.check(other)
        names = [difference.split(" is ")[0] for difference in caught.value.differences]
        assert names == [
            "model_sha256",
            "quantisation",
            "template_sha256",
            "sampler.logit_bias",
            "sampler.temperature",
            "version of estimator perplexity",
        ]

    def test_an_estimator_it_does_not_use_may_differ(self) -> None:
        assert CALIBRATION.check(replace(BINDING, estimators={"perplexity": 1, "margin": 4})) == []

    def test_another_engine_build_warns(self) -> None:
        (warning,) = CALIBRATION.check(replace(BINDING, engine_build="b2"))
        assert "engine_build is b2, but the calibration was measured with b1" in warning
        assert "last digits" in warning


class TestAnswers:
    def test_p_correct_by_hand(self) -> None:
        assert CALIBRATION.p_correct({"perplexity": 0.5, "margin": 9.0}) == pytest.approx(0.5)
        assert CALIBRATION.p_correct({"perplexity": 0.0}) == pytest.approx(1 / (1 + math.exp(-2)))

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
    def test_unknown_stays_unknown(self, score: float) -> None:
        assert math.isnan(CALIBRATION.p_correct({"perplexity": score}))

    def test_a_score_that_was_not_given_is_an_error(self) -> None:
        with pytest.raises(CalibrationError, match="'perplexity', but only margin were given"):
            CALIBRATION.p_correct({"margin": 0.1})
        with pytest.raises(CalibrationError, match="but only no scores"):
            CALIBRATION.p_correct({})

    def test_threshold_and_needs(self) -> None:
        assert CALIBRATION.threshold == 0.5
        assert CALIBRATION.needs == ("perplexity",)

    @pytest.mark.parametrize(
        ("max_risk", "threshold"),
        [
            (1.0, 0.0),
            (0.4, 0.0),
            (0.39, 0.4),
            (0.3, 0.4),  # 1 - 0.7 is a rounding error above 0.3
            (0.25, 0.5),  # though it rises again to 0.25 at 0.6
            (0.2, 0.5),
            (0.15, 0.7),
            (0.1, None),  # reached only where 5 answers are kept, too few to judge
            (0.0, None),
        ],
    )
    def test_threshold_for_risk(self, max_risk: float, threshold: float | None) -> None:
        assert CALIBRATION.threshold_for_risk(max_risk) == threshold

    @pytest.mark.parametrize("max_risk", [-0.1, 1.1, math.nan])
    def test_a_risk_is_a_share(self, max_risk: float) -> None:
        with pytest.raises(CalibrationError, match="from 0 to 1"):
            CALIBRATION.threshold_for_risk(max_risk)

    def test_summary_is_json_and_complete(self) -> None:
        summary = CALIBRATION.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert summary["id"] == CALIBRATION.id
        assert summary["threshold"] == 0.5
        assert summary["certificate"] is None
        assert summary["calibrator"] == {"kind": "platt"}
        assert summary["binding"]["model_sha256"] == "m1"
        assert summary["estimators"]["perplexity"]["auroc_ci"] == [0.7, 0.8]
        assert summary["n_fit"] == 150

    def test_estimator_versions_are_those_registered(self) -> None:
        versions = estimator_versions()
        assert versions["perplexity"] == get_estimator("perplexity").version
        assert len(versions) >= 10
