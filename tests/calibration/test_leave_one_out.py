"""Leaving sets out: known gaps, the noise floor, repairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import DataError, FitError
from calibration.evaluated_rows import EvaluatedRow
from calibration.leave_one_out import (
    WANTED,
    Fitted,
    Repair,
    as_it_is,
    escalation_threshold,
    leave_one_out,
    out_of_fold,
)
from calibration.leave_one_out_results import HELD, Carried, PoolChoice
from calibration.metrics import FloatArray

N = 100


def rows_of(
    dataset: str,
    uncertainty: Sequence[float] | FloatArray,
    *,
    correct: Sequence[bool] | None = None,
    n_choices: int = 0,
    shift: float = 0.0,
) -> list[EvaluatedRow]:
    right = correct or [i % 2 == 0 for i in range(len(uncertainty))]
    return [
        EvaluatedRow(dataset, ok, {"u": float(u), "shift": shift}, n_choices=n_choices)
        for u, ok in zip(uncertainty, right, strict=True)
    ]


def evenly(low: float, high: float, n: int = N) -> FloatArray:
    return np.linspace(low, high, n, endpoint=False) + (high - low) / (2 * n)


def shifted() -> list[EvaluatedRow]:
    """Three sets alike, and one that is less sure by half of their range."""
    alike = [row for name in "abc" for row in rows_of(name, evenly(0, 1))]
    return [*alike, *rows_of("d", evenly(0.5, 1.5), n_choices=4, shift=0.5)]


def found(of: Carried | None) -> Carried:
    assert of is not None
    return of


class TestThreshold:
    @given(
        st.lists(
            st.one_of(st.floats(allow_nan=True), st.sampled_from([0.0, 0.5, 1.0])),
            min_size=1,
            max_size=30,
        ),
        st.floats(0, 1),
    )
    def test_no_threshold_is_nearer(self, uncertainty: list[float], ratio: float) -> None:
        values = np.array(uncertainty)
        mine = abs(1 - (values < escalation_threshold(values, ratio)).mean() - ratio)
        for other in (*values[~np.isnan(values)], -math.inf, math.inf):
            assert mine <= abs(1 - (values < other).mean() - ratio) + 1e-9

    @pytest.mark.parametrize(
        ("ratio", "threshold"), [(0.0, math.inf), (0.25, 3.5), (0.5, 2.5), (1.0, -math.inf)]
    )
    def test_known_answers(self, ratio: float, threshold: float) -> None:
        assert escalation_threshold([4.0, 1.0, 3.0, 2.0], ratio) == threshold

    def test_of_two_equally_near_the_one_that_escalates_more(self) -> None:
        assert escalation_threshold([1.0, 2.0], 0.25) == 1.5

    def test_the_unknown_are_escalated_and_counted(self) -> None:
        assert escalation_threshold([1.0, 2.0, math.nan, math.nan], 0.75) == 1.5
        assert escalation_threshold([1.0, 2.0, math.nan, math.nan], 0.1) == math.inf
        assert escalation_threshold([math.nan], 0.5) == -math.inf


class TestGaps:
    def test_sets_alike_show_no_more_than_noise(self) -> None:
        rng = np.random.default_rng(0)
        rows = [row for i in range(40) for row in rows_of(f"s{i}", rng.random(80))]
        summary = leave_one_out(rows, ["u"]).summary("u", "others")
        assert summary is not None
        assert 0.8 * summary.noise < summary.mean_gap < 1.2 * summary.noise
        assert summary.noise < 0.05
        assert summary.carries_over
        assert summary.n_near >= 38

    def test_the_noise_is_what_two_samples_of_one_kind_show(self) -> None:
        rng = np.random.default_rng(1)
        n, m, gaps = 60, 120, []
        for _ in range(400):
            pool, own = rng.random(m), rng.random(n)
            thresholds = np.array([escalation_threshold(pool, ratio) for ratio in WANTED])
            gaps.append(np.abs((own >= thresholds[:, None]).mean(axis=1) - WANTED).mean())
        rows = [*rows_of("a", evenly(0, 1, n)), *rows_of("b", evenly(0, 1, m))]
        carried = leave_one_out(rows, ["u"], share=1.0).find("u", "others", "a")
        assert found(carried).noise == pytest.approx(np.mean(gaps), rel=0.05)

    def test_a_shifted_set_has_the_gap_of_its_shift(self) -> None:
        carried = found(leave_one_out(shifted(), ["u"], share=1.0).find("u", "others", "d"))
        expected = [min(0.5, 1 - ratio) for ratio in WANTED]
        assert [point.gap for point in carried.points] == pytest.approx(expected, abs=0.011)
        assert carried.mean_gap == pytest.approx(np.mean(expected), abs=0.01)
        assert carried.bias == pytest.approx(carried.mean_gap)
        assert carried.worst_gap == pytest.approx(0.5, abs=0.011)
        assert [point.achieved for point in carried.full] == pytest.approx(WANTED)
        assert (carried.n, carried.n_pool) == (100, 300)

    def test_a_set_that_is_surer_escalates_too_little(self) -> None:
        rows = [*rows_of("a", evenly(1, 2)), *rows_of("b", evenly(0, 1))]
        carried = found(leave_one_out(rows, ["u"]).find("u", "others", "b"))
        assert [point.achieved for point in carried.points] == [0.0] * 9
        assert carried.bias == pytest.approx(-0.5)
        assert carried.worst_gap == pytest.approx(0.9)

    def test_kinds_are_summed_up_apart(self) -> None:
        result = leave_one_out(shifted(), ["u"], share=1.0)
        free, choice, every = (
            result.summary("u", "others", kind) for kind in ("free-form", "multiple choice", "all")
        )
        assert free is not None
        assert choice is not None
        assert every is not None
        assert (free.n_sets, choice.n_sets, every.n_sets) == (3, 1, 4)
        assert every.mean_gap == pytest.approx((3 * free.mean_gap + choice.mean_gap) / 4)
        assert (every.worst_set, every.near, free.near) == ("d", 0.10, 0.05)
        assert not choice.carries_over
        assert result.summary("u", "builtin") is None
        assert result.summary("u", "others", "mixed") is None

    def test_a_set_of_both_kinds(self) -> None:
        mixed = [*rows_of("a", evenly(0, 1, 50)), *rows_of("a", evenly(0, 1, 50), n_choices=2)]
        result = leave_one_out([*mixed, *rows_of("b", evenly(0, 1))], ["u"])
        assert found(result.find("u", "others", "a")).kind == "mixed"


class TestAccuracy:
    def test_known_answers(self) -> None:
        pool = rows_of("a", evenly(0, 10))
        own = [
            EvaluatedRow("b", ok, {"u": u}, llm)
            for u, ok, llm in [
                (1.5, True, {"large": False}),
                (3.5, False, {"large": True}),
                (5.5, True, {}),
                (7.5, False, {"large": True}),
            ]
        ]
        carried = found(leave_one_out([*pool, *own], ["u"], share=1.0).find("u", "others", "b"))
        at_half = carried.points[4]
        assert at_half.achieved == 0.5
        assert at_half.accuracy_kept == 0.5
        # Of the three with an outcome: right by itself, wrong by itself, right by the large one.
        assert at_half.accuracy == pytest.approx(2 / 3)
        nothing_kept = carried.points[8]
        assert (nothing_kept.achieved, nothing_kept.accuracy_kept) == (1.0, None)
        in_full = carried.full[4]
        assert in_full.achieved == 0.5

    def test_without_outcomes_there_is_none_overall(self) -> None:
        carried = found(leave_one_out(shifted(), ["u"]).find("u", "others", "a"))
        assert {point.accuracy for point in carried.points} == {None}
        with pytest.raises(DataError, match="no set holds outcomes of 'large'"):
            leave_one_out(shifted(), ["u"], upstream="large")


class TestPools:
    def test_the_three_pools(self) -> None:
        built_in = rows_of("holdout", evenly(0, 2, 200))
        result = leave_one_out(shifted(), ["u"], builtin=built_in)
        assert result.pools == ("others", "others+builtin", "builtin")
        assert result.datasets == ("a", "b", "c", "d")
        sizes = {pool: found(result.find("u", pool, "d")).n_pool for pool in result.pools}
        assert sizes["builtin"] == 200
        assert sizes["others"] == pytest.approx(30, abs=3)
        assert sizes["others+builtin"] == pytest.approx(50, abs=12)
        alone = found(result.find("u", "builtin", "a"))
        expected = [max(0.0, 2 * ratio - 1) for ratio in WANTED]
        assert [point.achieved for point in alone.points] == pytest.approx(expected, abs=0.011)

    def test_one_set_and_the_built_in_hold_out(self) -> None:
        result = leave_one_out(rows_of("a", evenly(0, 1)), ["u"], builtin=rows_of("h", [0.1, 0.2]))
        assert result.pools == ("builtin",)

    def test_the_order_of_rows_does_not_matter(self) -> None:
        rows = shifted()
        mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
        one, other = (leave_one_out(given, ["u"], seed=3) for given in (rows, mixed))
        for dataset in "abcd":
            gaps = [found(of.find("u", "others", dataset)).mean_gap for of in (one, other)]
            assert gaps[0] == pytest.approx(gaps[1])


class TestRepairs:
    def test_a_repair_is_shown_beside_what_it_mends(self) -> None:
        seen: list[set[str]] = []

        def without_shift(rows: Sequence[EvaluatedRow]) -> Fitted:
            seen.append({row.dataset for row in rows})
            return Fitted(np.array([mended(row) for row in rows]), mended)

        def mended(row: EvaluatedRow) -> float:
            return row.scores["u"] - row.scores["shift"]

        result = leave_one_out(shifted(), ["u"], repairs={"mended": without_shift}, share=1.0)
        before, after = (result.summary(name, "others") for name in ("u", "mended"))
        assert before is not None
        assert after is not None
        assert before.mean_gap > 0.15
        assert after.mean_gap < 0.01
        assert seen == [set("abcd") - {left_out} for left_out in "abcd"]

    def test_the_built_in_pool_is_fitted_once(self) -> None:
        fits: list[int] = []

        def counted(rows: Sequence[EvaluatedRow]) -> Fitted:
            fits.append(len(rows))
            return Fitted(np.array([row.scores["u"] for row in rows]), lambda row: row.scores["u"])

        built_in = rows_of("holdout", evenly(0, 1, 70))
        leave_one_out(shifted(), ["u"], builtin=built_in, repairs={"counted": counted})
        assert fits.count(70) == 1
        assert len(fits) == 1 + 4 + 4

    def test_thresholds_rest_on_scores_out_of_fold(self) -> None:
        def memory(rows: Sequence[EvaluatedRow]) -> Callable[[EvaluatedRow], float]:
            """Sure of every set it was fitted on."""
            known = {row.dataset for row in rows}
            return lambda row: float(row.dataset not in known) + row.scores["u"] / 10

        fitted = out_of_fold(memory)(shifted())
        assert fitted.pool.min() >= 1.0
        result = leave_one_out(shifted()[:300], ["u"], repairs={"memory": out_of_fold(memory)})
        after = result.summary("memory", "others")
        assert after is not None
        assert after.mean_gap < 0.05

    def test_one_set_is_dealt_into_folds(self) -> None:
        sizes: list[int] = []

        def sized(rows: Sequence[EvaluatedRow]) -> Callable[[EvaluatedRow], float]:
            sizes.append(len(rows))
            return lambda _: 0.5

        assert out_of_fold(sized)(rows_of("a", evenly(0, 1))).pool.tolist() == [0.5] * 100
        assert sizes == [100, 80, 80, 80, 80, 80]

    def test_what_the_rest_can_not_teach_is_unknown(self) -> None:
        def picky(rows: Sequence[EvaluatedRow]) -> Callable[[EvaluatedRow], float]:
            if not any(row.dataset == "a" for row in rows):
                raise FitError("a is missing")
            return lambda _: 0.5

        pool = out_of_fold(picky)(shifted()).pool
        assert np.isnan(pool[:100]).all()
        assert (pool[100:] == 0.5).all()

    def test_one_that_can_not_be_fitted_is_noted(self) -> None:
        def never(rows: Sequence[EvaluatedRow]) -> Fitted:
            raise FitError(f"{len(rows)} rows are too few")

        result = leave_one_out(shifted(), ["u"], repairs={"never": never}, share=1.0)
        assert result.summary("never", "others") is None
        assert result.notes[0] == "never from others to a: 300 rows are too few"
        assert len(result.notes) == 4

    def test_one_that_forgets_rows_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="gives 1 scores for 300 rows"):
            leave_one_out(
                shifted(),
                ["u"],
                share=1.0,
                repairs={"bad": lambda _: Fitted(np.ones(1), lambda _: 0.5)},
            )


class TestUnknown:
    def test_a_set_known_for_less_than_half_is_not_judged(self) -> None:
        blind = rows_of("e", [0.5] * 49 + [math.nan] * 51)
        result = leave_one_out([*shifted(), *blind], ["u"])
        assert result.find("u", "others", "e") is None
        assert result.notes == ("u from others to e: known for 49 of 100 answers of the set",)

    def test_so_is_a_pool(self) -> None:
        blind = rows_of("a", [math.nan] * 100)
        result = leave_one_out([*blind, *rows_of("b", evenly(0, 1))], ["u"], share=1.0)
        assert result.carried == ()
        assert result.notes[1] == "u from others to b: known for 0 of 100 answers of the hold-out"

    def test_a_row_without_the_score_is_unknown(self) -> None:
        assert np.isnan(as_it_is("gone")(shifted()).pool).all()


def test_results_are_strict_json() -> None:
    rows = [*shifted(), *rows_of("few", [0.1, 0.2])]
    result = leave_one_out(rows, ["u"], builtin=rows_of("h", [0.5, 0.6]))
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["holdout"] == {"bins": 30, "share": 0.1, "binning": "width", "seed": 0}
    assert len(written["left_out"]) == 15
    points = [point for one in written["left_out"] for point in one["points"]]
    assert {"inf", "-inf"} & {point["threshold"] for point in points}
    pools: list[PoolChoice] = ["others", "others+builtin", "builtin"]
    assert [(s["pool"], s["kind"]) for s in written["summary"]] == [
        (pool, kind) for pool in pools for kind in ("all", "free-form", "multiple choice")
    ]


@pytest.mark.parametrize(
    ("rows", "names", "repairs", "message"),
    [
        (shifted(), [], {}, "there is no estimator"),
        (shifted(), ["u"], {"u": as_it_is("u")}, "u: the name is given twice"),
        ([], ["u"], {}, "there are no answers"),
        (rows_of("a", [0.1]), ["u"], {}, "a is the only data set"),
    ],
)
def test_what_can_not_be_left_out(
    rows: list[EvaluatedRow], names: list[str], repairs: dict[str, Repair], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        leave_one_out(rows, names, repairs=repairs)


class TestControlled:
    def test_holds_the_ratio_where_the_threshold_does_not(self) -> None:
        built_in = rows_of("holdout", evenly(0, 1))
        result = leave_one_out(shifted(), ["u"], builtin=built_in, control="u", share=1.0)
        assert [(of.pool, of.dataset) for of in result.controlled] == [
            (pool, dataset) for pool in result.pools for dataset in "abcd"
        ]
        shift = next(of for of in result.controlled if of.dataset == "d")
        assert (shift.score, shift.kind) == ("u", "multiple choice")
        assert max(map(abs, shift.later_gaps)) <= HELD + 1e-9
        assert max(map(abs, shift.first_gaps)) <= 0.05
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert written["controlled"][3]["held"][0]["wanted"] == 0.1

    def test_is_left_out_where_there_is_nothing_to_start_from(self) -> None:
        blind = rows_of("e", [math.nan] * 100)
        result = leave_one_out([*shifted(), *blind], ["u"], control="u")
        assert [of.dataset for of in result.controlled] == list("abcd")
        assert leave_one_out(shifted(), ["u"]).controlled == ()
