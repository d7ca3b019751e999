"""An order that is representative from the first on."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from calibration.datasets.sampling import spread
from calibration.items import Item


def items(**sizes: int) -> list[Item]:
    return [
        Item(
            id=f"{family}-{i}",
            dataset="d",
            domain="",
            question=f"{family} {i}?",
            answer="x",
            grader="text",
            family=family,
        )
        for family, size in sizes.items()
        for i in range(size)
    ]


def test_every_beginning_is_stratified() -> None:
    order = spread(items(big=60, middle=30, small=10))
    for n in range(1, 101):
        counts = Counter(item.family for item in order[:n])
        assert abs(counts["big"] - 0.6 * n) <= 1
        assert abs(counts["middle"] - 0.3 * n) <= 1
        assert abs(counts["small"] - 0.1 * n) <= 1


def test_datasets_are_strata_too() -> None:
    two = [
        Item(id=str(i), dataset=name, domain="", question="?", answer="x", grader="text")
        for name in ("one", "two")
        for i in range(10)
    ]
    assert Counter(item.dataset for item in spread(two)[:10]) == {"one": 5, "two": 5}


@given(st.permutations(range(12)), st.integers(0, 5))
def test_the_order_given_does_not_matter(order: list[int], seed: int) -> None:
    whole = items(a=8, b=4)
    assert spread([whole[i] for i in order], seed) == spread(whole, seed)


def test_the_seed_matters() -> None:
    whole = items(a=20, b=20)
    assert spread(whole, 0) == spread(whole, 0)
    assert spread(whole, 0) != spread(whole, 1)
    assert sorted(item.id for item in spread(whole, 1)) == sorted(item.id for item in whole)


def test_it_is_the_same_in_every_process() -> None:
    pinned = ["a-1", "b-0", "a-2", "b-1", "a-0"]
    assert [item.id for item in spread(items(a=3, b=2))] == pinned
