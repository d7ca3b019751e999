"""The founding paper's hold-out construction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import FitError
from calibration.holdout import UNKNOWN, Binning, build_holdout, uncertainty_bins

BINNINGS = ("width", "mass")
pools = st.lists(
    st.tuples(
        st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])),
        st.sampled_from("abc"),
    ),
    min_size=1,
    max_size=120,
)
shares = st.floats(0.01, 1.0)
binnings = st.sampled_from(BINNINGS)


def columns(pool: list[tuple[float, str]]) -> tuple[list[float], list[str], list[str]]:
    return [u for u, _ in pool], [group for _, group in pool], [str(i) for i in range(len(pool))]


class TestBins:
    def test_equal_widths(self) -> None:
        bins = uncertainty_bins([0.0, 0.24, 0.25, 0.5, 1.0, math.nan], 4)
        assert bins.edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert bins.of.tolist() == [0, 0, 1, 2, 3, UNKNOWN]

    def test_equal_masses(self) -> None:
        rng = np.random.default_rng(0)
        bins = uncertainty_bins(rng.exponential(size=3000) ** 3, 30, "mass")
        assert np.bincount(bins.of).tolist() == [100] * 30

    def test_ties_leave_fewer_bins_of_equal_mass(self) -> None:
        bins = uncertainty_bins([0.0] * 8 + [1.0, 2.0], 5, "mass")
        assert len(bins.edges) - 1 == bins.of.max() + 1 < 5

    @pytest.mark.parametrize("binning", BINNINGS)
    def test_one_value_is_one_bin(self, binning: Binning) -> None:
        bins = uncertainty_bins([0.3, 0.3, math.nan], 30, binning)
        assert bins.edges.tolist() == [0.3, 0.3]
        assert bins.of.tolist() == [0, 0, UNKNOWN]

    def test_the_infinite_are_in_the_outer_bins(self) -> None:
        bins = uncertainty_bins([-math.inf, 0.0, 1.0, math.inf], 2)
        assert bins.of.tolist() == [0, 0, 1, 1]

    def test_nothing_known(self) -> None:
        bins = uncertainty_bins([math.nan, math.nan])
        assert bins.edges.size == 0
        assert bins.of.tolist() == [UNKNOWN, UNKNOWN]


class TestBuild:
    @given(pools, shares, binnings, st.integers(1, 40), st.integers(0, 3))
    def test_a_share_of_every_bin_and_one_at_least(
        self, pool: list[tuple[float, str]], share: float, binning: Binning, n_bins: int, seed: int
    ) -> None:
        uncertainty, groups, _ = columns(pool)
        rows = build_holdout(
            uncertainty, groups, n_bins=n_bins, share=share, seed=seed, binning=binning
        )
        assert len(set(rows.tolist())) == len(rows)
        assert np.all(np.diff(rows) > 0)
        of = uncertainty_bins(uncertainty, n_bins, binning).of
        for bin_ in np.unique(of):
            size, taken = (of == bin_).sum(), (of[rows] == bin_).sum()
            assert 1 <= taken <= size
            assert taken == 1 or abs(taken - share * size) <= 0.5 + 1e-9

    @given(pools, shares, binnings, st.randoms(use_true_random=False))
    def test_the_order_of_rows_does_not_matter(
        self, pool: list[tuple[float, str]], share: float, binning: Binning, random: Any
    ) -> None:
        uncertainty, groups, ids = columns(pool)
        rows = build_holdout(uncertainty, groups, share=share, binning=binning, ids=ids)
        other = list(range(len(pool)))
        random.shuffle(other)
        again = build_holdout(
            [uncertainty[i] for i in other],
            [groups[i] for i in other],
            share=share,
            binning=binning,
            ids=[ids[i] for i in other],
        )
        assert sorted(other[i] for i in again) == rows.tolist()

    @given(pools, shares)
    def test_sets_differ_by_one_in_a_bin_where_both_have_more(
        self, pool: list[tuple[float, str]], share: float
    ) -> None:
        uncertainty, groups, _ = columns(pool)
        rows = build_holdout(uncertainty, groups, n_bins=3, share=share)
        of, names = uncertainty_bins(uncertainty, 3).of, np.array(groups)
        for bin_ in np.unique(of):
            left, taken = [], []
            for name in np.unique(names[of == bin_]):
                mine = (of == bin_) & (names == name)
                taken.append(mine[rows].sum())
                left.append(mine.sum() - taken[-1])
            unspent = [count for count, more in zip(taken, left, strict=True) if more]
            assert not unspent or max(taken) - min(unspent) <= 1

    def test_the_seed_decides(self) -> None:
        uncertainty, groups = np.random.default_rng(0).random(500), ["a"] * 500
        one = build_holdout(uncertainty, groups, seed=1)
        assert one.tolist() == build_holdout(uncertainty, groups, seed=1).tolist()
        assert one.tolist() != build_holdout(uncertainty, groups, seed=2).tolist()

    @pytest.mark.parametrize("binning", BINNINGS)
    def test_the_hold_out_is_as_unsure_as_the_pool(self, binning: Binning) -> None:
        rng = np.random.default_rng(0)
        uncertainty = np.concatenate([rng.beta(2, 5, 4000), rng.beta(5, 2, 2000)])
        groups = ["large"] * 4000 + ["small"] * 2000
        rows = build_holdout(uncertainty, groups, binning=binning)
        assert len(rows) == pytest.approx(600, abs=15)
        # Both functions of distribution, at the pool's percentiles: a stratified tenth is closer
        # than a plain one, which would be off by about 0.04 somewhere.
        points = np.quantile(uncertainty, np.linspace(0.01, 0.99, 99))
        pool, taken = (
            np.searchsorted(np.sort(of), points) / len(of)
            for of in (uncertainty, uncertainty[rows])
        )
        assert np.abs(pool - taken).max() < 0.015

    def test_all_of_it(self) -> None:
        rows = build_holdout([0.1, 0.5, math.nan], ["a", "b", "a"], share=1.0)
        assert rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"uncertainty": [], "groups": []}, "there are no answers"),
        ({"groups": ["a"]}, "must have one entry each"),
        ({"ids": ["a"]}, "must have one entry each"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": math.nan}, "share is nan"),
        ({"n_bins": 0}, "n_bins is 0"),
        ({"binning": "odd"}, "there is no binning 'odd'; there are width, mass"),
        ({"uncertainty": [[0.1]], "groups": [["a"]], "ids": [["a"]]}, "expected \\(n,\\)"),
    ],
)
def test_what_can_not_be_built(words: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        build_holdout(**{"uncertainty": [0.1, 0.2], "groups": ["a", "b"], **words})
