"""The least that a decode step can take: what it reads over the memory's pace, or computing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from llama_cpp import _ggml
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from router.engine.llama import Model
from router.errors import ModelError


@dataclass(frozen=True)
class Limit:
    """What a step can't be faster than.

    Attributes
    ----------
    weight_bytes : read once a step.
    kv_bytes : of one token's keys and values.
    bandwidth : bytes a second.
    seconds_a_token : of computing, where the weights are read for many tokens at once.
    """

    weight_bytes: int
    kv_bytes: int
    bandwidth: float
    seconds_a_token: float

    def bytes_read(self, n_sequences: int, context: float) -> float:
        """By a step of so many sequences of `context` tokens each."""
        return self.weight_bytes + n_sequences * context * self.kv_bytes

    def reading(self, n_sequences: int, context: float) -> float:
        """Seconds to read what a step needs."""
        return self.bytes_read(n_sequences, context) / self.bandwidth

    def computing(self, n_sequences: int) -> float:
        """Seconds to compute a step's tokens."""
        return n_sequences * self.seconds_a_token

    def seconds(self, n_sequences: int, context: float) -> float:
        """The longer of both: at best they overlap."""
        return max(self.reading(n_sequences, context), self.computing(n_sequences))


def bandwidth(threads: int, *, size: int = 1 << 29, repeats: int = 5) -> float:
    """Bytes a second that `threads` threads read from memory at best.

    `size` bytes are read, which must be many times the largest cache.
    """
    numbers = np.ones(size // 8)  # written, so that all pages are there
    parts = np.array_split(numbers, threads)
    ways: tuple[Callable[[NDArray[np.float64]], object], ...] = (np.sum, np.max)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            for way in ways:
                began = perf_counter()
                list(pool.map(way, parts))
                best = max(best, numbers.nbytes / (perf_counter() - began))
    return best


@dataclass(frozen=True)
class Weights:
    """What of a model's tensors a step reads and computes."""

    read_bytes: int
    computed_share: float
    """Of the numbers that a step reads, those a prompt's token is computed with, too."""


def weights_of(model: Model) -> Weights:
    """A model whose output matrix is its embedding reads that as a whole, else a row of it."""
    embedding, output = _tensor_bytes(model.path, b"token_embd.weight", b"output.weight")
    n_matrix = model.n_vocab * model.n_embd
    n_read = int(lib.llama_model_n_params(model.handle)) - (n_matrix if output else 0)
    return Weights(model.size - (embedding if output else 0), 1 - n_matrix / n_read)


def _tensor_bytes(path: Path, *names: bytes) -> list[int]:
    """Sizes of tensors in a GGUF; 0 for one that it has not."""
    ggml = _ggml.libggml

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
    ggml.gguf_free.argtypes = [ctypes.c_void_p]
    ggml.gguf_find_tensor.restype = ctypes.c_int64
    ggml.gguf_find_tensor.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    ggml.gguf_get_tensor_size.restype = ctypes.c_size_t
    ggml.gguf_get_tensor_size.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    gguf = ggml.gguf_init_from_file(str(path).encode(), Params(True, None))
    if not gguf:
        raise ModelError(f"{path} could not be read")
    try:
        places = [ggml.gguf_find_tensor(gguf, name) for name in names]
        return [int(ggml.gguf_get_tensor_size(gguf, at)) if at >= 0 else 0 for at in places]
    finally:
        ggml.gguf_free(gguf)
