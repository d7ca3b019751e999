"""The trained estimators as an evaluation fits them: to some sets, to score another."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from calibration.errors import FitError
from calibration.evaluated_rows import EvaluatedRow, Trainer
from calibration.evaluation import evaluate_records
from calibration.leave_one_out import leave_one_out
from calibration.metrics import auroc
from calibration.records import Record
from calibration.trainers import IN_DOMAIN, LEFT_OUT, TRAINED, among_neighbours, trainers
from tests.calibration.test_fit import make_records
from tests.calibration.told import N_LAYER, with_p_true, with_states
from tests.uq.traces import make_trace
from uq import score_all
from uq.signals import HiddenStates

trains = pytest.mark.no_cover
"""Tracing each call in scikit-learn takes as long as training; what others here and in
test_trained.py call covers the same lines."""


def rows(n: int, seed: int = 0, dataset: str = "one", *, told: bool = True) -> list[EvaluatedRow]:
    records = make_records(n, seed)
    records = with_p_true(with_states(records, seed=seed) if told else records, strength=1.0)
    return [
        EvaluatedRow(
            dataset,
            record.correct,
            score_all(record.trace, ("perplexity", "margin", "p_true")),
            record=record,
        )
        for record in records
    ]


def test_each_name_has_its_trainer_and_others_are_ignored() -> None:
    left_out, in_domain = trainers((*TRAINED, "perplexity"), n_layer=N_LAYER)
    assert set(left_out) == set(LEFT_OUT)
    assert set(in_domain) == set(IN_DOMAIN)
    left_out, in_domain = trainers(("perplexity", "stack"), n_layer=N_LAYER)
    assert (set(left_out), set(in_domain)) == ({"stack"}, set())


@pytest.fixture(scope="module")
def two_sets() -> list[EvaluatedRow]:
    return rows(120) + rows(120, 1, "two")


@pytest.fixture(scope="module")
def by_name() -> dict[str, Trainer]:
    """Those that learn from one another are trained once for the same rows."""
    left_out, in_domain = trainers(TRAINED, n_layer=N_LAYER)
    return {**left_out, **in_domain}


@trains
@pytest.mark.parametrize("name", TRAINED)
def test_what_is_learned_on_two_sets_ranks_a_third(
    name: str, by_name: dict[str, Trainer], two_sets: list[EvaluatedRow]
) -> None:
    score = by_name[name](two_sets)
    unseen = rows(150, 2, "three")
    scores = [score(row) for row in unseen]
    assert all(0.0 <= value <= 1.0 for value in scores)
    floor = 0.75 if name == "p_ik" else 0.9
    assert auroc(scores, [row.correct for row in unseen]) > floor


def test_an_answer_recorded_elsewhere_is_unknown(
    by_name: dict[str, Trainer], two_sets: list[EvaluatedRow]
) -> None:
    for name in ("ood_probe", "stack", "trained_probe"):
        assert math.isnan(by_name[name](two_sets)(replace(two_sets[0], record=None)))


def test_without_traces_there_is_nothing_to_learn_from() -> None:
    bare = [replace(row, record=None) for row in rows(60)]
    left_out, in_domain = trainers(TRAINED, n_layer=N_LAYER)
    for trainer in (*left_out.values(), *in_domain.values()):
        with pytest.raises(FitError, match="recorded elsewhere"):
            trainer(bare)


def test_what_can_not_be_learned_is_said() -> None:
    left_out, _ = trainers(("linear_probe", "cheap_stack"), n_layer=N_LAYER)
    with pytest.raises(FitError, match="linear_probe can't be learned"):
        left_out["linear_probe"](rows(80, told=False))
    assert math.isfinite(left_out["cheap_stack"](rows(80, told=False))(rows(1)[0]))


def test_other_rows_are_learned_from_anew() -> None:
    left_out, _ = trainers(("stack",), n_layer=N_LAYER)
    one, two = rows(60, told=False), rows(60, 1, told=False)
    asked = rows(1, 2)[0]
    first = left_out["stack"](one)(asked)
    other = left_out["stack"](two)(asked)
    assert first != other
    assert left_out["stack"](one)(asked) == first


@trains
def test_an_evaluation_leaves_each_set_out_and_cross_fits_within() -> None:
    left_out, in_domain = trainers(("linear_probe", "stack", "trained_probe"), n_layer=N_LAYER)
    sets = [row for i, name in enumerate(("one", "two")) for row in rows(120, i, name)]
    found = evaluate_records(
        sets, trained=left_out, in_domain=in_domain, costs={"p_true": 0.25}, n_boot=20
    ).to_json()
    for dataset in ("one", "two"):
        unseen = found["leave_one_out"]["sets"][dataset]["estimators"]
        assert set(unseen) == {"linear_probe", "stack"}
        assert all(quality["auroc"] > 0.9 for quality in unseen.values())
        assert found["sets"][dataset]["estimators"]["trained_probe"]["auroc"] > 0.9


def test_scores_that_were_fitted_to_a_set_are_not_learned_from() -> None:
    known = rows(80, told=False)
    told = [
        replace(row, scores={**row.scores, "trained_probe": float(not row.correct)})
        for row in known
    ]
    asked = rows(1, 2)[0]
    left_out, _ = trainers(("stack",), n_layer=N_LAYER)
    assert left_out["stack"](told)(asked) == left_out["stack"](known)(asked)


class TestAmongNeighbours:
    def test_a_shift_between_kinds_of_questions_is_mended(self) -> None:
        """Three sets of either kind, told by their states; one kind is less sure throughout."""
        rng = np.random.default_rng(0)
        shifted: list[EvaluatedRow] = []
        for dataset in "abcdef" * 60:
            toward, shift = (5.0, 0.0) if dataset in "abc" else (-5.0, 9.0)
            states = (rng.normal(size=(1, 3)) + toward * np.array([1.0, 0.0, 0.0])).astype("f4")
            trace = make_trace([-0.5], hidden=HiddenStates((7,), states, states, states))
            record = Record(str(len(shifted)), dataset, True, trace)
            scores = {"perplexity": rng.random() + shift}
            shifted.append(EvaluatedRow(dataset, True, scores, record=record))
        found = leave_one_out(
            shifted,
            ["perplexity"],
            repairs={"mended": among_neighbours("perplexity", 30)},
            share=1.0,
        )
        before, after = (found.find(name, "others", "a") for name in ("perplexity", "mended"))
        assert before is not None
        assert after is not None
        assert before.mean_gap > 0.2
        assert after.mean_gap < 0.1

    def test_rows_without_states_or_record_are_unknown(self) -> None:
        traced = rows(60)
        bare = EvaluatedRow("one", True, {"perplexity": 0.5})
        fitted = among_neighbours("perplexity", N_LAYER)([bare, *traced])
        assert np.isnan(fitted.pool).tolist() == [True, *[False] * 60]
        assert np.isnan(fitted.scores([traced[0], bare])).tolist() == [False, True]
        with pytest.raises(FitError, match="recorded elsewhere"):
            among_neighbours("perplexity", N_LAYER)([bare])

    def test_ranks_are_those_of_the_fitted_rank(self) -> None:
        some = rows(60)
        fitted = among_neighbours("perplexity", N_LAYER)(some)
        alone = [float(fitted.scores([row])[0]) for row in some[:5]]
        assert fitted.scores(some[:5]) == pytest.approx(alone)
        assert fitted.pool.min() >= 0.0
        assert fitted.pool.max() <= 1.0
