"""What a calibration reports of unseen answers is what they show; each figure is as named."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from calibration.artifact import Calibration
from calibration.calibrators import CALIBRATORS
from calibration.figures import CurvePoint, Reference
from calibration.fit_results import FitReport
from calibration.metrics import auroc, brier, ece
from calibration.smooth_ece import smooth_ece
from calibration.thresholds import ESCALATE_ALL, measure, risk_upper_bound
from tests.calibration.test_fit import (
    BINDING,
    FAMILIES,
    Made,
    fit,
    fitted,
    fitted_with_band,
    make,
    make_records,
    perplexity_of,
    true_p_correct,
)
from uq import score_all


@cache
def made() -> Made:
    """One calibration of 1,500 records by perplexity."""
    return make(make_records(1500), calibrator="platt")


@cache
def small() -> tuple[tuple[Calibration, FitReport], ...]:
    """Eight calibrations of 500 records each."""
    return tuple(fit(make_records(500, seed), "escalation=0.5") for seed in range(8))


class TestHonesty:
    """What is reported about unseen answers is what unseen answers show."""

    @pytest.mark.parametrize("kind", sorted(CALIBRATORS))
    def test_p_correct_is_the_true_probability(self, kind: str) -> None:
        calibration, _ = fit(make_records(2000), calibrator=kind)
        grid = np.linspace(0.1, 0.9, 17)
        true_p = np.array([true_p_correct(u) for u in grid])
        off = np.abs(calibration.calibrator.predict(grid) - true_p)
        # The truth is logistic in the score; of what is not, beta and temperature miss a little.
        assert off.max() < (0.05 if kind == "platt" else 0.12)

    @pytest.mark.parametrize("target", ["escalation=0.5", "risk=0.4"])
    def test_what_is_reported_is_on_average_what_fresh_records_show(self, target: str) -> None:
        fresh = make_records(2000, seed=100)
        right = np.array([record.correct for record in fresh])
        off = []
        for calibration, report in small():
            (reported,) = (it for it in calibration.operating_points if it.target == target)
            p = calibration.calibrator.predict(perplexity_of(fresh))
            point = measure(target, reported.threshold, p, right)
            assert reported.accuracy_kept is not None
            assert point.accuracy_kept is not None
            off.append(
                (
                    reported.escalation_ratio - point.escalation_ratio,
                    reported.accuracy_kept - point.accuracy_kept,
                    report.brier.after - brier(p, right),
                )
            )
        # The standard error of these means is 0.02: eight test parts of 200, one fresh set.
        assert np.abs(np.mean(off, axis=0)).max() < 0.05

    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.8])
    def test_an_escalation_target_is_met_on_the_test_part(self, ratio: float) -> None:
        points = {point.target: point for point in made().calibration.operating_points}
        assert points[f"escalation={ratio}"].escalation_ratio == pytest.approx(ratio, abs=0.04)

    def test_calibration_beats_the_naive_confidence(self) -> None:
        report = made().report
        assert report.ece.before is not None
        assert report.brier.before is not None
        assert report.ece.before > 0.1 > report.ece.after
        assert report.brier.before > report.brier.after

    def test_ece_interval_holds_the_ece_and_reaches_zero(self) -> None:
        _, report = fitted()
        low, high = report.ece.after_ci
        # Calibrated in truth: the interval may not exclude 0, as the bootstrap's own does.
        assert low == 0.0 < report.ece.after < high < 0.25
        assert 0 < report.ece.expected < 0.12


class TestFigures:
    """Each figure is the one its name says, recomputed here."""

    def test_auroc_and_accuracy_use_all_known_records(self) -> None:
        records = make_records(600, n_unknown=9)
        calibration, report = fitted()
        known = records[9:]
        right = [record.correct for record in known]
        for name in ("perplexity", "mean_token_entropy"):
            scores = [score_all(record.trace, [name])[name] for record in known]
            quality = report.estimators[name]
            assert quality.auroc == pytest.approx(auroc(scores, right))
            assert quality.n == 591
            assert quality.auroc is not None
            assert quality.auroc_ci is not None
            assert quality.auroc_ci[0] < quality.auroc < quality.auroc_ci[1]
        assert report.accuracy == np.mean([record.correct for record in records])
        assert calibration.accuracy == report.accuracy

    def test_unknown_scores_are_counted_and_escalated(self) -> None:
        calibration, report = fit(make_records(600, n_unknown=120), "escalation=0.0")
        assert report.n_unknown == calibration.n_unknown == 120
        # 20% are unknown, so 20% escalate although none was asked for.
        assert report.escalation_ratio == pytest.approx(0.2, abs=0.05)
        assert calibration.threshold == 0.0
        n_fit_unknown = calibration.histogram.n_unknown
        assert report.n_kept == report.n_test - (120 - n_fit_unknown)

    def test_operating_point_is_consistent(self) -> None:
        calibration, report = fitted()
        point = calibration.operating_point
        assert point.target == calibration.target == report.target == "escalation=0.3"
        assert point.n == report.n_test == calibration.n_test
        assert point.threshold == report.threshold == calibration.threshold
        assert point.accuracy_kept is not None
        wrong = round(point.n_kept * (1 - point.accuracy_kept))
        assert report.risk_upper == pytest.approx(risk_upper_bound(wrong, point.n_kept))

    def test_routing_curve_runs_from_all_to_none_on_the_test_part(self) -> None:
        report, curve = made().report, made().calibration.routing_curve
        assert 90 < len(curve) <= 101
        assert curve[0].threshold == curve[0].escalation_ratio == 0.0
        assert curve[0].n_kept == report.n_test
        assert curve[0].accuracy_kept == pytest.approx(report.accuracy_test)
        assert curve[-1] == CurvePoint(ESCALATE_ALL, 1.0, None, 0)
        steps = [point.escalation_ratio for point in curve]
        assert steps == sorted(set(steps))
        assert [point.threshold for point in curve] == sorted(point.threshold for point in curve)

    def test_histogram_is_of_the_fit_part(self) -> None:
        calibration, report = fitted()
        histogram = calibration.histogram
        assert sum(histogram.counts) + histogram.n_unknown == report.n_fit
        assert len(histogram.edges) == len(histogram.counts) + 1 == 11
        assert max(histogram.counts) - min(histogram.counts) <= 2
        assert list(histogram.edges) == sorted(set(histogram.edges))

    def test_reference_is_of_the_held_out_part(self) -> None:
        reference = made().calibration.reference
        assert reference.p_correct == tuple(sorted(made().held_out.p_correct.tolist()))
        by_key = {record.key: record for record in make_records(1500)}
        u = perplexity_of([by_key[key] for key in made().held_out.keys])
        assert reference.uncertainty == pytest.approx(sorted(u))
        assert reference.n == made().report.n_test

    def test_reference_leaves_out_what_is_unknown_but_counts_it(self) -> None:
        calibration, report = fit(make_records(300, n_unknown=60))
        reference, n_unknown = calibration.reference, 60 - calibration.histogram.n_unknown
        assert n_unknown > 0
        assert reference.n == report.n_test
        assert len(reference.p_correct) == len(reference.uncertainty) == report.n_test - n_unknown

    def test_reference_of_a_band_is_the_score_that_every_answer_has(self) -> None:
        calibration, report = fitted_with_band()
        assert calibration.band is not None
        assert calibration.first_look == calibration.band.method != calibration.method
        assert sum(calibration.histogram.counts) == report.n_fit
        assert calibration.histogram.edges[0] < calibration.band.high
        assert len(calibration.reference.uncertainty) == calibration.reference.n == report.n_test
        inside = [calibration.band.holds(u) for u in calibration.reference.uncertainty]
        assert np.mean(inside) == pytest.approx(calibration.band.share)

    def test_reference_by_hand(self) -> None:
        nan = np.nan
        made_by_hand = Reference.of(np.array([0.5, nan, 0.1]), np.array([2.0, nan, -np.inf]))
        assert made_by_hand == Reference((0.1, 0.5), (2.0,), 3)

    def test_errors_of_calibration_are_those_of_the_held_out_part(self) -> None:
        p, right = made().held_out.p_correct, made().held_out.correct
        found = made().report.ece
        assert found == made().calibration.ece
        assert found.after == pytest.approx(ece(p, right))
        assert found.smooth == pytest.approx(smooth_ece(p, right))
        # Calibrated in truth, so that chance explains what there is.
        assert 0.0 < found.smooth < 3 * found.smooth_expected < 0.15
        assert made().report.brier.after == pytest.approx(brier(p, right))

    def test_plots_hold_the_right_answers_once(self) -> None:
        _, report = fitted()
        known = report.n - report.n_unknown
        assert sum(report.scores.right) + sum(report.scores.wrong) == known
        for bins in (report.reliability_before, report.reliability_after):
            assert len(bins) == 10
            assert all(b.low <= b.accuracy <= b.high for b in bins)
        assert sum(b.n for b in report.reliability_after) <= report.n_test

    def test_reliability_bins_are_those_of_the_ece(self) -> None:
        report = made().report
        for bins, value in (
            (report.reliability_before, report.ece.before),
            (report.reliability_after, report.ece.after),
        ):
            gaps = [b.n * abs(b.confidence - b.accuracy) for b in bins]
            assert sum(gaps) / report.n_test == pytest.approx(value)

    def test_groups_are_families_else_data_sets(self) -> None:
        records = make_records(200)
        loose = [replace(record, family=None) for record in records[:100]]
        _, report = fit(loose + records[100:])
        assert set(report.groups) == {*FAMILIES, "synthetic"}
        sums = [record.correct for record in records[100:] if record.family == "sums"]
        assert report.groups["sums"].accuracy == np.mean(sums)

    def test_a_group_may_miss_the_test_part_or_be_escalated_whole(self) -> None:
        records = make_records(100)
        records[3] = replace(records[3], family="lonely")
        seen = set()
        for seed in range(6):
            _, report = fit(records, "escalation=1.0", seed=seed)
            lonely = report.groups["lonely"]
            assert lonely.n == 1
            assert lonely.accuracy_kept is None
            seen.add((lonely.n_test, lonely.escalation_ratio))
        assert seen == {(0, None), (1, 1.0)}

    def test_json_has_the_promised_keys(self) -> None:
        calibration, report = fitted()
        out = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert out == report.to_json()
        for name in ("n", "accuracy", "threshold", "escalation_ratio", "accuracy_kept"):
            assert out[name] == getattr(report, name)
        assert set(out["estimators"]) == {*BINDING.estimators, "stack"}
        assert set(out["estimators"]["perplexity"]) == {"auroc", "auroc_ci", "n"}
        assert set(out["ece"]) == {
            *("before", "after", "after_ci", "expected"),
            *("smooth", "smooth_expected"),
        }
        assert (out["labels"], out["labelled_by"], out["n_feedback"]) == ("gold", "", 0)
        assert out["certificate"] is out["loss"] is out["accuracy_overall"] is None
        assert set(out["brier"]) == {"before", "after"}
        assert out["method"] == calibration.method
        assert out["calibrator"] == calibration.calibrator.kind
        assert "scores" not in out
