"""The two parts: dealt without a look at labels, and what is certified shapes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from calibration.parts import Grid
from calibration.records import Key, Record
from tests.calibration.test_fit import (
    Made,
    bound_to,
    fit,
    made_on_states,
    make,
    make_on_states,
    make_records,
    perplexity_of,
    true_p_correct,
)
from tests.calibration.told import with_p_true, with_states


@cache
def plain() -> Made:
    """A calibration of 300 records for a risk."""
    return make(make_records(300), "risk=0.4")


def relabelled(records: list[Record], keys: tuple[Key, ...], seed: int = 0) -> list[Record]:
    """The records with the labels of those called `keys` dealt out anew among these."""
    chosen = set(keys)
    labels = [record.correct for record in records if record.key in chosen]
    shuffled = iter(np.random.default_rng(seed).permutation(labels).tolist())
    return [
        replace(record, correct=next(shuffled)) if record.key in chosen else record
        for record in records
    ]


class TestSplit:
    def test_every_record_is_in_one_part(self) -> None:
        fitted_on, held_out = set(plain().fit_part.keys), set(plain().held_out.keys)
        assert fitted_on.isdisjoint(held_out)
        assert fitted_on | held_out == {record.key for record in make_records(300)}
        assert (len(fitted_on), len(held_out)) == (180, 120)
        assert (plain().report.n_fit, plain().report.n_test) == (180, 120)

    def test_all_thresholds_rest_on_the_same_parts(self) -> None:
        made = made_on_states()
        assert made.plain_fit_part.keys == made.fit_part.keys
        assert made.plain_held_out.keys == made.held_out.keys

    @pytest.mark.parametrize("seed", [0, 1])
    def test_labels_have_no_say_in_it(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        redrawn = [
            replace(record, correct=bool(rng.random() < true_p_correct(u)))
            for record, u in zip(make_records(300), perplexity_of(make_records(300)), strict=True)
        ]
        other = make(redrawn)
        assert other.held_out.correct.tolist() != plain().held_out.correct.tolist()
        assert other.held_out.keys == plain().held_out.keys

    @pytest.mark.parametrize("seed", range(3))
    def test_each_group_is_spread_60_to_40(self, seed: int) -> None:
        sizes = {"a": 3, "b": 17, "c": 50, "d": 1, "e": 129}
        families = [name for name, size in sizes.items() for _ in range(size)]
        records = [
            replace(record, family=family, dataset=f"of {family}")
            for record, family in zip(make_records(200), families, strict=True)
        ]
        _, report = fit(records, seed=seed)
        assert (report.n_fit, report.n_test) == (120, 80)
        for name, size in sizes.items():
            assert abs(report.groups[name].n_test - 0.4 * size) <= 1

    def test_data_sets_are_groups_too(self) -> None:
        records = [
            replace(record, family=None, dataset="rare" if i % 10 == 0 else "usual")
            for i, record in enumerate(make_records(200))
        ]
        held_out = Counter(dataset for dataset, _ in make(records).held_out.keys)
        assert abs(held_out["rare"] - 8) <= 1

    def test_another_seed_deals_anew(self) -> None:
        other = make(make_records(300), seed=1)
        assert set(other.held_out.keys) != set(plain().held_out.keys)


class TestHeldOutPart:
    """Nothing that is certified depends on the labels that certify it."""

    def test_its_labels_shape_neither_p_correct_nor_the_grid(self) -> None:
        records = make_records(300)
        other = make(relabelled(records, plain().held_out.keys), "threshold=0.5")
        assert_fitted_alike(plain(), other)

    def test_nor_a_band(self) -> None:
        records = with_p_true(make_records(300), strength=1.5)
        options = {"binding": bound_to("perplexity", "p_true"), "method": "stack"}
        one = make(records, "threshold=0.5", **options)
        assert one.calibration.band is not None
        other = make(relabelled(records, one.held_out.keys), "threshold=0.5", **options)
        assert_fitted_alike(one, other)
        assert other.calibration.band is not None
        for name in ("method", "low", "high", "cost_everything"):
            assert getattr(other.calibration.band, name) == getattr(one.calibration.band, name)
        assert other.calibration.band.calibrator.to_dict() == (
            one.calibration.band.calibrator.to_dict()
        )

    def test_nor_a_probe_nor_the_gate_and_nor_does_the_order_of_records(self) -> None:
        one = made_on_states()
        records = with_states(make_records(600))
        other = make_on_states(relabelled(records, one.held_out.keys)[::-1])
        assert_fitted_alike(one, other)
        assert one.calibration.gate is not None
        assert other.calibration.gate is not None
        assert other.calibration.gate.above == one.calibration.gate.above
        assert other.calibration.threshold == one.calibration.threshold
        fresh = with_states(make_records(20, seed=9), seed=9)
        learned = one.calibration.learned.names
        assert learned
        for record in fresh:
            scores, again = (it.calibration.scores(record.trace) for it in (one, other))
            assert [again[name] for name in learned] == [scores[name] for name in learned]

    def test_its_labels_are_what_is_certified_by(self) -> None:
        certificate = plain().calibration.operating_point.certificate
        assert certificate is not None
        (claim,) = certificate.claims
        kept = plain().held_out.p_correct >= certificate.threshold
        assert claim.n == plain().report.n_test
        assert claim.n_kept == kept.sum()
        assert claim.n_errors == (kept & ~plain().held_out.correct).sum()


def assert_fitted_alike(one: Made, other: Made) -> None:
    """The same but for the labels of the held-out part."""
    assert other.held_out.correct.tolist() != one.held_out.correct.tolist()
    assert other.calibration.method == one.calibration.method
    assert other.calibration.calibrator.to_dict() == one.calibration.calibrator.to_dict()
    for mine, theirs in (
        (one.fit_part, other.fit_part),
        (one.plain_fit_part, other.plain_fit_part),
    ):
        assert mine.keys == theirs.keys
        for name in ("p_correct", "p_served", "correct"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name), equal_nan=True)
        grid, again = Grid(mine), Grid(theirs)
        assert grid.thresholds.tolist() == again.thresholds.tolist()
        assert grid.error.tolist() == again.error.tolist()
    for seen, again_seen in (
        (one.held_out, other.held_out),
        (one.plain_held_out, other.plain_held_out),
    ):
        assert seen.keys == again_seen.keys
        assert np.array_equal(seen.p_correct, again_seen.p_correct, equal_nan=True)
