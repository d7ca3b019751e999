"""What is asked for through `fit_calibration`: risks, losses, budgets, and several at once."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from calibration.artifact import Calibration
from calibration.bounds import p_at_most
from calibration.certificates import Certificate, Claim
from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from calibration.fit import USUAL_TARGETS, Truth
from calibration.fit_results import FitReport
from calibration.records import Key, Record
from calibration.targets import CostModel, Target
from calibration.thresholds import ESCALATE_ALL, measure
from tests.calibration.test_fit import (
    Made,
    fit,
    fitted,
    fitted_on_long_answers,
    long_records,
    made_on_states,
    make,
    make_on_states,
    make_records,
    perplexity_of,
)
from tests.calibration.told import with_states

N = 600
RISK = 0.3


@cache
def made() -> Made:
    """One calibration of 600 records for a risk of 0.3."""
    return make(make_records(N), f"risk={RISK}", population="questions made here")


def certificate_of(made: Calibration | FitReport) -> Certificate:
    point = made.operating_point if isinstance(made, Calibration) else made
    assert point.certificate is not None
    return point.certificate


def llm_outcomes(records: list[Record], share: float = 0.9, seed: int = 1) -> dict[Key, bool]:
    """A large model that is right on a share of the questions, whichever they are."""
    rng = np.random.default_rng(seed)
    return {record.key: bool(rng.random() < share) for record in records}


class TestRisk:
    def test_comes_with_a_certificate_from_the_held_out_part(self) -> None:
        calibration, report = made().calibration, made().report
        certificate = certificate_of(calibration)
        assert certificate == report.certificate
        assert certificate.threshold == calibration.threshold == report.threshold
        assert certificate.confidence == calibration.confidence == 0.95
        assert certificate.population == calibration.population == "questions made here"
        assert certificate.labels == calibration.labels == "gold"
        (claim,) = certificate.claims
        assert (claim.kind, claim.bound, claim.n) == ("risk", RISK, report.n_test)
        assert claim.n_kept == report.n_kept
        assert report.accuracy_kept == pytest.approx(1 - claim.n_errors / claim.n_kept)
        assert claim.p_value == pytest.approx(p_at_most([claim.n_errors], [claim.n_kept], RISK)[0])
        assert claim.p_value <= 0.05

    def test_is_kept_on_fresh_records(self) -> None:
        fresh = make_records(4000, seed=77)
        right = np.array([record.correct for record in fresh])
        p = made().calibration.calibrator.predict(perplexity_of(fresh))
        point = measure("", made().calibration.threshold, p, right)
        assert point.accuracy_kept is not None
        assert 1 - point.accuracy_kept <= RISK
        assert point.escalation_ratio < 0.8

    def test_a_lower_confidence_keeps_no_less(self) -> None:
        bold, report = fit(make_records(N), f"risk={RISK}", confidence=0.6)
        assert bold.confidence == certificate_of(bold).confidence == 0.6
        assert bold.threshold < made().calibration.threshold
        assert report.n_kept > made().report.n_kept
        assert certificate_of(bold).claims[0].p_value > 0.05
        usual = [it.certificate for it in bold.operating_points if it.certificate is not None]
        assert {certificate.confidence for certificate in usual} == {0.6}

    def test_one_that_can_not_be_certified_says_what_can(self) -> None:
        with pytest.raises(
            InfeasibleTarget, match=r"risk=0.05 can't be certified with 95% confidence on 120 held-"
        ) as caught:
            fit(make_records(300), "risk=0.05")
        assert caught.value.target == "risk=0.05"
        (hint,) = caught.value.feasible
        fit(make_records(300), hint)
        with pytest.raises(InfeasibleTarget, match="No number of rows shows"):
            fit(make_records(300), "risk=0.0")

    def test_its_sentence_names_bound_and_population(self) -> None:
        said = certificate_of(made().calibration).describe()
        assert said.startswith("With 95% confidence, at most 30% of the answers kept are wrong")
        assert "for questions drawn like questions made here" in said

    def test_the_population_is_named_when_it_is_not_given(self) -> None:
        records = [
            replace(record, dataset="other") if i % 2 else record
            for i, record in enumerate(make_records(200))
        ]
        calibration, report = fit(records)
        assert calibration.population == "the 200 answered questions of other, synthetic"
        assert report.population == calibration.population

    def test_an_answer_of_unknown_score_is_never_kept_but_counts(self) -> None:
        calibration, report = fit(make_records(N, n_unknown=150), "risk=0.4")
        (claim,) = certificate_of(calibration).claims
        assert claim.n == report.n_test == 240
        n_unknown = calibration.n_unknown - calibration.histogram.n_unknown
        assert n_unknown > 40
        assert claim.n_kept == report.n_kept <= 240 - n_unknown

    def test_figures_can_be_written_as_json(self) -> None:
        out = json.loads(json.dumps(made().report.to_json(), allow_nan=False))
        assert out["certificate"] == json.loads(
            json.dumps(certificate_of(made().calibration).to_dict())
        )
        assert out["population"] == "questions made here"


class TestEarlyStop:
    def test_there_is_none_beside_a_certificate(self) -> None:
        assert fitted_on_long_answers()[0].early_stop is not None
        calibration, report = fit(list(long_records()), "risk=0.4")
        assert certificate_of(calibration)
        assert calibration.early_stop is report.early_stop is None
        unsure, _ = fit(list(long_records()), f"threshold={calibration.threshold!r}")
        assert unsure.early_stop is not None


class TestGate:
    def test_what_is_given_up_is_not_kept_in_the_certificate_of_the_main_point_alone(self) -> None:
        made = make_on_states(with_states(make_records(600)), "risk=0.1")
        assert made.calibration.gate == made_on_states().calibration.gate
        assert made.calibration.gate is not None
        (claim,) = certificate_of(made.calibration).claims
        gated = np.isnan(made.held_out.p_correct)
        assert gated.sum() == round(made.calibration.gate.gated * made.report.n_test) > 0
        kept = made.held_out.p_correct >= made.calibration.threshold
        assert claim.n == made.report.n_test
        assert claim.n_kept == kept.sum()
        assert claim.n_errors == (kept & ~made.held_out.correct).sum()
        for point in made.calibration.operating_points:
            kept = made.plain_held_out.p_correct >= point.threshold
            assert point.n_kept == kept.sum()
            if point.certificate is not None:
                assert point.certificate.claims[0].n_kept == kept.sum()


class TestUsualTargets:
    def test_each_is_a_point_or_called_unreachable(self) -> None:
        calibration, _ = fitted()
        points = [point.target for point in calibration.operating_points]
        assert sorted([*points, *calibration.unreachable]) == sorted(map(str, USUAL_TARGETS))
        assert "risk=0.02" in calibration.unreachable
        assert "escalation=0.5" in points

    def test_risks_are_certified_each_for_itself_and_budgets_are_not(self) -> None:
        calibration = made().calibration
        certified = [it for it in calibration.operating_points if it.certificate is not None]
        assert [it.target for it in certified] == ["risk=0.2", f"risk={RISK}", "risk=0.4"]
        for point in certified:
            assert point.certificate is not None
            (claim,) = point.certificate.claims
            assert f"risk={claim.bound}" == point.target == claim.target
            assert (claim.n, claim.n_kept) == (made().report.n_test, point.n_kept)
            assert point.certificate.threshold == point.threshold
            assert point.certificate.confidence == 0.95
        assert all(
            it.target.startswith("escalation=")
            for it in calibration.operating_points
            if it.certificate is None
        )
        assert certified[1].threshold == calibration.threshold  # there is no gate here

    def test_what_was_asked_for_does_not_change_them(self) -> None:
        other, _ = fit(make_records(N), "threshold=0.9", population="questions made here")
        assert other.operating_points == made().calibration.operating_points
        assert other.unreachable == made().calibration.unreachable
        assert other.operating_point.certificate is None

    def test_a_request_for_a_risk_is_met_by_a_certified_one(self) -> None:
        calibration = made().calibration
        by_target = {point.target: point for point in calibration.operating_points}
        assert calibration.point_for_risk(0.45) == by_target["risk=0.4"]
        assert calibration.threshold_for_risk(0.39) == by_target["risk=0.3"].threshold
        assert calibration.point_for_risk(0.29) == by_target["risk=0.2"]
        assert calibration.point_for_risk(0.19) is None
        assert calibration.threshold_for_risk(0.19) is None


class TestSeveral:
    def test_all_are_met(self) -> None:
        calibration, report = fit(make_records(N), "risk=0.4, escalation=0.7")
        assert calibration.target == report.target == "risk=0.4, escalation=0.7"
        assert calibration.targets == (Target("risk", 0.4), Target("escalation", 0.7))
        assert report.escalation_ratio <= 0.75
        (claim,) = certificate_of(calibration).claims
        assert claim.target == "risk=0.4"

    def test_two_that_contradict_are_told_apart_by_how_much(self) -> None:
        with pytest.raises(InfeasibleTarget, match=r"escalation=0.1 allows 10%: \d+ points apart"):
            fit(make_records(N), f"risk={RISK}, escalation=0.1")

    def test_none_or_two_of_a_kind_are_refused(self) -> None:
        with pytest.raises(CalibrationError, match="two targets of one kind"):
            fit(make_records(60), "risk=0.1, risk=0.2")

    def test_savings_are_what_a_quality_allows_anyway(self) -> None:
        calibration, _ = fit(make_records(N), f"risk={RISK}, savings=max")
        assert calibration.threshold == made().calibration.threshold
        assert calibration.targets[1] == Target("savings", math.inf)


class TestCost:
    def test_is_a_budget_in_money(self) -> None:
        prices = CostModel(escalated_usd=0.01, local_usd=0.001)
        calibration, report = fit(make_records(N), "cost=5.0/1k", cost=prices)
        assert calibration.cost == prices
        assert calibration.target == "cost=5.0/1k"
        assert report.escalation_ratio == pytest.approx(0.4, abs=0.06)
        assert fit(make_records(60))[0].cost is None

    def test_needs_prices(self) -> None:
        with pytest.raises(CalibrationError, match="needs prices"):
            fit(make_records(60), "cost=5.0/1k")

    def test_one_that_buys_nothing_is_told_what_would(self) -> None:
        with pytest.raises(InfeasibleTarget, match="does not pay for the small model alone"):
            fit(make_records(60), "cost=0.5/1k", cost=CostModel(0.01, local_usd=0.001))


class TestLargeModel:
    def test_a_loss_is_certified_against_its_outcomes(self) -> None:
        records = make_records(N)
        llm = llm_outcomes(records)
        for record in records[::3]:
            del llm[record.key]
        seen = make(records, "loss=0.2", truth=Truth(llm=llm))
        (claim,) = certificate_of(seen.calibration).claims
        held_out = [llm[key] for key in seen.held_out.keys if key in llm]
        assert (claim.kind, claim.bound, claim.n) == ("loss", 0.2, len(held_out))
        kept = seen.held_out.p_correct >= seen.calibration.threshold
        lost = [
            keeps and not right and llm[key]
            for key, keeps, right in zip(
                seen.held_out.keys, kept.tolist(), seen.held_out.correct.tolist(), strict=True
            )
            if key in llm
        ]
        assert claim.n_errors == sum(lost)
        assert seen.report.loss == pytest.approx(np.mean(lost))
        assert seen.report.accuracy_overall is not None
        assert seen.report.accuracy_overall > seen.report.accuracy_test

    def test_an_accuracy_counts_what_it_answers(self) -> None:
        records = make_records(N)
        truth = Truth(llm=llm_outcomes(records))
        calibration, report = fit(records, "accuracy=0.8", truth=truth)
        assert report.accuracy_overall == pytest.approx(0.8, abs=0.06)
        assert calibration.operating_point.certificate is None
        assert calibration.threshold < ESCALATE_ALL

    @pytest.mark.parametrize("target", ["loss=0.2", "accuracy=0.8"])
    def test_both_need_its_outcomes(self, target: str) -> None:
        with pytest.raises(FitError, match="--llm NAME"):
            fit(make_records(60), target)

    def test_without_outcomes_nothing_is_measured_against_it(self) -> None:
        assert made().report.loss is made().report.accuracy_overall is None
        assert made().held_out.llm is None

    def test_risk_and_loss_together_are_one_certificate(self) -> None:
        records = make_records(N)
        truth = Truth(llm=llm_outcomes(records))
        calibration, _ = fit(records, f"risk={RISK}, loss=0.2", truth=truth)
        certificate = certificate_of(calibration)
        assert [claim.kind for claim in certificate.claims] == ["risk", "loss"]
        assert calibration.threshold >= made().calibration.threshold
        loss = Claim("loss", "loss=0.2", 0.2, 240, 0, 0, 0.0, certificate.claims[1].test)
        assert replace(certificate.claims[1], n_kept=0, n_errors=0, p_value=0.0) == loss

    def test_its_agreement_can_be_the_label(self) -> None:
        truth = Truth(labels="llm", labelled_by="gpt-x")
        calibration, report = fit(make_records(N), "loss=0.25", truth=truth)
        assert (calibration.labels, calibration.labelled_by) == ("llm", "gpt-x")
        assert (report.labels, report.labelled_by) == ("llm", "gpt-x")
        certificate = certificate_of(calibration)
        assert certificate.labels == "llm"
        assert "disagrees with the large model's" in certificate.describe()
        assert certificate.claims[0].n == 240  # it always agrees with itself

    def test_outcomes_are_found_by_record(self) -> None:
        records = make_records(3)
        llm = {records[0].key: True, records[2].key: False}
        found = Truth(llm=llm).outcomes(records)
        assert found is not None
        assert np.array_equal(found, [1.0, math.nan, 0.0], equal_nan=True)
        assert Truth().outcomes(records) is None
        assert Truth(llm={}).outcomes(records) is None
