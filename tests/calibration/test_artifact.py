"""The calibration on disk: what it holds, what it refuses, what it answers."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.artifact import Calibration
from calibration.band import Band
from calibration.binding import Binding, estimator_versions
from calibration.calibrators import PlattCalibrator
from calibration.certificates import Certificate, Claim
from calibration.errors import ArtifactMismatch, CalibrationError
from calibration.exits import Gate
from calibration.figures import (
    BrierScores,
    CurvePoint,
    EceScores,
    EstimatorQuality,
    Histogram,
    Reference,
)
from calibration.learned import Learned
from calibration.probes import Probe, ProbeInput
from calibration.targets import CostModel, Target
from calibration.thresholds import ESCALATE_ALL, OperatingPoint
from tests.calibration.test_fit import fitted
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

RISK_POINT = OperatingPoint(
    target="risk=0.2",
    threshold=0.75,
    escalation_ratio=0.6,
    accuracy_kept=0.925,
    risk_upper=0.182,
    n_kept=40,
    n=100,
    certificate=Certificate(
        threshold=0.75,
        claims=(
            Claim("risk", "risk=0.2", 0.2, 100, 40, 3, 0.028, "fixed-sequence exact binomial"),
        ),
        confidence=0.95,
        population="questions made by hand",
        labels="gold",
    ),
)

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
    confidence=0.95,
    cost=None,
    labels="gold",
    labelled_by="",
    population="questions made by hand",
    operating_point=POINT,
    operating_points=(POINT, RISK_POINT),
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
    ece=EceScores(0.2, 0.03, (0.0, 0.06), 0.04, 0.02, 0.03),
    brier=BrierScores(0.25, 0.2),
    n=250,
    n_fit=150,
    n_test=100,
    n_unknown=0,
    accuracy=0.6,
    accuracy_test=0.6,
    histogram=Histogram((0.1, 0.4, 0.9), (75, 75), 0),
    reference=Reference((0.2, 0.5, 0.8), (0.15, 0.5, 0.85), 4),
    holdout={"name": "built-in", "seed": 0, "families": ["sums", "logic"]},
    seed=0,
    created="2025-01-01T12:00:00+00:00",
)


PRICED = replace(
    CALIBRATION,
    target="risk=0.2, cost=2.5/day",
    confidence=0.9,
    cost=CostModel(0.01, 0.001, 1000.0),
    labels="llm",
    labelled_by="a large model",
    operating_point=replace(RISK_POINT, loss=0.05, accuracy_overall=0.9),
)
"""One with the fields that `CALIBRATION` leaves out."""

PROBED = replace(
    CALIBRATION,
    learned=Learned(
        {
            "p_ik": Probe(
                ProbeInput("prompt_end", (1, 2)),
                np.zeros(2, np.float32),
                np.ones(2, np.float32),
                ((np.ones((1, 2), np.float32), np.zeros(1, np.float32)),),
            )
        }
    ),
    gate=Gate("p_ik", above=0.9, max_lost=0.02, lost=0.01, gated=0.1),
)
"""One with a file of probes beside it."""


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
    @pytest.mark.parametrize(
        "made",
        [lambda: CALIBRATION, lambda: fitted()[0], lambda: PRICED],
        ids=["by hand", "fitted", "priced"],
    )
    def test_round_trip_loses_nothing(
        self, made: Callable[[], Calibration], tmp_path: Path
    ) -> None:
        calibration = made()
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
        assert data["format"] == 3

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
        assert "rounding" in warning


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

    def test_targets_are_those_of_the_text(self) -> None:
        assert CALIBRATION.targets == (Target("escalation", 0.5),)
        assert PRICED.targets == (Target("risk", 0.2), Target("cost", 2.5, "day"))

    def test_the_first_look_is_the_band_s(self) -> None:
        assert CALIBRATION.first_look == "perplexity"
        calibrator = CALIBRATION.calibrator
        band = Band("margin", calibrator, 0.2, 0.8, 0.5, 0.1, 0.2, None, None, None)
        assert replace(CALIBRATION, band=band).first_look == "margin"

    def test_summary_is_json_and_complete(self) -> None:
        summary = CALIBRATION.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert summary["id"] == CALIBRATION.id
        assert summary["threshold"] == 0.5
        assert summary["certificate"] is None
        assert summary["population"] == "questions made by hand"
        assert (summary["labels"], summary["confidence"], summary["cost"]) == ("gold", 0.95, None)
        assert summary["reference"]["n"] == 4
        assert summary["calibrator"] == {"kind": "platt"}
        assert summary["binding"]["model_sha256"] == "m1"
        assert summary["estimators"]["perplexity"]["auroc_ci"] == [0.7, 0.8]
        assert summary["n_fit"] == 150

    def test_estimator_versions_are_those_registered(self) -> None:
        versions = estimator_versions()
        assert versions["perplexity"] == get_estimator("perplexity").version
        assert len(versions) >= 10

    def test_summary_shows_the_certificate(self) -> None:
        summary = PRICED.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert RISK_POINT.certificate is not None
        certificate = summary["certificate"]
        assert certificate == json.loads(json.dumps(RISK_POINT.certificate.to_dict()))
        assert summary["cost"]["queries_per_day"] == 1000.0


def certified(risk: float, n_kept: int, threshold: float, kind: Any = "risk") -> OperatingPoint:
    """A point whose certificate is for `risk`."""
    assert RISK_POINT.certificate is not None
    (claim,) = RISK_POINT.certificate.claims
    claim = replace(claim, kind=kind, bound=risk, target=f"{kind}={risk}", n_kept=n_kept)
    certificate = replace(RISK_POINT.certificate, claims=(claim,), threshold=threshold)
    return replace(
        RISK_POINT,
        target=f"{kind}={risk}",
        threshold=threshold,
        n_kept=n_kept,
        certificate=certificate,
    )


class TestPointForRisk:
    CERTIFIED = replace(
        CALIBRATION,
        operating_points=(
            POINT,  # keeps 50, of which 20% are wrong, and nothing certain is known of it
            certified(0.1, n_kept=30, threshold=0.8),
            certified(0.2, n_kept=45, threshold=0.7),
            certified(0.3, n_kept=40, threshold=0.72),  # the stricter one keeps more
            certified(0.4, n_kept=80, threshold=0.3),
            certified(0.05, n_kept=90, threshold=0.2, kind="loss"),
            replace(POINT, target="risk=0.02", n_kept=10, threshold=0.9),
        ),
    )

    @pytest.mark.parametrize(
        ("max_risk", "threshold"),
        [
            (1.0, 0.3),
            (0.4, 0.3),
            (0.39, 0.7),
            (0.3, 0.7),
            (0.2, 0.7),
            (0.19, 0.8),
            (0.1, 0.8),
            (0.09, None),
            (0.02, None),
            (0.0, None),
        ],
    )
    def test_keeps_most_of_what_is_certain(self, max_risk: float, threshold: float | None) -> None:
        assert self.CERTIFIED.threshold_for_risk(max_risk) == threshold
        point = self.CERTIFIED.point_for_risk(max_risk)
        if point is None:
            assert threshold is None
        else:
            assert point in self.CERTIFIED.operating_points
            assert point.certificate is not None
            assert point.threshold == point.certificate.threshold == threshold
            assert point.certificate.claims[0].bound <= max_risk

    def test_what_is_only_measured_does_not_count(self) -> None:
        points = tuple(
            replace(point, certificate=None) for point in self.CERTIFIED.operating_points
        )
        assert replace(CALIBRATION, operating_points=points).point_for_risk(1.0) is None
        assert replace(CALIBRATION, operating_points=()).threshold_for_risk(1.0) is None

    @pytest.mark.parametrize("max_risk", [-0.1, 1.1, math.nan])
    def test_a_risk_is_a_share(self, max_risk: float) -> None:
        with pytest.raises(CalibrationError, match="from 0 to 1"):
            CALIBRATION.threshold_for_risk(max_risk)
