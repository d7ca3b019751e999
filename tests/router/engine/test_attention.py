"""Attention as compiled into llama.cpp (scripts/ggml/attention.c): exact, and each row by itself.

Compared with the definition, softmax(q k / sqrt(d) + mask) v, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.router.engine.ggml import Graph, cpu_library

BLOCK = 32
Q8_0 = np.dtype([("d", np.float16), ("qs", np.int8, BLOCK)])
Array = NDArray[np.float32]

LLAMA_CPPS_OWN = 0.02
"""How far llama.cpp's attention, which adds up in 16 bits, may be from the definition here."""


@pytest.fixture(scope="module")
def tolerance() -> float:
    """How far the one that is compiled in may be, where the CPU has what it needs."""
    cpu = cpu_library()
    has_it = hasattr(cpu, "ggml_compute_forward_flash_attn_ext_stock")
    return 1e-5 if has_it and cpu.ggml_cpu_has_avx512_vnni() else LLAMA_CPPS_OWN


def to_q8_0(x: Array) -> NDArray[np.void]:
    """Rounded to 8 bits in blocks, as ggml does."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    scale = np.abs(blocks).max(axis=-1) / 127
    rounded = np.zeros(scale.shape, Q8_0)
    rounded["d"] = scale
    per_scale = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    rounded["qs"] = np.round(blocks * per_scale[..., None])
    return rounded


def from_q8_0(x: NDArray[np.void], shape: tuple[int, ...]) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = x["d"].astype(np.float64)[..., None] * x["qs"]
    return numbers.reshape(shape)


@dataclass(frozen=True)
class Case:
    """Queries (sequence, head, token, number), keys and values (sequence, head, cell, number)."""

    q: Array
    k: NDArray[np.void]
    v: NDArray[np.float16]
    mask: NDArray[np.float16]
    """(sequence, token, cell): 0 or minus infinity"""
    options: dict[str, float] = field(default_factory=dict)

    @classmethod
    def by_chance(
        cls,
        seed: int,
        *,
        n_sequences: int = 2,
        heads: tuple[int, int] = (9, 3),
        n_tokens: int = 5,
        n_cells: int = 256,
        n_numbers: int = 64,
    ) -> Case:
        """One where each token sees the cells up to a place of its own, as in a text."""
        chance = np.random.default_rng(seed)
        n_heads, n_key_heads = heads
        q = chance.normal(size=(n_sequences, n_heads, n_tokens, n_numbers)).astype(np.float32)
        k = chance.normal(size=(n_sequences, n_key_heads, n_cells, n_numbers)).astype(np.float32)
        v = chance.normal(size=(n_sequences, n_key_heads, n_cells, n_numbers)).astype(np.float16)
        # Scores of different size; the largest one of a row stands anywhere.
        k *= chance.uniform(0.1, 3, size=(n_sequences, n_key_heads, n_cells, 1))
        last = np.sort(chance.integers(0, n_cells, size=(n_sequences, n_tokens)), axis=1)
        hidden = np.arange(n_cells) > last[..., None]
        mask = np.where(hidden, -np.inf, 0).astype(np.float16)
        return cls(q, to_q8_0(k), v, mask)

    def computed(self, n_threads: int = 2) -> Array:
        """By ggml: (sequence, token, head, number)."""
        graph = Graph()
        n_sequences, n_heads, n_tokens, d = self.q.shape
        _, n_key_heads, n_cells, _ = self.v.shape
        q = graph.tensor("f32", (d, n_tokens, n_heads, n_sequences), self.q)
        k = graph.tensor("q8_0", (d, n_cells, n_key_heads, n_sequences), self.k)
        v = graph.tensor("f16", (d, n_cells, n_key_heads, n_sequences), self.v)
        mask = graph.tensor("f16", (n_cells, n_tokens, 1, n_sequences), self.mask)
        scale = d**-0.5
        found = graph.compute(
            graph.attention(q, k, v, mask, scale=scale, **self.options), n_threads
        )
        return found.reshape(n_sequences, n_tokens, n_heads, d)

    def defined(self) -> NDArray[np.float64]:
        """By the definition, of the numbers that ggml multiplies: queries in 8 bits as well."""
        d = self.q.shape[3]
        group = self.q.shape[1] // self.v.shape[1]
        q = from_q8_0(to_q8_0(self.q), self.q.shape)
        k = from_q8_0(self.k, self.v.shape).repeat(group, axis=1)
        v = self.v.astype(np.float64).repeat(group, axis=1)
        with np.errstate(invalid="ignore"):
            scores = q @ k.swapaxes(-1, -2) * d**-0.5
        hidden = np.isneginf(self.mask)[:, None]
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        seen_v = np.where(np.isfinite(v), v, 0)
        found: NDArray[np.float64] = (weights @ seen_v).transpose(0, 2, 1, 3)
        return found


class Shape(TypedDict, total=False):
    """What `Case.by_chance` may be asked for."""

    n_sequences: int
    heads: tuple[int, int]
    n_tokens: int
    n_cells: int
    n_numbers: int


def bits(x: Array) -> NDArray[np.uint32]:
    return np.ascontiguousarray(x).view(np.uint32)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_tokens": 1},
        {"n_tokens": 70, "n_cells": 300},
        {"n_cells": 1},
        {"n_cells": 65},
        {"heads": (4, 4), "n_tokens": 7},
        {"heads": (14, 2), "n_sequences": 1},
        {"heads": (7, 1), "n_tokens": 1, "n_cells": 130},
        {"n_numbers": 32},
        {"n_numbers": 96},
        {"n_numbers": 128, "heads": (8, 2)},
        {"n_numbers": 256, "heads": (2, 1)},
    ],
    ids=str,
)
def test_it_is_attention(shape: Shape, tolerance: float) -> None:
    case = Case.by_chance(1, **shape)
    np.testing.assert_allclose(case.computed(), case.defined(), atol=tolerance)


@pytest.mark.parametrize("heads", [(9, 3), (14, 2), (4, 4)])
def test_a_row_has_the_same_bits_alone_and_among_others(heads: tuple[int, int]) -> None:
    case = Case.by_chance(2, heads=heads, n_tokens=9, n_cells=320)
    together = case.computed()
    for token in range(9):
        one = replace(
            case,
            q=case.q[:1, :, token : token + 1],
            mask=case.mask[:1, token : token + 1],
            k=case.k[:1],
            v=case.v[:1],
        )
        np.testing.assert_array_equal(bits(one.computed(1)[0, 0]), bits(together[0, token]))


def test_cells_that_a_row_does_not_see_do_not_change_its_bits() -> None:
    case = Case.by_chance(3, n_tokens=4, n_cells=256)
    expected = case.computed()

    k, v, mask = case.k.copy(), case.v.copy(), case.mask
    unseen = np.asarray(np.isneginf(mask).all(axis=1))  # by any token of the sequence
    assert unseen.any()
    for sequence, cells in enumerate(unseen):
        k["d"][sequence, :, cells] = np.nan
        v[sequence, :, cells] = np.inf
    np.testing.assert_array_equal(bits(replace(case, k=k, v=v).computed()), bits(expected))

    last = 1 + int(np.argwhere(~unseen)[:, 1].max())
    shorter = replace(
        case,
        k=np.ascontiguousarray(case.k[:, :, :last]),
        v=case.v[:, :, :last],
        mask=mask[:, :, :last],
    )
    np.testing.assert_array_equal(bits(shorter.computed()), bits(expected))


def test_what_later_tokens_see_does_not_change_earlier_ones() -> None:
    case = Case.by_chance(3, n_tokens=4, n_cells=256)
    expected = case.computed()
    k, v = case.k.copy(), case.v.copy()
    seen_by_last_alone = np.isneginf(case.mask[0, :3]).all(axis=0) & (case.mask[0, 3] == 0)
    assert seen_by_last_alone.any()
    k["d"][0][:, seen_by_last_alone] = np.nan
    v[0][:, seen_by_last_alone] = np.inf
    found = replace(case, k=k, v=v).computed()
    np.testing.assert_array_equal(bits(found[0, :3]), bits(expected[0, :3]))
    assert np.isnan(found[0, 3]).all()


def test_cells_may_be_hidden_anywhere(tolerance: float) -> None:
    case = Case.by_chance(4, n_tokens=6, n_cells=200)
    chance = np.random.default_rng(5)
    mask = np.where(chance.random(case.mask.shape) < 0.9, -np.inf, 0).astype(np.float16)
    mask[:, :, 150] = 0
    mask[0, 2, :140] = -np.inf  # whole tiles
    case = replace(case, mask=mask)
    np.testing.assert_allclose(case.computed(), case.defined(), atol=tolerance)


def test_a_row_that_sees_nothing_is_zero(tolerance: float) -> None:
    case = Case.by_chance(6, n_tokens=3)
    mask = case.mask.copy()
    mask[1, 1] = -np.inf
    found = replace(case, mask=mask).computed()
    assert not found[1, 1].any()
    others = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    expected = case.defined()
    for at in others:
        np.testing.assert_allclose(found[at], expected[at], atol=tolerance)


def test_what_is_not_a_number_stays_so_in_its_own_row() -> None:
    case = Case.by_chance(7, n_tokens=4)
    expected = case.computed()
    q = case.q.copy()
    q[0, 4, 2] = np.nan
    found = replace(case, q=q).computed().copy()
    assert np.isnan(found[0, 2, 4]).all()
    found[0, 2, 4] = expected[0, 2, 4]
    np.testing.assert_array_equal(bits(found), bits(expected))


def test_other_kinds_of_attention_are_llama_cpps_own() -> None:
    case = Case.by_chance(8, n_tokens=3)
    plain = case.computed()
    # A bias by distance multiplies what is in the mask, which is 0 here: the same but for rounding.
    biased = replace(case, options={"max_bias": 8.0}).computed()
    np.testing.assert_allclose(biased, plain, atol=LLAMA_CPPS_OWN)
    capped = replace(case, options={"softcap": 1.0}).computed()
    assert np.abs(capped - plain).max() > 0.1
    large = Case.by_chance(9, n_numbers=288, heads=(2, 1))
    np.testing.assert_allclose(large.computed(), large.defined(), atol=LLAMA_CPPS_OWN)
