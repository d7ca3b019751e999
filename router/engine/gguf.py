"""What a model takes of memory, read from its GGUF's header: no weights are loaded."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import _ggml

from router.engine.llama import complaints, forget_complaints
from router.errors import ModelError


@dataclass(frozen=True, slots=True)
class Header:
    """Sizes of a model; those of tensors are in bytes.

    Attributes
    ----------
    all_bytes : all weights, those that are used in two places counted once.
    layer_bytes : the weights of each layer, in their order.
    output_bytes : the weights after the last layer. A model that uses its token embedding there
        has it twice when the output is offloaded, and it counts here.
    input_bytes : the weights before the first layer, which always stay with the CPU.
    n_context : tokens of the longest text that the model was made for; 0 when it doesn't say.
    n_embd_head : numbers of one head's key.
    n_embd_k, n_embd_v : numbers that a layer caches of one token, as keys and as values; the most
        of any layer.
    """

    all_bytes: int
    layer_bytes: tuple[int, ...]
    output_bytes: int
    input_bytes: int
    n_context: int
    n_vocab: int
    n_embd: int
    n_ff: int
    n_head: int
    n_embd_head: int
    n_embd_k: int
    n_embd_v: int


def read_header(path: Path) -> Header:
    """Read the header of a GGUF, and of its further parts where it is split into several files.

    Raises ModelError when a file can't be opened or is no GGUF.
    """
    tensors: dict[str, int] = {}
    with _opened(path) as first:
        architecture = first.text("general.architecture")
        numbers = {name: first.most(f"{architecture}.{name}") for name in _NUMBERS}
        n_vocab = first.length("tokenizer.ggml.tokens")
        n_parts = first.most("split.count") or 1
        tensors |= first.tensors()
    for part in _further_parts(path, n_parts):
        with _opened(part) as header:
            tensors |= header.tensors()
    return _summary(tensors, numbers, n_vocab)


_NUMBERS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
)


def _summary(tensors: dict[str, int], numbers: dict[str, int | None], n_vocab: int) -> Header:
    n_layer = numbers["block_count"] or 0
    layers = [0] * n_layer
    embedding = output = 0
    for name, size in tensors.items():
        block = re.match(r"blk\.(\d+)\.", name)
        if block and int(block[1]) < n_layer:
            layers[int(block[1])] += size
        elif name.startswith(("token_embd", "position_embd", "token_types")):
            embedding += size
        else:
            output += size
    if "output.weight" not in tensors:
        output += tensors.get("token_embd.weight", 0)
    n_embd = numbers["embedding_length"] or 0
    n_head = numbers["attention.head_count"] or 0
    n_head_kv = numbers["attention.head_count_kv"] or n_head
    width = n_embd // n_head if n_head else 0
    n_embd_head = numbers["attention.key_length"] or width
    return Header(
        all_bytes=sum(tensors.values()),
        layer_bytes=tuple(layers),
        output_bytes=output,
        input_bytes=embedding,
        n_context=numbers["context_length"] or 0,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_ff=numbers["feed_forward_length"] or 0,
        n_head=n_head,
        n_embd_head=n_embd_head,
        n_embd_k=n_head_kv * n_embd_head,
        n_embd_v=n_head_kv * (numbers["attention.value_length"] or width),
    )


def _further_parts(path: Path, n_parts: int) -> list[Path]:
    """The other files of a model in parts, named ``NAME-00001-of-00003.gguf``."""
    stem = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", path.name)
    if n_parts < 2 or stem is None:
        return []
    names = [f"{stem[1]}-{n:05d}-of-{stem[2]}.gguf" for n in range(1, n_parts + 1)]
    return [path.with_name(name) for name in names if name != path.name]


class _Params(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_INTEGERS: dict[int, type[ctypes._SimpleCData[int]]] = {
    0: ctypes.c_uint8,
    1: ctypes.c_int8,
    2: ctypes.c_uint16,
    3: ctypes.c_int16,
    4: ctypes.c_uint32,
    5: ctypes.c_int32,
    10: ctypes.c_uint64,
    11: ctypes.c_int64,
}
"""By the number of a GGUF type."""
_STRING, _ARRAY = 8, 9

_POINTER, _INDEX, _SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "gguf_init_from_file": (_POINTER, [ctypes.c_char_p, _Params]),
    "gguf_free": (None, [_POINTER]),
    "gguf_find_key": (_INDEX, [_POINTER, ctypes.c_char_p]),
    "gguf_get_kv_type": (ctypes.c_int, [_POINTER, _INDEX]),
    "gguf_get_arr_type": (ctypes.c_int, [_POINTER, _INDEX]),
    "gguf_get_arr_n": (_SIZE, [_POINTER, _INDEX]),
    "gguf_get_arr_data": (_POINTER, [_POINTER, _INDEX]),
    "gguf_get_val_data": (_POINTER, [_POINTER, _INDEX]),
    "gguf_get_val_str": (ctypes.c_char_p, [_POINTER, _INDEX]),
    "gguf_get_n_tensors": (_INDEX, [_POINTER]),
    "gguf_get_tensor_name": (ctypes.c_char_p, [_POINTER, _INDEX]),
    "gguf_get_tensor_size": (_SIZE, [_POINTER, _INDEX]),
}


class _Gguf:
    """An opened header. llama.cpp aborts on a value asked for by a type it has not: none here."""

    def __init__(self, path: Path) -> None:
        library = _ggml.libggml  # a lookup goes on to the libraries that it depends on
        for name, (restype, argtypes) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = restype, argtypes
        self._lib = library
        forget_complaints()
        self.handle = library.gguf_init_from_file(str(path).encode(), _Params(no_alloc=True))
        if not self.handle:
            raise ModelError(f"{path} is no GGUF file that llama.cpp can read{complaints()}")

    def text(self, key: str) -> str:
        """A value that is text; empty where there is none."""
        index = self._find(key, _STRING)
        return "" if index is None else self._lib.gguf_get_val_str(self.handle, index).decode()

    def most(self, key: str) -> int | None:
        """A whole number, of a list the largest; None where there is none."""
        index = self._find(key)
        if index is None:
            return None
        kind = self._lib.gguf_get_kv_type(self.handle, index)
        if kind in _INTEGERS:
            address, n = self._lib.gguf_get_val_data(self.handle, index), 1
        elif kind == _ARRAY and self._lib.gguf_get_arr_type(self.handle, index) in _INTEGERS:
            kind = self._lib.gguf_get_arr_type(self.handle, index)
            address = self._lib.gguf_get_arr_data(self.handle, index)
            n = self._lib.gguf_get_arr_n(self.handle, index)
        else:
            return None
        return max((_INTEGERS[kind] * n).from_address(address), default=None)

    def length(self, key: str) -> int:
        """How many values a list has; 0 where there is none."""
        index = self._find(key, _ARRAY)
        return 0 if index is None else int(self._lib.gguf_get_arr_n(self.handle, index))

    def tensors(self) -> dict[str, int]:
        """Names and bytes of all tensors."""
        get_name, get_size = self._lib.gguf_get_tensor_name, self._lib.gguf_get_tensor_size
        n = self._lib.gguf_get_n_tensors(self.handle)
        return {get_name(self.handle, i).decode(): get_size(self.handle, i) for i in range(n)}

    def _find(self, key: str, kind: int | None = None) -> int | None:
        index = int(self._lib.gguf_find_key(self.handle, key.encode()))
        if index < 0 or kind not in (None, self._lib.gguf_get_kv_type(self.handle, index)):
            return None
        return index

    def close(self) -> None:
        self._lib.gguf_free(self.handle)


@contextmanager
def _opened(path: Path) -> Iterator[_Gguf]:
    header = _Gguf(path)
    try:
        yield header
    finally:
        header.close()
