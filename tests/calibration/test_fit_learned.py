"""Estimators that are learned with the calibration: what they buy, and when they are asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calibration.metrics import auroc, brier
from tests.calibration.test_fit import (
    bound_to,
    fit,
    fitted,
    fitted_on_long_answers,
    fitted_on_noise,
    fitted_on_states,
    fitted_on_too_dear,
    fitted_with_band,
    made_on_states,
    make_on_states,
    make_records,
    make_trace,
)
from tests.calibration.told import LAYERS, with_p_true, with_states
from uq.signals import SIGNAL_COST


class TestLearned:
    def test_what_tells_in_the_states_is_chosen_and_beats_perplexity_on_unseen_answers(
        self,
    ) -> None:
        calibration, report = fitted_on_states()
        assert calibration.method in {"stack", "linear_probe"}
        fresh = with_states(make_records(400, seed=9), seed=9)
        right = np.array([record.correct for record in fresh])
        scores = [calibration.scores(record.trace) for record in fresh]
        p = np.array([calibration.p_correct(row) for row in scores])
        by_perplexity = auroc([row["perplexity"] for row in scores], right)
        assert auroc(-p, right) > max(0.97, by_perplexity + 0.1)
        assert brier(p, right) == pytest.approx(report.brier.after, abs=0.04)

    def test_states_that_tell_nothing_buy_nothing(self) -> None:
        records = with_states(make_records(500), strength=0.0, relabel=True)
        made = make_on_states(records, "threshold=0.5")
        calibration, report = made.calibration, made.report
        # The standard error of each is 0.033; the best of five is the one chosen.
        assert all(it.auroc < 0.6 for it in report.methods.values())
        fresh = with_states(make_records(500, seed=9), strength=0.0, relabel=True, seed=9)
        p = [calibration.p_correct(calibration.scores(record.trace)) for record in fresh]
        chance = auroc(-np.array(p), [record.correct for record in fresh])
        assert chance == pytest.approx(0.5, abs=0.09)
        assert np.std(p) < 0.12

    def test_only_what_decides_is_kept(self) -> None:
        calibration, _ = fitted_on_states()
        assert calibration.gate is not None
        assert calibration.gate.probe in calibration.learned.probes
        assert set(calibration.learned.stacks) <= {calibration.method}
        assert calibration.layers == set(LAYERS)
        assert calibration.signals == {"hidden"}
        assert calibration.closer_signals == frozenset()

    def test_the_gate_is_measured_on_the_test_part(self) -> None:
        calibration, report = fitted_on_states()
        gate = calibration.gate
        assert gate is not None
        assert gate == report.gate
        assert gate.max_lost == 0.02
        assert gate.lost <= 0.02 + 3 * math.sqrt(0.02 / (report.n_test * report.accuracy_test))
        assert gate.gated > 2 * gate.lost

    def test_what_is_gated_is_unknown_to_the_operating_point_alone(self) -> None:
        made = made_on_states()
        assert made.calibration.gate is not None
        gated = np.isnan(made.held_out.p_correct)
        assert gated.mean() == pytest.approx(made.calibration.gate.gated)
        assert np.isnan(made.fit_part.p_correct).any()
        assert np.array_equal(np.isnan(made.fit_part.p_correct), np.isnan(made.fit_part.p_served))
        assert not np.isnan(made.plain_held_out.p_correct).any()
        assert not np.isnan(made.plain_fit_part.p_correct).any()
        assert np.array_equal(
            made.held_out.p_correct[~gated], made.plain_held_out.p_correct[~gated]
        )
        point = made.calibration.operating_point
        kept = ~gated & (made.plain_held_out.p_correct >= point.threshold)
        assert point.n_kept == kept.sum()
        assert made.calibration.reference.p_correct == tuple(
            sorted(made.plain_held_out.p_correct.tolist())
        )

    def test_the_early_stop_is_measured_on_the_test_part(self) -> None:
        calibration, report = fitted_on_long_answers()
        stop = calibration.early_stop
        assert stop is not None
        assert stop == report.early_stop
        # Fewer than 199 of the fit part are kept and have 64 tokens or more.
        assert [n for n, _ in stop.checkpoints] == [16, 32]
        assert stop.lost <= 0.02 + 3 * math.sqrt(0.02 / report.n_kept)
        assert stop.stopped > 0.1 > stop.lost
        assert 0.0 < stop.saved < stop.stopped

    def test_short_answers_have_no_early_stop_and_no_states_no_gate(self) -> None:
        calibration, report = fitted()
        assert calibration.early_stop is report.early_stop is None
        assert calibration.gate is report.gate is None


class TestValue:
    @pytest.mark.parametrize("made", [fitted, fitted_on_states])
    def test_the_highest_alignment_per_unit_of_compute_is_chosen(self, made: Any) -> None:
        calibration, report = made()
        for method in report.methods.values():
            assert method.value == pytest.approx((method.auroc - 0.5) / (1 + method.cost))
        best = max(report.methods.values(), key=lambda method: method.value)
        assert report.methods[calibration.method] == best
        assert set(report.methods) == set(report.cv_brier)

    def test_costs_are_those_of_the_signals_that_are_read(self) -> None:
        _, report = fitted_on_states()
        costs = {name: method.cost for name, method in report.methods.items()}
        assert costs["perplexity"] == costs["margin"] == 0.0
        assert costs["linear_probe"] == costs["stack"] == SIGNAL_COST["hidden"]

    def test_length_never_decides_unless_asked_to(self) -> None:
        rng = np.random.default_rng(0)
        records = [
            replace(record, trace=make_trace(np.full(2 + 5 * (not record.correct), -0.3), rng))
            for record in make_records(200)
        ]
        binding = bound_to("length", "margin")
        _, report = fit(records, binding=binding)
        assert report.estimators["length"].auroc == 1.0
        assert "length" not in report.methods
        assert fit(records, binding=binding, method="length")[0].method == "length"

    def test_unknown_scores_rank_last(self) -> None:
        _, known = fit(make_records(400))
        _, unknown = fit(make_records(400, n_unknown=120))
        assert unknown.methods["perplexity"].auroc < known.methods["perplexity"].auroc - 0.03


class TestBand:
    def test_the_costly_score_decides_where_the_cheap_one_leaves_doubt(self) -> None:
        calibration, _ = fitted_with_band()
        band = calibration.band
        assert band is not None
        assert calibration.method == "stack"
        assert calibration.signals == frozenset()
        assert calibration.closer_signals == {"p_true"}
        inside, outside = (band.low + band.high) / 2, band.low - 0.01
        for score, p in ((inside, calibration.calibrator), (outside, band.calibrator)):
            given = {"stack": 0.77, band.method: score}
            assert calibration.looks_closer(given) == (score == inside)
            expected = p.predict(np.array([given["stack" if score == inside else band.method]]))
            assert calibration.p_correct(given) == float(expected[0])

    def test_figures_are_those_of_the_test_part(self) -> None:
        calibration, report = fitted_with_band()
        band, spending = calibration.band, report.spending
        assert band is not None
        assert spending is not None
        assert (spending.cheap, spending.costly) == (band.method, "stack")
        assert band.share * report.n_test == pytest.approx(round(band.share * report.n_test))
        assert 0.0 < spending.share == band.share < 1.0
        assert spending.cheapest.cost == 1.0
        assert spending.everything.cost == 1.0 + band.cost_everything == 1.25
        assert spending.adaptive.cost == pytest.approx(1.0 + 0.25 * band.share)
        for look, value in (
            (spending.cheapest, band.auroc_cheap),
            (spending.adaptive, band.auroc),
            (spending.everything, band.auroc_everything),
        ):
            assert look.auroc == value
        assert band.auroc_cheap is not None
        assert band.auroc is not None
        assert band.auroc_everything is not None
        assert band.auroc_everything > band.auroc > band.auroc_cheap + 0.02
        gain = band.auroc_everything - band.auroc_cheap
        assert spending.share_of_gain == pytest.approx((band.auroc - band.auroc_cheap) / gain)

    def test_is_what_fresh_records_show(self) -> None:
        calibration, report = fitted_with_band()
        fresh = with_p_true(make_records(1500, seed=9), strength=1.5, seed=9)
        scores = [calibration.scores(record.trace) for record in fresh]
        right = np.array([record.correct for record in fresh])
        p = np.array([calibration.p_correct(row) for row in scores])
        assert calibration.band is not None
        closer = np.mean([calibration.looks_closer(row) for row in scores])
        assert closer == pytest.approx(calibration.band.share, abs=0.09)
        assert auroc(-p, right) == pytest.approx(calibration.band.auroc, abs=0.05)
        assert (p < calibration.threshold).mean() == pytest.approx(
            report.escalation_ratio, abs=0.08
        )

    def test_a_costly_score_that_adds_nothing_is_not_asked_for(self) -> None:
        calibration, report = fitted_on_noise()
        assert calibration.method == "perplexity"
        assert calibration.band is None
        assert calibration.closer_signals == frozenset()
        assert report.spending is not None
        assert report.spending.adaptive == report.spending.cheapest
        assert report.warnings[0].startswith("stack was asked for, but on the fit part it adds no")

    def test_what_looking_closer_would_buy_is_told_when_it_is_too_dear(self) -> None:
        calibration, report = fitted_on_too_dear()
        assert calibration.band is None
        assert report.spending is not None
        assert (report.spending.cheap, report.spending.costly) == (calibration.method, "stack")

    def test_without_a_cheap_score_that_ranks_the_costly_one_is_always_read(self) -> None:
        records = with_p_true(make_records(200))
        calibration, report = fit(records, binding=bound_to("p_true"))
        assert calibration.method == "p_true"
        assert calibration.band is None
        assert report.spending is None
        assert calibration.signals == {"p_true"}
