"""The two parts, and the grid that only one of them can set."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import FitError
from calibration.parts import GRID_SIZE, FitPart, Grid, HeldOutPart

NAN = math.nan


def fit_part(p: Any, correct: Any, **more: Any) -> FitPart:
    keys = tuple(("fit", str(i)) for i in range(len(p)))
    return FitPart(keys=keys, p_correct=p, correct=correct, **more)


class TestParts:
    def test_neither_is_the_other(self) -> None:
        assert not issubclass(FitPart, HeldOutPart)
        assert not issubclass(HeldOutPart, FitPart)

    def test_keep_what_they_were_given(self) -> None:
        p = np.array([0.5, NAN])
        part = fit_part(p, [1, 0])
        p[0] = 0.9
        assert part.p_correct[0] == 0.5
        assert part.correct.dtype == np.bool_
        assert part.llm is None
        assert part.p_served.tolist() == pytest.approx([0.5, NAN], nan_ok=True)
        assert len(part) == 2
        with pytest.raises(ValueError, match="read-only"):
            part.p_correct[0] = 0.1
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.llm = None  # type: ignore[misc]  # mypy refuses it, and so must Python

    def test_the_llm_agrees_with_its_own_labels(self) -> None:
        part = HeldOutPart(
            keys=(("a", "1"),),
            p_correct=np.array([0.5]),
            correct=np.array([False]),
            labels="llm",
            population="one",
        )
        assert part.llm is not None
        assert part.llm.tolist() == [1.0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"p_correct": [0.5]}, "one value each per answer"),
            ({"p_correct": [0.5, 1.5]}, r"holds 1\.5"),
            ({"correct": [2, 0]}, "only true and false"),
            ({"keys": (("a", "1"),)}, "1 keys for 2 answers"),
            ({"keys": (("a", "1"), ("a", "1"))}, "item '1' of data set 'a' occurs twice"),
            ({"llm": [1.0]}, r"llm has shape \(1,\); expected \(2,\)"),
            ({"llm": [1.0, 0.5]}, "llm must hold only 1, 0 and NaN"),
        ],
    )
    def test_impossible_rows_are_an_error(self, change: dict[str, Any], message: str) -> None:
        rows: dict[str, Any] = {
            "keys": (("a", "1"), ("a", "2")),
            "p_correct": [0.5, 0.6],
            "correct": [True, False],
        }
        with pytest.raises(FitError, match=message):
            FitPart(**{**rows, **change})
        with pytest.raises(FitError, match=message):
            HeldOutPart(**{**rows, **change}, population="two")

    def test_served_values_have_the_same_rows(self) -> None:
        with pytest.raises(FitError, match="one value each per answer"):
            fit_part([0.5, 0.6], [1, 0], p_served=[0.5])


class TestGrid:
    def test_is_set_by_the_fit_part_alone(self) -> None:
        held_out = HeldOutPart(
            keys=(("a", "1"),),
            p_correct=np.array([0.5]),
            correct=np.array([True]),
            population="one",
        )
        with pytest.raises(FitError, match="by a FitPart alone, not by a HeldOutPart"):
            Grid(cast(FitPart, held_out))
        part = fit_part([0.5], [True])
        assert Grid(part).fitted_on == {("fit", "0")}

    def test_keeps_a_fortieth_more_each_time(self) -> None:
        p = np.linspace(0.001, 0.999, 400)
        grid = Grid(fit_part(p, p > 0.3))
        assert len(grid.thresholds) == GRID_SIZE
        assert grid.n_kept.tolist() == list(range(10, 401, 10))
        assert grid.thresholds[-1] == 0.0
        assert grid.n_wrong.tolist() == [max(0, n - 280) for n in range(10, 401, 10)]

    def test_ties_make_it_shorter_and_unknown_is_never_kept(self) -> None:
        grid = Grid(fit_part([0.9] * 30 + [0.4] * 60 + [NAN] * 10, [True] * 100))
        assert grid.thresholds.tolist() == [0.65, 0.0]
        assert grid.n_kept.tolist() == [30, 90]

    def test_lies_between_the_values_that_are_served(self) -> None:
        grid = Grid(fit_part([0.8, 0.7, 0.2], [1, 0, 0], p_served=[0.9, 0.5, 0.1]))
        assert grid.thresholds.tolist() == pytest.approx([0.7, 0.3, 0.0])
        assert grid.n_kept.tolist() == [2, 2, 3]  # counted out of fold

    def test_can_end_early(self) -> None:
        part = fit_part([0.9, 0.7, 0.5], [1, 1, 0])
        assert Grid(part, at_least=0.6).thresholds.tolist() == pytest.approx([0.8, 0.6])
        with pytest.raises(FitError, match="keeps anything of the fit part"):
            Grid(part, at_least=1.1)

    def test_of_unknown_scores_keeps_nothing(self) -> None:
        grid = Grid(fit_part([NAN, NAN], [1, 0]))
        assert grid.n_kept.tolist() == [0]

    @given(st.lists(st.sampled_from([NAN, 0.0, 0.1, 0.5, 0.50000001, 0.9, 1.0]), min_size=1))
    def test_falls_and_keeps_more(self, p: list[float]) -> None:
        grid = Grid(fit_part(p, [True] * len(p)))
        assert (np.diff(grid.thresholds) < 0).all()
        assert (np.diff(grid.n_kept) > 0).all()
        assert grid.n_kept[-1] == np.sum(~np.isnan(p))

    def test_starts_where_most_is_promised(self) -> None:
        # 100 rows, none wrong among the surest 60, all wrong behind: with 100 to come, the p-value
        # of risk 0.1 falls until 60 are kept.
        p = np.linspace(0.99, 0.01, 100)
        grid = Grid(fit_part(p, np.arange(100) < 60, llm=np.ones(100)))
        start = grid.start({"risk": 0.1}, {"risk": 100})
        assert 55 <= grid.n_kept[start] <= 65
        assert grid.start({"loss": 0.1}, {"loss": 100}) == 0
        both = grid.start({"risk": 0.1, "loss": 0.05}, {"risk": 100, "loss": 100})
        assert both <= start

    def test_what_the_llm_would_do_may_be_unknown(self) -> None:
        assert Grid(fit_part([0.9, 0.4], [1, 0])).lost is None
        assert Grid(fit_part([0.9, 0.4], [1, 0], llm=[NAN, NAN])).lost is None
        known = Grid(fit_part([0.9, 0.4, 0.3], [1, 0, 0], llm=[1, 1, NAN]))
        assert known.lost is not None
        assert known.lost.tolist() == pytest.approx([0.5 / 3, 1.5 / 3, 1.5 / 3])
