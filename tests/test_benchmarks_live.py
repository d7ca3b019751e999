"""The arithmetic of the live benchmark, and small runs of it on made-up answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import benchmarks.live
from benchmarks import live_control, live_drift
from benchmarks.live import FULL, SCORES, Size, main, measure
from benchmarks.live_control import (
    FIRST,
    SPANS,
    SWITCHED,
    Caught,
    Gap,
    Reference,
    alone,
    decide,
    summarise,
    switches,
    wrong_of_least_sure,
)
from benchmarks.live_drift import (
    MIXED,
    Delays,
    by_size,
    false_alarms,
    kolmogorov,
    of_delays,
    shares_right,
    simulated,
    until_alarm,
)
from benchmarks.live_scores import Answers, Sets, read_records, read_scores, sureness
from calibration.controller import EscalationController
from calibration.drift import CalibrationDrift, log_evidence_of_labels
from calibration.errors import DataError
from calibration.records import Record, RecordLog
from tests.calibration.test_fit import make_records

INF = math.inf
NAN = math.nan
TINY = Size(draws=2, switch_draws=1, switch_ratios=4, alarms=8, length=60, shifts=1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def sets() -> Sets:
    """Four sets of 40 answers whose scores lie apart; surer ones are more often right."""
    found = {}
    for i, name in enumerate(("a", "b", "c", "d")):
        u = rng(i).normal(loc=0.7 * i, size=40)
        found[name] = Answers(u, rng(9 + i).random(40) < 1 / (1 + np.exp(u - 0.7 * i)))
    return found


class TestScores:
    def test_ranks_keep_order_ties_and_what_is_unknown(self) -> None:
        sets = {
            "a": Answers(np.array([3.0, NAN, 1.0]), np.ones(3, dtype=np.bool_)),
            "b": Answers(np.array([1.0, 2.0]), np.ones(2, dtype=np.bool_)),
        }
        sure = sureness(sets)
        assert sure["a"] == pytest.approx([1 / 3, NAN, 1.0], nan_ok=True)
        assert sure["b"] == pytest.approx([1.0, 2 / 3])

    def test_the_frozen_ones_can_be_read(self) -> None:
        found = read_scores(SCORES, "perplexity")
        assert len(found) == 16
        assert all(len(answers.correct) >= 100 for answers in found.values())
        assert found["triviaqa"].auroc > 0.7

    def test_an_unknown_score_is_null_and_a_set_without_known_ones_is_left_out(
        self, tmp_path: Path
    ) -> None:
        columns = {
            name: {"correct": [0, 1] * 20, "x": [None, *range(39)]} for name in ("a", "b", "c")
        }
        columns["d"] = {"correct": [1], "x": [0.5]}
        path = tmp_path / "scores.json"
        path.write_text(json.dumps(columns))
        found = read_scores(path, "x")
        assert list(found) == ["a", "b", "c"]
        assert np.isnan(found["a"].uncertainty).sum() == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[", "can't be read"),
            ("[]", "can't be read"),
            ('{"a": {"correct": [1], "y": [0.5], "z": [1]}}', "no score 'x'; all sets have y, z"),
            ('{"a": {"correct": [1], "x": [0.5, 1]}}', "2 scores for 1 answers"),
            ('{"a": {"correct": [1], "x": [0.5]}}', "three data sets"),
        ],
    )
    def test_says_what_is_wrong_with_a_file(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "scores.json"
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_scores(path, "x")

    def test_records_are_scored(self, tmp_path: Path) -> None:
        path = tmp_path / "records.jsonl"
        with RecordLog(path, {}) as log:
            for i, r in enumerate(make_records(120)):
                log.append(Record(f"{i}", f"set {i % 3}", r.correct, r.trace, asked=r.asked))
        found = read_records(path, "perplexity")
        assert {name: len(answers.correct) for name, answers in found.items()} == {
            "set 0": 40,
            "set 1": 40,
            "set 2": 40,
        }
        with pytest.raises(DataError, match="no estimator is called 'luck'"):
            read_records(path, "luck")


class TestControl:
    def test_wrong_of_the_least_sure_by_hand(self) -> None:
        sure = np.array([0.4, NAN, 0.2, 0.4, 0.9])
        wrong = np.array([True, False, True, False, True])
        assert wrong_of_least_sure(sure, wrong, 0) == 0.0
        assert wrong_of_least_sure(sure, wrong, 1) == 0.0  # the unknown one
        assert wrong_of_least_sure(sure, wrong, 2) == 1.0
        assert wrong_of_least_sure(sure, wrong, 3) == 1.5
        assert wrong_of_least_sure(sure, wrong, 5) == 3.0

    def test_a_fixed_threshold_is_the_quantile_of_the_other_sets(self, sets: Sets) -> None:
        others = Reference.without(sets, "a")
        assert len(others.sure) == 120
        for ratio in (0.1, 0.5, 0.9):
            assert np.mean(others.sure < others.threshold(ratio)) == pytest.approx(ratio)

    def test_state_goes_on_over_a_switch(self) -> None:
        stream = rng().random(60).tolist()
        controller = EscalationController(0.3, [0.5])
        whole, end = decide(controller, stream)
        first, state = decide(controller, stream[:25])
        second, last = decide(controller, stream[25:], state)
        assert [*first, *second] == whole.tolist()
        assert last == end

    def test_each_set_meets_a_controller_that_knows_the_others(self, sets: Sets) -> None:
        gaps, caught = alone(sets, (0.2, 0.7), 2, rng())
        first = [gap for gap in gaps if gap.span == FIRST]
        assert len(first) == len(gaps) / 2 == 4 * 2 * 2
        assert max(gap.controlled for gap in first) <= 0.025
        assert np.mean([gap.fixed for gap in first if gap.dataset in "ad"]) > 0.1
        assert len(caught["a"].runs) == 4

    def test_every_switch_is_met_at_every_ratio(self, sets: Sets) -> None:
        gaps = [gap for gap in switches(sets, (0.3,), 1, rng()) if gap.span == SWITCHED]
        assert len({gap.case for gap in gaps}) == len(gaps) == 12
        assert max(gap.controlled for gap in gaps) <= 0.05

    def test_a_case_is_within_three_points_when_all_its_runs_are(self) -> None:
        runs = [("a", 0.02, 0.5), ("a", 0.03, 0.1), ("b", 0.01, 0.0), ("b", 0.04, 0.02)]
        found = summarise([Gap(FIRST, name, "", 0.3, one, two) for name, one, two in runs])
        of_all = found["spans"][FIRST]
        assert of_all["controlled"]["mean"] == pytest.approx(0.025)
        assert of_all["controlled"]["worst"] == 0.04
        assert of_all["controlled"]["runs_within"] == 0.75
        assert (of_all["controlled"]["cases_within"], of_all["controlled"]["cases"]) == (1, 2)
        assert of_all["fixed"]["cases_within"] == 1
        assert found["spans"][SWITCHED] is None
        assert found["ratios"]["0.3"]["bound"] == pytest.approx((4 + 0.7) / 200)
        assert found["sets"]["b"][FIRST]["controlled"]["worst"] == 0.04

    def test_what_is_lost_is_counted_in_wrong_answers(self) -> None:
        caught = Caught(aurocs=[0.8, NAN])
        sure = np.array([0.1, 0.2, 0.8, 0.9])
        wrong = np.array([True, True, False, True])
        caught.add(0, 0.5, sure, wrong, np.array([True, False, True, False]))
        caught.add(1, 0.5, sure, wrong, np.array([True, True, False, False]))
        found = caught.summary()
        assert found["auroc"] == 0.8
        assert (found["controlled"], found["fixed"]) == (0.75, 1.0)
        assert found["ratios"] == {"0.5": {"controlled": 0.75, "fixed": 1.0}}
        assert found["lost"]["value"] == pytest.approx((1 / 3 + 0) / 2)
        assert found["lost"]["low"] < found["lost"]["value"] < found["lost"]["high"]

    def test_answers_that_are_all_right_are_no_fault(self) -> None:
        caught = Caught(aurocs=[NAN])
        caught.add(0, 0.5, np.array([0.1, 0.9]), np.zeros(2, np.bool_), np.array([True, False]))
        found = caught.summary()
        assert found["auroc"] is None
        assert found["controlled"] == found["fixed"] == found["lost"]["value"] == 0.0


class TestDrift:
    def test_until_alarm(self) -> None:
        log_evidence = np.log([[1.0, 2.0, 200.0, 3.0], [1.0, 99.0, 1.0, 1.0], [100.0, 1, 1, 1]])
        assert until_alarm(log_evidence, 0.01).tolist() == [3.0, INF, 1.0]
        assert until_alarm(log_evidence, 0.01, calm=2).tolist() == [1.0, INF, -1.0]

    def test_delays_leave_out_false_alarms_and_count_what_is_never_found(self) -> None:
        found = of_delays(np.array([5.0, -3.0, 0.0, 7.0, INF, 9.0]))
        assert found == {
            "n": 4,
            "early": 2,
            "never": 0.25,
            "median": 7,
            "q90": None,
            "worst": None,
        }
        assert of_delays(np.array([-1.0]))["median"] is None
        assert of_delays(np.array([-1.0]))["early"] == 1

    def test_delays_by_size(self) -> None:
        found = [
            Delays("a", "b", 0.1, np.array([9.0, 8.0])),
            Delays("b", "a", 0.5, np.array([4.0, 2.0])),
            Delays(MIXED, "a", 0.5, np.array([1.0, 1.0])),
        ]
        rows = by_size(found, (0.0, 0.2, 0.4, 1.01))
        assert list(rows) == ["0 to 0.2", "0.4 and more", "all", f"from {MIXED}"]
        assert (rows["0.4 and more"]["changes"], rows["0.4 and more"]["worst"]) == (1, 4)
        assert (rows["all"]["changes"], rows["all"]["n"], rows["all"]["median"]) == (2, 4, 4)

    def test_kolmogorov_leaves_out_unknown_scores(self) -> None:
        assert kolmogorov(np.array([1.0, 2.0, NAN]), np.array([5.0])) == 1.0
        assert kolmogorov(np.array([1.0, 2.0]), np.array([2.0, 1.0, NAN])) == 0.0

    def test_claims_are_the_shares_right_of_thirds(self) -> None:
        old = Answers(np.arange(9.0), np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=np.bool_))
        claims = shares_right(old, np.array([-1.0, 4.0, 99.0]))
        assert claims == pytest.approx([4 / 5, 2 / 5, 1 / 5])

    def test_simulated_claims_are_off_by_the_gap(self) -> None:
        for gap in (0.0, 0.3):
            claims, right = simulated(gap, (50, 400), rng())
            assert float(np.mean(claims - right)) == pytest.approx(gap, abs=0.015)

    def test_a_test_that_always_alarms_would_show(
        self, sets: Sets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calm = false_alarms(sets, 6, 40, rng())
        assert set(calm) == {
            "scores, 300 reference scores",
            "scores, 958 reference scores",
            "labels, P(correct) right",
            "labels, 0.05 too sure",
            "labels, 0.05 not sure enough",
        }
        monkeypatch.setattr(live_drift, "TOLERANCE", 0.45)  # more than the test tolerates
        shares = false_alarms(sets, 6, 120, rng())["labels, 0.45 too sure"]["0.01"]
        assert (shares["value"], shares["high"]) == (1.0, 1.0)
        assert 0.5 < shares["low"] < 1.0

    def test_labels_are_watched_as_the_gateway_watches_them(self) -> None:
        claims, right = simulated(0.5, (1, 80), rng())
        late = until_alarm(log_evidence_of_labels(claims, right), 0.01)[0]
        drift = CalibrationDrift(alpha=0.01)
        state, n = drift.start(), 0
        while not drift.alarm(state):
            state = drift.update(state, float(claims[0, n]), bool(right[0, n]))
            n += 1
        assert n == late


@pytest.mark.no_cover  # other tests cover what it calls: tracing that would take longest
class TestCommand:
    def test_prints_tables_that_are_whole(
        self,
        sets: Sets,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        scores, out = tmp_path / "scores.json", tmp_path / "out.json"
        columns = {
            name: {"correct": a.correct.astype(int).tolist(), "x": a.uncertainty.tolist()}
            for name, a in sets.items()
        }
        columns["a"]["x"][0] = None
        scores.write_text(json.dumps(columns))
        monkeypatch.setattr(benchmarks.live, "QUICK", TINY)
        monkeypatch.setattr(live_drift, "HORIZON", 120)
        monkeypatch.setattr(live_control, "MIXED_STREAM", 100)
        given = ["--scores", str(scores), "--score", "x", "--quick", "--out", str(out)]
        assert main(given) == 0
        printed = capsys.readouterr().out
        report = json.loads(out.read_text())
        assert report["settings"]["alarms"] == 8
        assert report["sets"]["a"]["unknown"] == 1
        assert "160 answers to 4 sets (scores.json, x), 1 of unknown score; seed 0." in printed
        assert "| 0.1 | 2.5 |" in printed
        assert "> 120" in printed
        widths = [line.count("|") for line in printed.splitlines()]
        head = None
        for width in widths:  # every row of a table is as wide as its head
            head = (head or width) if width else None
            assert width == (head or 0)
        assert all(span in printed for span in SPANS)

    def test_equal_seeds_give_equal_figures(
        self, sets: Sets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live_drift, "HORIZON", 60)
        monkeypatch.setattr(live_control, "MIXED_STREAM", 50)
        monkeypatch.setattr(live_control, "RATIOS", (0.3,))
        first, again, other = (measure(sets, TINY, seed) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_the_whole_has_enough_runs_for_false_alarms(self) -> None:
        assert FULL.alarms >= 2000
        assert FULL.length == 3000

    def test_says_what_is_wrong(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--scores", str(tmp_path / "none.json")]) == 2
        assert "none.json can't be read" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["--seed", "-1"])
        with pytest.raises(SystemExit):
            main(["--scores", "a", "--records", "b"])
