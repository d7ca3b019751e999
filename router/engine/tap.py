"""Copies hidden states out of llama.cpp while it computes, by its graph-evaluation callback.

The callback is compiled from `tap.c` when the package is installed; without a compiler the same
callback runs in Python, 5-12% slower per step.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import _ggml
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from router.engine.compiled import compiled_library, is_compiled
from router.errors import EngineError

Float32Array = NDArray[np.float32]

_UNBELIEVABLE = ctypes.c_size_t(-1).value


class Copy(IntEnum):
    """Which rows (tokens) of the next batch to copy."""

    NOTHING = 0
    LAST_ROW = 1
    ALL_ROWS = 2


class _Struct(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("n_bytes", ctypes.c_void_p),
        ("get", ctypes.c_void_p),
        ("n_layers", ctypes.c_size_t),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("row_bytes", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("filled", ctypes.POINTER(ctypes.c_size_t)),
        ("out", ctypes.c_void_p),
        ("mode", ctypes.c_int),
    )


class Tap:
    """Reads the residual stream after `layers` of each batch that it is armed for.

    The tensors are those that llama.cpp's models name ``l_out-N``; they are read through
    `ggml_backend_tensor_get`, so they may live on a GPU.

    Parameters
    ----------
    layers : layers to read, counted from 0.
    width : length of a hidden state.
    capacity : most tokens of a batch whose states are wanted at once.
    compiled : whether to use the compiled callback; default: where there is one.
    """

    def __init__(
        self, layers: Sequence[int], *, width: int, capacity: int, compiled: bool | None = None
    ) -> None:
        self.layers = tuple(layers)
        self._out = np.zeros((len(self.layers), capacity, width), np.float32)
        self._filled = (ctypes.c_size_t * len(self.layers))()
        self._names = (ctypes.c_char_p * len(self.layers))(
            *(f"l_out-{layer}".encode() for layer in self.layers)
        )
        self._struct = _Struct(
            name=_address("ggml_get_name"),
            n_bytes=_address("ggml_nbytes"),
            get=_address("ggml_backend_tensor_get"),
            n_layers=len(self.layers),
            names=self._names,
            row_bytes=width * self._out.itemsize,
            capacity=capacity,
            filled=self._filled,
            out=self._out.ctypes.data,
            mode=Copy.NOTHING,
        )
        use_compiled = is_compiled() if compiled is None else compiled
        self.is_compiled = use_compiled
        self.callback: Any = _compiled_callback() if use_compiled else _python_callback()
        self.user_data = ctypes.cast(ctypes.pointer(self._struct), ctypes.c_void_p)

    def arm(self, copy: Copy) -> None:
        """Choose what is copied of the next batch."""
        self._struct.mode = copy
        ctypes.memset(self._filled, 0, ctypes.sizeof(self._filled))

    def states(self, n: int) -> Float32Array:
        """The states of the last batch's `n` rows, shape (L, n, width); a view.

        Raises EngineError when llama.cpp did not compute just these: an architecture whose layers
        have other names.
        """
        for layer, filled in zip(self.layers, self._filled, strict=True):
            if filled != n:
                got = "too many" if filled == _UNBELIEVABLE else str(filled)
                raise EngineError(
                    f"hidden states of layer {layer}: {n} rows were wanted and {got} came; "
                    "this model's architecture may name its layers otherwise: set "
                    "`hidden_layers` to none"
                )
        return self._out[:, :n]


def _address(function: str) -> int | None:
    return ctypes.cast(getattr(_ggml_base(), function), ctypes.c_void_p).value


@functools.cache
def _ggml_base() -> ctypes.CDLL:
    """ggml's base library, which lies beside the one that llama-cpp-python has loaded."""
    folder = Path(_ggml.libggml._name).parent
    for path in sorted(folder.glob("*ggml-base*")):
        return ctypes.CDLL(str(path))
    everything: ctypes.CDLL = _ggml.libggml  # a static build
    return everything


@functools.cache
def _compiled_callback() -> Any:
    return ctypes.cast(compiled_library().tap_eval, lib.ggml_backend_sched_eval_callback)


@functools.cache
def _python_callback() -> Any:
    base = _ggml_base()
    name = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("ggml_get_name", base))
    n_bytes = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(("ggml_nbytes", base))
    get = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
    )(("ggml_backend_tensor_get", base))

    def tap_eval(tensor: int, ask: bool, data: int) -> bool:
        tap = _Struct.from_address(data)
        if tap.mode == Copy.NOTHING:
            return not ask
        layer = _place(name(tensor), tap)
        if layer is None:
            return not ask
        if ask:
            return True
        rows = n_bytes(tensor) // tap.row_bytes
        first = rows - 1 if tap.mode == Copy.LAST_ROW else 0
        at = 0 if tap.mode == Copy.LAST_ROW else tap.filled[layer]
        n = rows - first
        if rows == 0 or at + n > tap.capacity:
            tap.filled[layer] = _UNBELIEVABLE
            return True
        out = tap.out + (layer * tap.capacity + at) * tap.row_bytes
        get(tensor, out, first * tap.row_bytes, n * tap.row_bytes)
        tap.filled[layer] = at + n
        return True

    return lib.ggml_backend_sched_eval_callback(tap_eval)


def _place(name: bytes, tap: _Struct) -> int | None:
    if not name.startswith(b"l_out-"):
        return None
    return next((i for i in range(tap.n_layers) if tap.names[i] == name), None)
