"""What is compiled into llama.cpp in place of its own products (scripts/ggml) has the same bits."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.router.engine.ggml import Graph, cpu_library

Dot = Callable[[bytes, bytes], np.float32]
"""The scalar product of a row of weights' blocks and one of activations'."""

BLOCK = 32
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE_HALVES = ALL_HALVES[np.isfinite(ALL_HALVES)]

REPLACED = (
    "ggml_vec_dot_q4_1_q8_1",
    "llamafile_sgemm",
    "ggml_compute_forward_flash_attn_ext",
)

Q8_0 = np.dtype([("d", np.float16), ("qs", np.int8, BLOCK)])
Q4_1 = np.dtype([("d", np.float16), ("m", np.float16), ("qs", np.uint8, BLOCK // 2)])
Q8_1 = np.dtype([("d", np.float16), ("s", np.float16), ("qs", np.int8, BLOCK)])


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return cpu_library()


@pytest.fixture(scope="module")
def is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def dot_of(library: ctypes.CDLL, name: str, weights: np.dtype[np.void]) -> Dot:
    function = getattr(library, name)
    function.restype = None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    function.argtypes = (number, pointer, size, pointer, size, pointer, size, number)

    def dot(x: bytes, y: bytes) -> np.float32:
        result = np.zeros(1, np.float32)
        n = BLOCK * (len(x) // weights.itemsize)
        function(n, result.ctypes.data, 0, x, 0, y, 0, 1)
        return np.float32(result[0])

    return dot


def weights_by_chance(chance: np.random.Generator, n: int) -> NDArray[np.void]:
    blocks = np.zeros(n, Q4_1)
    blocks["d"] = chance.choice(FINITE_HALVES, n)
    blocks["m"] = chance.choice(FINITE_HALVES, n)
    blocks["qs"] = chance.integers(0, 256, (n, BLOCK // 2))
    return blocks


def activations_by_chance(chance: np.random.Generator, n: int) -> NDArray[np.void]:
    """Blocks of such scales that llama.cpp makes: no sum overflows in 32 bits."""
    blocks = np.zeros(n, Q8_1)
    blocks["d"] = chance.normal(size=n).astype(np.float16)
    blocks["s"] = chance.normal(size=n).astype(np.float16)
    blocks["qs"] = chance.integers(-127, 128, (n, BLOCK))
    return blocks


def exact(x: NDArray[np.void], y: NDArray[np.void]) -> tuple[float, float]:
    """The scalar product by the format's definition, and the sum of its terms' magnitudes.

    A weight is d * q + m, its q the low four bits of a byte or, 16 places on, the high ones; `s`
    stands for the sum of a block's activations.
    """
    q = np.concatenate([x["qs"] & 15, x["qs"] >> 4], axis=1).astype(np.float64)
    products = x["d"].astype(np.float64) * y["d"] * (q * y["qs"]).sum(axis=1)
    minima = x["m"].astype(np.float64) * y["s"]
    return float(products.sum() + minima.sum()), float(np.abs([products, minima]).sum())


def test_every_half_is_read_as_it_is_written(library: ctypes.CDLL) -> None:
    dot = dot_of(library, "ggml_vec_dot_q8_0_q8_0", Q8_0)
    weights = np.zeros(len(ALL_HALVES), Q8_0)
    weights["d"], weights["qs"] = ALL_HALVES, 1
    ones = np.zeros(1, Q8_0)
    ones["d"], ones["qs"] = 1, 1
    y = ones.tobytes()
    read = np.array([dot(weights[i : i + 1].tobytes(), y) for i in range(len(weights))])
    np.testing.assert_array_equal(read / BLOCK, ALL_HALVES.astype(np.float32))


def test_what_is_faster_is_compiled_in_on_x86_64_alone(library: ctypes.CDLL, is_x86: bool) -> None:
    for replaced in REPLACED:
        assert hasattr(library, f"{replaced}_stock") == is_x86, (
            "llama.cpp was not installed by `make`, see scripts/install.sh"
        )


@pytest.mark.parametrize("n_blocks", [0, 1, 2, 3, 17, 18, 48, 129])
def test_the_faster_product_has_the_bits_of_llama_cpps_own(
    library: ctypes.CDLL, is_x86: bool, n_blocks: int
) -> None:
    name = "ggml_vec_dot_q4_1_q8_1"
    faster = dot_of(library, name, Q4_1)
    stock = dot_of(library, f"{name}_stock" if is_x86 else name, Q4_1)
    chance = np.random.default_rng(n_blocks)
    for _ in range(200):
        x, y = weights_by_chance(chance, n_blocks), activations_by_chance(chance, n_blocks)
        ours, theirs = (dot(x.tobytes(), y.tobytes()) for dot in (faster, stock))
        assert ours.tobytes() == theirs.tobytes()
        wanted, magnitude = exact(x, y)
        assert abs(float(ours) - wanted) <= 1e-5 * magnitude


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_rows", [1, 31, 33, 100])
@pytest.mark.parametrize("n_columns", [1, 2, 3, 5, 8, 9, 15, 16, 23])
def test_many_columns_at_once_have_the_bits_of_one_after_the_other(
    library: ctypes.CDLL, n_columns: int, n_rows: int, n_threads: int
) -> None:
    chance = np.random.default_rng(n_columns * n_rows)
    n_blocks = 18 if n_rows > 1 else 600  # more than it takes at once
    weights = weights_by_chance(chance, n_rows * n_blocks)
    activations = chance.normal(size=(n_columns, n_blocks * BLOCK)).astype(np.float32)

    graph = Graph()
    a = graph.tensor("q4_1", (n_blocks * BLOCK, n_rows), weights)
    b = graph.tensor("f32", (n_blocks * BLOCK, n_columns), activations)
    together = graph.compute(graph.product(a, b), n_threads).reshape(n_columns, n_rows)

    dot = dot_of(library, "ggml_vec_dot_q4_1_q8_1", Q4_1)
    columns = [_rounded(library, column) for column in activations]
    rows = [row.tobytes() for row in weights.reshape(n_rows, n_blocks)]
    one_by_one = np.array([[dot(row, column) for row in rows] for column in columns])
    np.testing.assert_array_equal(together.view(np.uint32), one_by_one.view(np.uint32))


def test_several_matrices_at_once_have_the_bits_of_one_after_the_other() -> None:
    chance = np.random.default_rng(4)
    weights = weights_by_chance(chance, 40 * 2)
    activations = chance.normal(size=(3, 5, 2 * BLOCK)).astype(np.float32)

    graph = Graph()
    a = graph.tensor("q4_1", (2 * BLOCK, 40), weights)
    b = graph.tensor("f32", (2 * BLOCK, 5, 3), activations)
    together = graph.compute(graph.product(a, b), n_threads=2).reshape(3, 5, 40)
    for activation, products in zip(activations, together, strict=True):
        alone = Graph()
        a = alone.tensor("q4_1", (2 * BLOCK, 40), weights)
        b = alone.tensor("f32", (2 * BLOCK, 5), activation)
        np.testing.assert_array_equal(alone.compute(alone.product(a, b), 1), products.ravel())


def _rounded(library: ctypes.CDLL, column: NDArray[np.float32]) -> bytes:
    """A column of activations as ggml rounds it before it multiplies."""
    blocks = np.zeros(len(column) // BLOCK, Q8_1)
    library.quantize_row_q8_1.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    library.quantize_row_q8_1(column.ctypes.data, blocks.ctypes.data, len(column))
    return blocks.tobytes()
