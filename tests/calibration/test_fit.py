"""Records whose true P(correct) is known in, a calibration out: what is chosen, what is refused.

Other tests of this folder use the records and the calibrations made here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import ArrayLike

from calibration.artifact import Calibration
from calibration.binding import Binding, estimator_versions
from calibration.calibrators import CALIBRATORS
from calibration.choosing import MIN_PER_CLASS
from calibration.errors import CalibrationError, FitError
from calibration.fit import fit_calibration, naive_confidence
from calibration.fit_results import FitReport
from calibration.metrics import FloatArray
from calibration.parts import FitPart, HeldOutPart
from calibration.probe_training import train_linear_probe
from calibration.records import Record
from calibration.targets import parse_targets
from calibration.thresholds import choose_operating_point
from calibration.trained import PROBES, STACKED_PROBES
from tests.calibration.told import N_LAYER, dear_p_true, with_p_true, with_states
from uq import Trace

FAMILIES = ("sums", "capitals", "rhymes", "logic")
NOON = "2025-01-01T12:00:00+00:00"

BINDING = Binding(
    model_sha256="ab" * 32,
    quantisation="Q4_1",
    template_sha256="cd" * 32,
    sampler={"temperature": 0.0, "top_k": 0, "logit_bias": ()},
    estimators=estimator_versions(),
    engine_build="build 1",
)

ONLY_PERPLEXITY = replace(BINDING, estimators={"perplexity": estimator_versions()["perplexity"]})


def true_p_correct(uncertainty: float) -> float:
    """P(correct) of a synthetic record whose mean negative log-probability is `uncertainty`."""
    return 1.0 / (1.0 + math.exp(6.0 * (uncertainty - 0.5)))


def make_records(n: int, seed: int = 0, *, n_unknown: int = 0) -> list[Record]:
    """Draw `n` records, about half of them right; perplexity alone tells which are likely to be.

    A record's log-probabilities scatter around minus its uncertainty, uniform in [0, 1]; all other
    statistics are noise. The first `n_unknown` records hold no log-probabilities.
    """
    return list(_drawn(n, seed, n_unknown))


@cache
def _drawn(n: int, seed: int, n_unknown: int) -> tuple[Record, ...]:
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        uncertainty = rng.uniform(0.02, 1.0)
        n_tokens = int(rng.integers(2, 9))
        logprobs = -uncertainty * n_tokens * rng.dirichlet(np.full(n_tokens, 2.0))
        record = Record(
            item_id=f"item-{i:05d}",
            dataset="synthetic",
            family=FAMILIES[i % len(FAMILIES)],
            correct=bool(rng.random() < true_p_correct(uncertainty)),
            trace=make_trace(np.zeros(n_tokens) if i < n_unknown else logprobs, rng),
        )
        records.append(record)
    return tuple(records)


def perplexity_of(records: list[Record]) -> FloatArray:
    """The uncertainty of each, as `ONLY_PERPLEXITY` scores it; all known."""
    return np.array([-record.trace.logprobs.mean() for record in records])


def make_trace(logprobs: ArrayLike, rng: np.random.Generator) -> Trace:
    """Return a trace with these log-probabilities; its entropies and margins are noise."""
    n = len(np.asarray(logprobs))
    return Trace(
        text="x" * n,
        tokens=np.arange(n),
        offsets=np.arange(n),
        logprobs=np.asarray(logprobs, dtype=np.float64),
        entropies=rng.uniform(0.1, 2.0, n),
        margins=rng.uniform(0.0, 0.9, n),
        top_ids=np.zeros((n, 0), dtype=np.int64),
        top_logprobs=np.zeros((n, 0)),
        end_logprob=math.nan,
        finish_reason="stop",
        n_prompt=8,
    )


def fit(
    records: list[Record], target: str = "escalation=0.3", **options: Any
) -> tuple[Calibration, FitReport]:
    """`fit_calibration` with this file's defaults and few resamples."""
    defaults: dict[str, Any] = {
        "binding": ONLY_PERPLEXITY,
        "holdout": {"name": "synthetic"},
        "created": NOON,
        "n_boot": 20,
    }
    return fit_calibration(records, target=parse_targets([target]), **{**defaults, **options})


@dataclass(frozen=True, eq=False)
class Made:
    """A calibration, and the parts of the records that its thresholds were chosen on.

    `fit_part` and `held_out` are those of the main operating point, `plain_fit_part` and
    `plain_held_out` those of the usual ones, which know no gate.
    """

    calibration: Calibration
    report: FitReport
    fit_part: FitPart
    held_out: HeldOutPart
    plain_fit_part: FitPart
    plain_held_out: HeldOutPart


def make(records: list[Record], target: str = "escalation=0.3", **options: Any) -> Made:
    """`fit`, looked at from within."""
    with patch("calibration.fit.choose_operating_point", wraps=choose_operating_point) as choose:
        calibration, report = fit(records, target, **options)
    main, usual, *_ = [call.args[1:] for call in choose.call_args_list]
    return Made(calibration, report, *main, *usual)


@cache
def fitted() -> tuple[Calibration, FitReport]:
    """One calibration of 600 records on all estimators, nine of them without log-probabilities."""
    return fit(make_records(600, n_unknown=9), binding=BINDING)


def bound_to(*names: str) -> Binding:
    """A binding of some estimators."""
    return replace(BINDING, estimators={name: BINDING.estimators[name] for name in names})


def make_on_states(records: list[Record], target: str = "escalation=0.3", **options: Any) -> Made:
    """`make` from records with hidden states; of the penalties of probes it tries two only."""
    train_quickly = partial(train_linear_probe, inverse_penalties=(1e-3, 1e-1))
    quick = {name: replace(PROBES[name], train=train_quickly) for name in STACKED_PROBES}
    binding = bound_to("perplexity", "margin")
    with patch.dict(PROBES, quick):
        return make(records, target, **{"binding": binding, "n_layer": N_LAYER, **options})


@cache
def made_on_states() -> Made:
    """600 records in whose hidden states lies what tells right from wrong."""
    return make_on_states(with_states(make_records(600)))


def fitted_on_states() -> tuple[Calibration, FitReport]:
    """The calibration of `made_on_states`, and its report."""
    return made_on_states().calibration, made_on_states().report


@cache
@dear_p_true()
def fitted_with_band() -> tuple[Calibration, FitReport]:
    """One calibration of 800 records that decides by p(True) too where the rest leaves doubt."""
    records = with_p_true(make_records(800), strength=1.5)
    return fit(records, binding=bound_to("perplexity", "margin", "p_true"), method="stack")


@cache
@dear_p_true()
def fitted_on_noise() -> tuple[Calibration, FitReport]:
    """One calibration of 600 records whose p(True), which the stack reads, tells nothing."""
    records = with_p_true(make_records(600, 3), strength=0.0, seed=103)
    return fit(records, binding=bound_to("perplexity", "margin", "p_true"), method="stack")


@cache
@dear_p_true()
def fitted_on_too_dear() -> tuple[Calibration, FitReport]:
    """One calibration of 600 records whose p(True) tells something, but costs more than it buys."""
    records = with_p_true(make_records(600), strength=1.0)
    return fit(records, binding=bound_to("perplexity", "margin", "p_true"))


@cache
def long_records() -> tuple[Record, ...]:
    """700 records of 17 to 80 tokens."""
    rng = np.random.default_rng(5)
    records = []
    for record in make_records(700):
        n, u = int(rng.integers(17, 81)), -float(record.trace.logprobs.mean())
        trace = make_trace(-u * n * rng.dirichlet(np.full(n, 2.0)), rng)
        records.append(replace(record, trace=trace))
    return tuple(records)


@cache
def fitted_on_long_answers() -> tuple[Calibration, FitReport]:
    """One calibration of `long_records`."""
    return fit(list(long_records()))


class TestChoice:
    def test_auto_finds_the_estimator_that_knows(self) -> None:
        calibration, report = fitted()
        # These read the same log-probabilities: span and window are the whole answer here.
        assert calibration.method in {
            *("perplexity", "average_token_probability", "answer_span_mean"),
            "lowest_window_confidence",
        }
        noise = report.cv_brier.get("mean_token_entropy", 0.25)
        assert report.cv_brier[calibration.method] < noise - 0.02

    def test_method_and_calibrator_can_be_asked_for(self) -> None:
        binding = bound_to("perplexity", "margin", "min_probability")
        calibration, report = fit(
            make_records(300), binding=binding, method="min_probability", calibrator="isotonic"
        )
        assert calibration.method == report.method == "min_probability"
        assert calibration.calibrator.kind == report.calibrator == "isotonic"
        assert set(report.cv_brier) == {"min_probability"}
        assert set(report.estimators) == {*binding.estimators, "stack"}

    @pytest.mark.parametrize("kind", sorted(CALIBRATORS))
    def test_each_kind_of_calibrator_can_be_asked_for(self, kind: str) -> None:
        calibration, report = fit(make_records(200), calibrator=kind)
        assert calibration.calibrator.kind == report.calibrator == kind
        if kind == "venn_abers":
            assert report.mean_width is not None
            assert 0.0 < report.mean_width < 0.5
        else:
            assert report.mean_width is None

    def test_only_estimators_of_the_binding_are_considered(self) -> None:
        _, report = fit(make_records(200))
        assert set(report.estimators) == {"perplexity"}

    def test_the_order_of_records_does_not_matter(self) -> None:
        records = make_records(300)
        one, _ = fit(records)
        other, _ = fit(records[::-1])
        assert one.id == other.id

    def test_the_seed_draws_another_split(self) -> None:
        records = make_records(300)
        one, again, other = (fit(records, seed=seed)[0] for seed in (0, 0, 1))
        assert one.id == again.id
        assert one.threshold != other.threshold

    def test_creation_date_is_now_by_default(self) -> None:
        calibration, _ = fit(make_records(100), created=None)
        assert calibration.created.endswith("+00:00")
        assert calibration.created > "2025"

    def test_a_threshold_target_is_used_as_given(self) -> None:
        calibration, _ = fit(make_records(100), "threshold=0.6")
        assert calibration.threshold == 0.6

    def test_good_data_raise_no_warnings(self) -> None:
        _, report = fitted()
        assert report.warnings == ()

    def test_weak_data_are_called_weak(self) -> None:
        _, few = fit(make_records(90))
        assert "answers of the rarer kind" in few.warnings[0]
        _, unknown = fit(make_records(400, n_unknown=80))
        assert unknown.warnings == (
            "The score of 80 of 400 answers is unknown; such always escalate.",
        )
        binding = bound_to("margin")
        _, noise = fit(make_records(300), binding=binding, calibrator="isotonic")
        assert "no better than their share of right ones" in noise.warnings[0]

    def test_scores_tied_to_two_values_still_calibrate(self) -> None:
        rng = np.random.default_rng(0)
        records = [
            replace(
                record,
                correct=bool(rng.random() < (0.8 if i % 2 else 0.3)),
                trace=make_trace([-0.2 if i % 2 else -0.9], rng),
            )
            for i, record in enumerate(make_records(400))
        ]
        for calibrator in ("isotonic", "platt"):
            calibration, report = fit(records, "escalation=0.4", calibrator=calibrator)
            assert report.escalation_ratio == pytest.approx(0.5, abs=0.08)
            assert calibration.p_correct({"perplexity": 0.2}) == pytest.approx(0.8, abs=0.1)
            assert sum(calibration.histogram.counts) == 240
            assert sum(report.scores.right) == round(report.accuracy * report.n)


class TestErrors:
    def test_too_few_of_a_class_says_how_many_more(self) -> None:
        records = [replace(record, correct=i < 7) for i, record in enumerate(make_records(60))]
        with pytest.raises(FitError, match=r"hold 7 right and 53 wrong.*13 more right answers"):
            fit(records)
        both = [replace(record, correct=i < 7) for i, record in enumerate(make_records(10))]
        with pytest.raises(FitError, match="13 more right and 17 more wrong answers"):
            fit(both)

    def test_just_enough_is_enough(self) -> None:
        rng = np.random.default_rng(0)
        records = [
            replace(record, correct=i < 20, trace=make_trace([-0.2 if i < 15 else -0.8], rng))
            for i, record in enumerate(make_records(2 * MIN_PER_CLASS))
        ]
        _, report = fit(records)
        assert (report.n_fit, report.n_test) == (24, 16)

    def test_no_records(self) -> None:
        with pytest.raises(FitError, match="0 records"):
            fit([])

    def test_an_item_twice(self) -> None:
        records = make_records(60)
        with pytest.raises(
            FitError, match="item 'item-00003' of data set 'synthetic' occurs twice"
        ):
            fit([*records, records[3]])
        fit([*records, replace(records[3], dataset="another")])

    def test_unknown_method_or_calibrator(self) -> None:
        records = make_records(60)
        with pytest.raises(FitError, match="unknown method 'magic'; there are auto, perplexity"):
            fit(records, method="magic")
        with pytest.raises(
            FitError, match="unknown calibrator 'magic'; there are auto, isotonic, platt"
        ):
            fit(records, calibrator="magic")

    def test_estimators_of_another_version(self) -> None:
        old = replace(BINDING, estimators={"perplexity": 0})
        with pytest.raises(FitError, match="version 0 of the estimator 'perplexity', but version"):
            fit(make_records(60), binding=old)
        missing = replace(BINDING, estimators={"magic": 1})
        with pytest.raises(FitError, match="'magic', but none is installed"):
            fit(make_records(60), binding=missing)
        with pytest.raises(FitError, match="names no estimators"):
            fit(make_records(60), binding=replace(BINDING, estimators={}))

    def test_no_known_scores(self) -> None:
        with pytest.raises(FitError, match=r"perplexity: 0 records of known score"):
            fit(make_records(100, n_unknown=100))

    def test_scores_that_rank_the_wrong_way(self) -> None:
        records = make_records(100)
        trace = {right: record.trace for record in records for right in [record.correct]}
        sure_but_wrong = [
            replace(record, trace=trace[right], correct=not right)
            for record in records
            for right in [record.correct]
        ]
        with pytest.raises(
            FitError, match=r"nothing could be fitted\. perplexity: the score does not"
        ):
            fit(sure_but_wrong)

    def test_a_broken_estimator_is_reported_as_unknown(self) -> None:
        records = make_records(200)
        # Without margins that can be believed, that one estimator knows nothing.
        flat = [
            replace(record, trace=replace(record.trace, margins=np.ones(len(record.trace))))
            for record in records
        ]
        _, report = fit(flat, binding=bound_to("perplexity", "margin"))
        assert report.estimators["margin"].auroc is None
        assert report.estimators["margin"].auroc_ci is None
        assert report.estimators["margin"].n == 0
        assert "margin" not in report.cv_brier

    def test_all_of_them_are_calibration_errors(self) -> None:
        with pytest.raises(CalibrationError):
            fit([])


def test_naive_confidence_is_the_geometric_mean_probability() -> None:
    rng = np.random.default_rng(0)
    assert naive_confidence(make_trace(np.log([0.9, 0.4]), rng)) == pytest.approx(0.6)
    assert math.isnan(naive_confidence(make_trace([0.0, 0.0], rng)))
