"""The weights and the vocabulary, through llama-cpp-python's low-level (ctypes) API.

Only this file, `context.py`, `grammar.py` and `tap.py` touch that API. A `Model` may be read from
any thread.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import _ggml
from llama_cpp import llama_cpp as lib

from router.errors import ModelError

log = logging.getLogger("router.engine.llama")

_COMPLAINTS = (3, 4)  # GGML_LOG_LEVEL_WARN, _ERROR
_KEEP_LOG_LINES = 20
_recent_log: list[str] = []


def _on_log(level: int, text: bytes, _: Any) -> None:
    line = text.decode(errors="replace").rstrip("\n")
    if level in _COMPLAINTS and line.strip(". "):
        _recent_log.append(line)
        del _recent_log[:-_KEEP_LOG_LINES]
        log.debug("llama.cpp: %s", line)


_LOG_CALLBACK = lib.llama_log_callback(_on_log)  # llama.cpp keeps no reference


@functools.cache
def _init_backend() -> None:
    lib.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    lib.llama_backend_init()


_NUMA = {
    "distribute": lib.GGML_NUMA_STRATEGY_DISTRIBUTE,
    "isolate": lib.GGML_NUMA_STRATEGY_ISOLATE,
}


@functools.cache
def _numa_of_this_process() -> list[str]:
    """The way in which threads are placed; it can be chosen once in a process's life."""
    return []


def _init_numa(numa: str) -> None:
    chosen = _numa_of_this_process()
    if numa == "off" or chosen == [numa]:
        return
    if chosen:
        raise ModelError(
            f"numa = {numa}, but this process already places its threads by {chosen[0]}; "
            "start a new one"
        )
    lib.llama_numa_init(_NUMA[numa])
    chosen.append(numa)


def forget_complaints() -> None:
    """What llama.cpp complains about from now on is another matter."""
    _recent_log.clear()


def complaints() -> str:
    """The last things llama.cpp complained about; it reports reasons only through its log."""
    lines = list(dict.fromkeys(_recent_log))
    return "; llama.cpp says: " + " | ".join(lines[-3:]) if lines else ""


def build_version() -> str:
    """Version of llama-cpp-python and of the llama.cpp inside it."""
    import llama_cpp  # noqa: PLC0415 - its import is slow, and only this needs the package itself

    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {lib.llama_version().decode()}"


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator that the build can use; sizes in bytes."""

    name: str
    description: str
    memory_free: int
    memory_total: int


def supports_offload() -> bool:
    """Whether this build of llama.cpp can put layers on a GPU (CUDA, Metal, ...)."""
    return bool(lib.llama_supports_gpu_offload())


def devices() -> list[Device]:
    """The accelerators that llama.cpp uses, in its order. Empty on a CPU-only build.

    Integrated ones are used, and listed, only where there is no other.
    """
    _init_backend()
    ggml = _ggml.libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for function, restype in (
        (ggml.ggml_backend_dev_type, ctypes.c_int),
        (ggml.ggml_backend_dev_name, ctypes.c_char_p),
        (ggml.ggml_backend_dev_description, ctypes.c_char_p),
    ):
        function.restype, function.argtypes = restype, [ctypes.c_void_p]
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    found: dict[int, list[Device]] = {_DEVICE_GPU: [], _DEVICE_IGPU: []}
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        kind = ggml.ggml_backend_dev_type(device)
        if kind not in found:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = ggml.ggml_backend_dev_name(device).decode()
        description = ggml.ggml_backend_dev_description(device).decode()
        found[kind].append(Device(name, description, free.value, total.value))
    return found[_DEVICE_GPU] or found[_DEVICE_IGPU]


_DEVICE_GPU, _DEVICE_IGPU = 1, 2


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where the weights go.

    Attributes
    ----------
    n_gpu_layers : layers to offload; -1 offloads all where the build can.
    only_gpu : the one device to use, by its place in `devices`; None spreads the layers over all.
    tensor_split : shares of the layers for each device, in their order; empty leaves it to
        llama.cpp.
    mmap : map the file instead of reading it: pages are shared and loaded when first used.
    mlock : keep the weights from being swapped out.
    numa : ``"off"``, or how threads are placed over memory nodes: ``"distribute"``, ``"isolate"``.
        It holds for the whole process.
    """

    n_gpu_layers: int = -1
    only_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    mmap: bool = True
    mlock: bool = False
    numa: str = "off"


def _model_params(options: LoadOptions, offload: bool) -> Any:
    """The options as llama.cpp wants them, `tensor_split` still missing."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers if offload else 0
    if offload and options.only_gpu is not None:
        params.split_mode, params.main_gpu = lib.LLAMA_SPLIT_MODE_NONE, options.only_gpu
    # A misspelt field would be taken by ctypes, and do nothing: the tests look for it.
    params.load_mode = _LOAD_MODES[options.mmap, options.mlock]
    return params


_LOAD_MODES = {(False, False): 0, (True, False): -1, (False, True): 2, (True, True): 3}
"""LLAMA_LOAD_MODE_NONE, _AUTO, _MLOCK and _MMAP_MLOCK, by mmap and mlock. AUTO maps the file
wherever the device can."""


class Model:
    """A GGUF in memory. Raises ModelError when llama.cpp can't load it."""

    def __init__(self, path: Path, options: LoadOptions = LoadOptions()) -> None:
        _init_backend()
        _init_numa(options.numa)
        forget_complaints()
        offload = supports_offload() and bool(devices())
        params = _model_params(options, offload)
        if options.tensor_split:
            shares = (ctypes.c_float * lib.llama_max_devices())(*options.tensor_split)
            params.tensor_split = shares
        self.handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp could not load {path}{complaints()}; "
                "fetch it again if it may be incomplete or damaged"
            )
        self.path = path
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self.n_layer: int = lib.llama_model_n_layer(self.handle)
        self.n_embd: int = lib.llama_model_n_embd(self.handle)
        self.n_embd_head = self._head_width()
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self.handle)
        self.n_offloaded = _offloaded_layers(int(params.n_gpu_layers), self.n_layer, offload)
        self.bos: int = lib.llama_vocab_bos(self.vocab)
        self.eos: int = lib.llama_vocab_eos(self.vocab)
        self.add_bos = bool(lib.llama_vocab_get_add_bos(self.vocab))
        self._eog = frozenset(
            token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(self.vocab, token)
        )
        self._pieces: dict[int, bytes] = {}

    def meta(self, key: str) -> str | None:
        """A value of the GGUF's metadata as text; None when the key is missing."""
        size = 1 << 10
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode(errors="replace")
            size = length + 1

    def _head_width(self) -> int:
        """Length of one attention head's keys."""
        stated = self.meta(f"{self.meta('general.architecture')}.attention.key_length")
        return int(stated) if stated else self.n_embd // int(lib.llama_model_n_head(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The GGUF's own chat template (Jinja), or None."""
        template = lib.llama_model_chat_template(self.handle, None)
        return template.decode() if template else None

    @property
    def quantisation(self) -> str:
        """llama.cpp's name of the file type, such as ``Q4_1`` or ``Q4_K - Medium``."""
        name = lib.llama_ftype_name(lib.llama_model_ftype(self.handle))
        return name.decode() if name else "unknown"

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(lib.llama_model_size(self.handle))

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """How all control tokens are written: what a prompt's template alone may say."""
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return tuple(
            self.special_piece(token)
            for token in range(self.n_vocab)
            if lib.llama_vocab_get_attr(self.vocab, token) & control
        )

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation (EOS, EOT, ...)."""
        return token in self._eog

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokens of `text`; `parse_special` reads control tokens written out in it as such."""
        raw = text.encode()
        capacity = len(raw) + 8
        while True:
            buffer = (lib.llama_token * capacity)()
            n = lib.llama_tokenize(
                self.vocab, raw, len(raw), buffer, capacity, add_special, parse_special
            )
            if n >= 0:
                return list(buffer[:n])
            capacity = -n

    def piece(self, token: int) -> bytes:
        """The bytes `token` adds to a text, not always whole UTF-8; none for a control token."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def special_piece(self, token: int) -> str:
        """How `token` is written in a template, control tokens included."""
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def close(self) -> None:
        """Free the weights. Contexts on them must be closed before."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None


def _offloaded_layers(n_gpu_layers: int, n_layer: int, supported: bool) -> int:
    if not supported:
        return 0
    return n_layer + 1 if n_gpu_layers < 0 else min(n_gpu_layers, n_layer + 1)
