"""Learned estimators: what tells is found, what nothing tells is not, and folds don't leak."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from calibration.errors import FitError
from calibration.metrics import auroc
from calibration.trained import (
    MAX_FOLDS,
    PROBES,
    STACKED_PROBES,
    out_of_fold_scores,
    train,
    train_named_probe,
)
from tests.calibration.test_fit import make_records
from tests.calibration.told import LAYERS, N_LAYER, answers_of, with_p_true, with_states

trains = pytest.mark.no_cover
"""Tracing each call in scikit-learn takes as long as training; the others cover the same lines."""


class TestKinds:
    def test_each_reads_its_place_and_layers(self) -> None:
        inputs = {name: kind.input(LAYERS, N_LAYER) for name, kind in PROBES.items()}
        assert (inputs["p_ik"].place, inputs["p_ik"].layers) == ("prompt_end", LAYERS)
        assert (inputs["linear_probe"].place, inputs["linear_probe"].layers) == (
            "answer_mean",
            LAYERS,
        )
        for name in ("trained_probe", "ood_probe"):  # the founding paper's: 8th layer from the end
            assert (inputs[name].place, inputs[name].layers) == ("answer_last", (N_LAYER - 8,))

    def test_without_the_papers_layer_all_are_read(self) -> None:
        assert PROBES["trained_probe"].input(LAYERS, 40).layers == LAYERS


class TestFolds:
    def test_groups_stay_whole_and_folds_even(self) -> None:
        answers = answers_of(make_records(100))
        sizes = [40, 20, 15, 10, 8, 5, 2]
        groups = np.repeat([f"set {i}" for i in range(len(sizes))], sizes)
        folds = replace(answers, groups=groups).folds(0)
        for name in np.unique(groups):
            assert len(np.unique(folds[groups == name])) == 1
        assert sorted(np.bincount(folds).tolist()) == [12, 13, 15, 20, 40]

    @pytest.mark.parametrize("groups", [1, 2])
    def test_with_few_groups_they_are_stratified(self, groups: int) -> None:
        answers = answers_of(make_records(100), groups=groups)
        folds = answers.folds(0)
        assert set(folds) == set(range(MAX_FOLDS))
        wrong = [int(answers.wrong[folds == k].sum()) for k in range(MAX_FOLDS)]
        assert max(wrong) - min(wrong) <= 1

    def test_take_takes_of_everything(self) -> None:
        answers = answers_of(make_records(10), groups=3)
        rows = np.arange(10) % 4 == 1
        some = answers.take(rows)
        assert [id(trace) for trace in some.traces] == [id(answers.traces[i]) for i in (1, 5, 9)]
        for one, all_of_them in (
            (some.wrong, answers.wrong),
            (some.groups, answers.groups),
            (some.scores["perplexity"], answers.scores["perplexity"]),
        ):
            assert one.tolist() == all_of_them[rows].tolist()


class TestTrain:
    @pytest.mark.parametrize("groups", [pytest.param(1, marks=trains), 4])
    def test_a_direction_in_the_states_is_found(self, groups: int) -> None:
        answers = answers_of(with_states(make_records(300)), groups=groups)
        learned, honest = train(answers)
        assert set(honest) == {*STACKED_PROBES, "stack", "neighbour_rank"}
        assert learned.names == (*STACKED_PROBES, "stack", "neighbour_rank")
        quality = {name: auroc(scores, ~answers.wrong) for name, scores in honest.items()}
        # Two normal distributions d = 2.5 apart along the direction, averaged over two layers.
        assert quality["linear_probe"] > 0.97
        assert quality["linear_probe"] > quality["p_ik"] > 0.75
        assert quality["stack"] > quality["linear_probe"] - 0.005

    @trains
    def test_what_nothing_tells_is_not_found(self) -> None:
        found: dict[str, list[float]] = {}
        for seed in range(4):
            records = with_states(make_records(160, seed), strength=0.0, seed=seed, relabel=True)
            answers = answers_of(records)
            _, honest = train(answers, seed=seed)
            for name, scores in honest.items():
                known = np.isfinite(scores)
                if known.sum() > 50:
                    found.setdefault(name, []).append(auroc(scores[known], ~answers.wrong[known]))
        # The standard error of one is 0.046, of the mean of four 0.023. Scores of the answers that
        # a probe was trained on would have 0.7 and more.
        for name in STACKED_PROBES:
            assert len(found[name]) == 4
            assert np.mean(found[name]) == pytest.approx(0.5, abs=0.08)
        assert max(np.mean(values) for values in found.values()) < 0.56

    def test_scores_of_what_it_was_trained_on_are_too_good(self) -> None:
        answers = answers_of(with_states(make_records(80), strength=0.0, relabel=True))
        probe = train_named_probe("linear_probe", answers)
        seen = [probe.score(trace) for trace in answers.traces]
        honest = out_of_fold_scores("linear_probe", answers, answers.folds(0))
        assert auroc(seen, ~answers.wrong) > auroc(honest, ~answers.wrong) + 0.05

    def test_a_score_comes_from_a_probe_that_saw_no_other_of_its_fold(self) -> None:
        answers = answers_of(with_states(make_records(120)), groups=4)
        folds = answers.folds(0)
        honest = out_of_fold_scores("p_ik", answers, folds)
        turned = replace(answers, wrong=np.where(folds == 0, ~answers.wrong, answers.wrong))
        again = out_of_fold_scores("p_ik", turned, folds)
        # Labels of fold 0 matter to all scores but its own.
        assert again[folds == 0].tolist() == honest[folds == 0].tolist()
        assert (again[folds != 0] != honest[folds != 0]).any()

    @trains
    def test_is_the_same_again(self) -> None:
        answers = answers_of(with_states(make_records(120)))
        one, other = train(answers, seed=3), train(answers, seed=3)
        for name, scores in one[1].items():
            assert scores.tolist() == other[1][name].tolist()
        assert one[0].stacks["stack"] == other[0].stacks["stack"]

    @trains
    def test_an_answer_without_states_is_unknown_to_probes(self) -> None:
        records = with_states(make_records(160))
        records[0] = replace(records[0], trace=replace(records[0].trace, hidden=None))
        _, honest = train(answers_of(records))
        assert math.isnan(honest["linear_probe"][0])
        assert np.isfinite(honest["linear_probe"][1:]).all()

    def test_a_costly_signal_makes_a_cheap_stack_beside_the_full_one(self) -> None:
        records = with_p_true(with_states(make_records(200)), strength=1.0)
        answers = answers_of(records)
        told = np.array([-pair[0] for r in records for pair in [r.trace.p_true] if pair])
        answers = replace(answers, scores={**answers.scores, "p_true": told})
        learned, _ = train(answers)
        assert learned.needs("cheap_stack") == {"hidden"}
        assert learned.needs("stack") == {"hidden", "p_true"}

    def test_one_score_makes_no_stack(self) -> None:
        learned, honest = train(answers_of(make_records(100)))
        assert learned.names == ()
        assert honest == {}

    @pytest.mark.parametrize("name", PROBES)
    def test_each_kind_can_be_trained(self, name: str) -> None:
        answers = answers_of(with_states(make_records(160)))
        probe = train_named_probe(name, answers)
        scores = [probe.score(trace) for trace in answers.traces]
        assert all(0.0 <= score <= 1.0 for score in scores)
        assert auroc(scores, ~answers.wrong) > 0.75


class TestErrors:
    def test_no_states(self) -> None:
        with pytest.raises(FitError, match="no hidden states"):
            train_named_probe("p_ik", answers_of(make_records(40)))

    def test_states_of_different_layers(self) -> None:
        records = with_states(make_records(40))
        hidden = records[0].trace.hidden
        assert hidden is not None
        other = replace(hidden, layers=(1, 2))
        records[0] = replace(records[0], trace=replace(records[0].trace, hidden=other))
        with pytest.raises(FitError, match="different layers"):
            train_named_probe("p_ik", answers_of(records))

    def test_states_that_are_all_broken(self) -> None:
        records = []
        for record in with_states(make_records(40)):
            hidden = record.trace.hidden
            assert hidden is not None
            broken = replace(hidden, prompt_end=np.full_like(hidden.prompt_end, np.nan))
            records.append(replace(record, trace=replace(record.trace, hidden=broken)))
        with pytest.raises(FitError, match="no answer has the hidden states"):
            train_named_probe("p_ik", answers_of(records))
