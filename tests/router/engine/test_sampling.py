"""Statistics equal a plain float64 softmax; sampling keeps what its parameters promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from router.engine.compiled import is_compiled
from router.engine.messages import Sampler
from router.engine.sampling import StepReader, TokenChooser, filtered

Row = NDArray[np.float32]

either_reader = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])


def reader_of(n: int, compiled: bool) -> StepReader:
    assert is_compiled(), "the package was installed without a compiler"
    return StepReader(n, compiled=compiled)


def row_of(*probabilities: float) -> Row:
    return np.log(np.array(probabilities, np.float32))


def random_row(seed: int, n: int = 1000, scale: float = 4.0) -> Row:
    return (np.random.default_rng(seed).normal(size=n) * scale).astype(np.float32)


@either_reader
def test_statistics_of_a_distribution_worked_out_by_hand(compiled: bool) -> None:
    reader = reader_of(4, compiled)
    assert reader.read(row_of(0.25, 0.5, 0.125, 0.125)) == 1
    found = reader.statistics(0, n_top=2)
    assert found.logprob == pytest.approx(np.log(0.25))
    assert found.entropy == pytest.approx(1.75 * np.log(2))
    assert found.margin == pytest.approx(0.25)
    assert found.top_ids == (1, 0)
    assert found.top_logprobs == pytest.approx((np.log(0.5), np.log(0.25)))


@either_reader
@given(st.integers(0, 2**32), st.integers(2, 3000), st.floats(0.01, 30))
def test_statistics_equal_a_plain_float64_softmax(
    compiled: bool, seed: int, n: int, scale: float
) -> None:
    row = random_row(seed, n, scale)
    reader = reader_of(n, compiled)
    best = reader.read(row)
    token = seed % n
    n_top = min(5, n)
    found = reader.statistics(token, n_top)
    logits = row.astype(np.float64)
    logp = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    p = np.exp(logp)
    first, second = np.sort(p)[::-1][:2]
    assert best == int(row.argmax())
    assert found.logprob == pytest.approx(logp[token], rel=1e-5, abs=1e-5)
    assert found.entropy == pytest.approx(-(p * logp).sum(), rel=1e-4, abs=1e-5)
    assert found.margin == pytest.approx(first - second, rel=1e-4, abs=1e-5)
    assert list(found.top_ids) == list(np.argsort(-row, kind="stable")[:n_top])


@either_reader
def test_a_near_certain_token_does_not_round_to_log_probability_zero(compiled: bool) -> None:
    reader = reader_of(3, compiled)
    reader.read(np.array([60.0, 0.0, 1.0], np.float32))
    found = reader.statistics(0)
    assert found.logprob == pytest.approx(-(np.exp(-60) + np.exp(-59)))
    assert found.logprob < 0.0


@either_reader
@pytest.mark.parametrize("position", [0, 1, 15, 16, 1023, 1024, 2050, 3006])
def test_the_lowest_of_equally_likely_tokens_is_the_best(compiled: bool, position: int) -> None:
    row = random_row(2, 3007)
    row[position] = row[3006] = 50.0
    reader = reader_of(3007, compiled)
    assert reader.read(row) == position
    if position < 3006:
        found = reader.statistics(3006)
        assert found.margin == pytest.approx(0.0, abs=1e-6)
        assert found.logprob == pytest.approx(-np.log(2))


@either_reader
def test_tokens_that_can_not_come_count_as_nothing(compiled: bool) -> None:
    reader = reader_of(4, compiled)
    assert reader.read(np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)) == 1
    found = reader.statistics(3)
    assert found.entropy == pytest.approx(np.log(2))
    assert found.logprob == pytest.approx(-np.log(2))
    assert reader.statistics(0).logprob == -np.inf
    assert reader.read(np.array([-np.inf, -1000.0, 5.0, -np.inf], np.float32)) == 2
    found = reader.statistics(1)
    assert (found.entropy, found.margin, found.logprob) == (0.0, 1.0, -1005.0)


@either_reader
@pytest.mark.parametrize("place", [0, 3, 1500])
def test_a_row_with_something_that_is_no_number_says_nothing(compiled: bool, place: int) -> None:
    row = random_row(4, 2000)
    row[place] = np.nan
    reader = reader_of(2000, compiled)
    assert reader.read(row) == place
    found = reader.statistics(7)
    assert np.isnan([found.logprob, found.entropy, found.margin]).all()
    assert reader.read(random_row(4, 2000)) == int(random_row(4, 2000).argmax())
    assert np.isfinite(reader.statistics(7).entropy)


@either_reader
@pytest.mark.parametrize("n_top", [1, 20, 64, 65])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 255, 256, 257, 5000])
def test_top_tokens_come_from_every_block_of_the_vocabulary(
    compiled: bool, n: int, n_top: int
) -> None:
    row = random_row(3, n)
    reader = reader_of(n, compiled)
    reader.read(row)
    wanted = np.argsort(-row, kind="stable")[:n_top]
    assert list(reader.statistics(0, min(n_top, n)).top_ids) == list(wanted)


@either_reader
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=300), st.integers(1, 70))
def test_the_lowest_of_equally_likely_tokens_come_first(
    compiled: bool, logits: list[int], n_top: int
) -> None:
    row = np.array([-np.inf if logit == -3 else logit for logit in logits], np.float32)
    reader = reader_of(len(row), compiled)
    reader.read(row)
    n_top = min(n_top, len(row))
    wanted = np.argsort(-row, kind="stable")[:n_top]
    assert list(reader.statistics(0, n_top).top_ids) == list(wanted)


def test_what_is_no_number_is_never_among_the_top_tokens_by_the_compiled_reader() -> None:
    row = random_row(5, 400)
    row[::16] = np.nan  # the first of each vector, which hides what comes after it
    reader = reader_of(400, compiled=True)
    reader.read(row)
    wanted = np.argsort(np.where(np.isnan(row), np.inf, -row), kind="stable")[:10]
    assert list(reader.statistics(0, 10).top_ids) == list(wanted)


def test_greedy_takes_the_most_likely_token() -> None:
    row = random_row(1)
    assert TokenChooser(Sampler(), []).choose(row, int(row.argmax())) == int(row.argmax())


def test_filters_by_hand() -> None:
    row = row_of(0.4, 0.3, 0.2, 0.1)
    assert sorted(filtered(row, Sampler(top_k=2))) == [0, 1]
    assert sorted(filtered(row, Sampler(top_p=0.6))) == [0, 1]
    assert sorted(filtered(row, Sampler(top_p=0.71))) == [0, 1, 2]
    assert sorted(filtered(row, Sampler(min_p=0.49))) == [0, 1, 2]
    assert sorted(filtered(row, Sampler(top_k=3, top_p=0.5))) == [0, 1]  # 4/9 < 0.5 of what's left
    assert sorted(filtered(row, Sampler(top_p=0.0))) == [0]


@given(st.integers(0, 2**32), st.floats(0.0, 1.0), st.integers(0, 1500), st.floats(0.0, 1.0))
def test_filters_always_leave_the_most_likely_token(
    seed: int, top_p: float, top_k: int, min_p: float
) -> None:
    row = random_row(seed)
    left = filtered(row, Sampler(top_p=top_p, top_k=top_k, min_p=min_p))
    assert int(row.argmax()) in left
    assert len(set(left)) == len(left)


def test_a_flat_distribution_needs_more_than_the_first_guess_of_the_nucleus() -> None:
    row = np.zeros(4000, np.float32)
    assert len(filtered(row, Sampler(top_p=0.5))) == 2000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    p = np.array([0.5, 0.25, 0.15, 0.1])
    row = np.log(p).astype(np.float32)
    chooser = TokenChooser(Sampler(temperature=temperature, seed=7), [])
    counts = np.bincount([chooser.choose(row, 0) for _ in range(4000)], minlength=4)
    wanted = p ** (1 / temperature)
    assert chisquare(counts, 4000 * wanted / wanted.sum()).pvalue > 1e-3


def test_the_seed_fixes_the_draws_and_another_one_changes_them() -> None:
    row = random_row(5, scale=0.5)

    def draws(seed: int) -> list[int]:
        chooser = TokenChooser(Sampler(temperature=1.0, seed=seed), [])
        return [chooser.choose(row, 0) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_penalties_by_hand() -> None:
    row = np.array([2.0, 1.9, -1.0], np.float32)
    presence = TokenChooser(Sampler(presence_penalty=0.2), [0])
    assert presence.choose(row, 0) == 0  # the prompt does not count
    assert presence.choose(row, 0) == 1  # 2.0 - 0.2 < 1.9
    frequency = TokenChooser(Sampler(frequency_penalty=0.06), [])
    assert [frequency.choose(row, 0) for _ in range(3)] == [0, 0, 1]
    assert TokenChooser(Sampler(repetition_penalty=1.1), [0]).choose(row, 0) == 1  # 2 / 1.1 < 1.9
    bias = ((1, 0.2), (2, -100.0))
    assert TokenChooser(Sampler(logit_bias=bias), []).choose(row, 0) == 1


def test_choosing_leaves_the_models_own_logits_alone() -> None:
    row = random_row(2)
    before = row.copy()
    sampler = Sampler(0.7, 10, 0.9, 0.05, 1.2, 0.5, 0.5, ((3, 5.0),), 1)
    chooser = TokenChooser(sampler, [1, 2])
    for _ in range(5):
        chooser.choose(row, int(row.argmax()))
    assert np.array_equal(row, before)
    assert dataclasses.replace(sampler, seed=None).seed is None
