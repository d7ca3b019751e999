"""Single operations of the llama.cpp that is installed, computed by ggml itself."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import _ggml
from numpy.typing import NDArray

Tensor = int
"""A `ggml_tensor *`."""

_TYPES = {"f32": 0, "f16": 1, "q4_1": 3, "q8_0": 8}


@functools.cache
def cpu_library() -> ctypes.CDLL:
    """The part that computes on the CPU."""
    cpu = _library("ggml-cpu")
    cpu.ggml_cpu_init()
    return cpu


def _library(name: str) -> ctypes.CDLL:
    folder = Path(_ggml.libggml._name).parent
    return ctypes.CDLL(str(next(folder.glob(f"*{name}.*"))))


class _Params(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@functools.cache
def _base() -> ctypes.CDLL:
    base = _library("ggml-base")
    pointer, f = ctypes.c_void_p, ctypes.c_float
    base.ggml_init.argtypes = (_Params,)
    base.ggml_new_tensor_4d.argtypes = (pointer, ctypes.c_int, *(ctypes.c_int64,) * 4)
    base.ggml_mul_mat.argtypes = (pointer,) * 3
    base.ggml_flash_attn_ext.argtypes = (*(pointer,) * 5, f, f, f)
    base.ggml_new_graph.argtypes = base.ggml_get_data.argtypes = (pointer,)
    base.ggml_build_forward_expand.argtypes = (pointer, pointer)
    base.ggml_nbytes.argtypes = base.ggml_free.argtypes = (pointer,)
    base.ggml_nbytes.restype = ctypes.c_size_t
    for name in ("init", "new_tensor_4d", "mul_mat", "flash_attn_ext", "new_graph", "get_data"):
        getattr(base, f"ggml_{name}").restype = pointer
    return base


class Graph:
    """A few tensors, and what is computed of them."""

    def __init__(self, megabytes: int = 64) -> None:
        self._context = _base().ggml_init(_Params(megabytes << 20, None, False))
        cpu_library()

    def tensor(self, kind: str, shape: Sequence[int], values: NDArray[Any]) -> Tensor:
        """A tensor of ggml's type `kind` with just the bytes of `values`.

        `shape` is in ggml's order, which is the reverse of numpy's.
        """
        sizes = [*shape, *(1,) * (4 - len(shape))]
        tensor: Tensor = _base().ggml_new_tensor_4d(self._context, _TYPES[kind], *sizes)
        data = np.ascontiguousarray(values)
        assert data.nbytes == _base().ggml_nbytes(tensor)
        ctypes.memmove(_base().ggml_get_data(tensor), data.ctypes.data, data.nbytes)
        return tensor

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Rows of `a` times rows of `b`."""
        result: Tensor = _base().ggml_mul_mat(self._context, a, b)
        return result

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        max_bias: float = 0.0,
        softcap: float = 0.0,
    ) -> Tensor:
        """Flash attention."""
        result: Tensor = _base().ggml_flash_attn_ext(
            self._context, q, k, v, mask, scale, max_bias, softcap
        )
        return result

    def compute(self, tensor: Tensor, n_threads: int) -> NDArray[np.float32]:
        """The numbers of a tensor of 32-bit floats, one after the other."""
        graph = _base().ggml_new_graph(self._context)
        _base().ggml_build_forward_expand(graph, tensor)
        compute = cpu_library().ggml_graph_compute_with_ctx
        compute.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
        assert compute(self._context, graph, n_threads) == 0
        data = ctypes.string_at(_base().ggml_get_data(tensor), _base().ggml_nbytes(tensor))
        return np.frombuffer(data, np.float32)

    def __del__(self) -> None:
        _base().ggml_free(self._context)
