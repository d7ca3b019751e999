"""One KV cache and the batch that feeds it. A context belongs to one thread at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from router.engine.llama import Model, complaints, forget_complaints
from router.engine.tap import Tap
from router.errors import EngineError

FloatRow = NDArray[np.float32]

_NO_SPACE_IN_CACHE = 1
_ABORTED = 2


_GGML_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which the bindings do not name
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
}

_Q8_0_BLOCK = 32


@dataclass(frozen=True, slots=True)
class KVTypes:
    """ggml's names of the types in which keys and values are kept."""

    k: str
    v: str

    @classmethod
    def suited_to(cls, model: Model, k: str = "auto", v: str = "auto") -> KVTypes:
        """The types asked for; ``auto`` takes those that keep answers repeatable on a CPU.

        On an accelerator, whose kernels want both alike, it takes 16 bits for both.
        """
        if model.n_offloaded:
            return cls("f16" if k == "auto" else k, "f16" if v == "auto" else v)
        suited = cls.on_cpu(model.n_embd_head)
        return cls(suited.k if k == "auto" else k, suited.v if v == "auto" else v)

    @classmethod
    def on_cpu(cls, n_embd_head: int) -> KVTypes:
        """The types that keep answers repeatable, for keys of so many numbers a head."""
        return cls("q8_0" if n_embd_head % _Q8_0_BLOCK == 0 else "bf16", "f16")


def _flash_attn(wanted: str, model: Model) -> int:
    if wanted == "auto" and model.n_offloaded:
        return int(lib.LLAMA_FLASH_ATTN_TYPE_AUTO)  # whether the device can
    on = wanted != "off"
    return int(lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if on else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED)


class Context:
    """A KV cache of `n_context` tokens for each of `n_seq` sequences, and the batch that feeds it.

    Each sequence has a cache of its own (not llama.cpp's unified one), and on a CPU its keys and
    values are of different types. Attention then computes each row by itself, over the cells in
    their order, so no bit depends on how the tokens were cut into batches or on what else is in
    them. With equal types it takes other kernels for one token than for many, and logits
    move by up to 1.4: enough to turn a greedy answer and its uncertainty.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_context: int,
        n_seq: int,
        n_batch: int,
        n_threads: int,
        kv_types: KVTypes | None = None,
        flash_attn: str = "auto",
        tap: Tap | None = None,
    ) -> None:
        forget_complaints()
        params = lib.llama_context_default_params()
        params.n_ctx = n_context * n_seq
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_seq
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = False
        types = kv_types or KVTypes.suited_to(model)
        params.type_k, params.type_v = _GGML_TYPES[types.k], _GGML_TYPES[types.v]
        params.flash_attn_type = _flash_attn(flash_attn, model)
        params.no_perf = True
        if tap is not None:
            params.cb_eval, params.cb_eval_user_data = tap.callback, tap.user_data
        self.tap = tap  # also keeps alive what llama.cpp calls and writes to
        self._context = lib.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(
                f"llama.cpp could not make a context of {n_context} tokens for each of {n_seq} "
                f"sequences; lower `context` or `slots`{complaints()}"
            )
        self._memory = lib.llama_get_memory(self._context)
        self._row = ctypes.c_float * model.n_vocab
        self._batch = _Batch(n_batch)

    def decode(
        self, entries: Sequence[BatchEntry], given_up: Callable[[], bool] | None = None
    ) -> bool:
        """Run the model over all tokens of `entries` in one batch.

        Returns False when `given_up`, asked some hundred times meanwhile, said that nobody wants
        it any more; the sequences then hold what they held before. An accelerator asks it never.
        Raises EngineError when llama.cpp fails; the sequences involved must then be cleared.
        """
        self._batch.fill(entries)
        if given_up is None:
            status = lib.llama_decode(self._context, self._batch.struct)
        else:
            status = self._decode_unless(given_up)
        if status == _NO_SPACE_IN_CACHE:
            raise EngineError("the engine's cache has no room for another token")
        if status not in (0, _ABORTED):
            raise EngineError(f"llama_decode failed with status {status}{complaints()}")
        return bool(status == 0)

    def _decode_unless(self, given_up: Callable[[], bool]) -> int:
        callback = lib.ggml_abort_callback(lambda _: given_up())
        lib.llama_set_abort_callback(self._context, callback, None)
        try:
            return int(lib.llama_decode(self._context, self._batch.struct))
        finally:
            lib.llama_set_abort_callback(self._context, lib.ggml_abort_callback(), None)

    @staticmethod
    def computed_order(entries: Sequence[BatchEntry]) -> list[tuple[int, int]]:
        """The order in which llama.cpp computes a batch's tokens, as pairs (entry, token).

        It takes runs of neighbouring sequences, and of each sequence of a run equally many tokens.
        """
        done = [0] * len(entries)
        order: list[tuple[int, int]] = []
        while len(order) < sum(len(entry.tokens) for entry in entries):
            run: list[int] = []
            for i, entry in enumerate(entries):
                is_next = not run or entry.seq == entries[run[-1]].seq + 1
                if done[i] < len(entry.tokens) and is_next:
                    run.append(i)
            n = min(len(entries[i].tokens) - done[i] for i in run)
            for i in run:
                order.extend((i, t) for t in range(done[i], done[i] + n))
                done[i] += n
        return order

    def logits(self, index: int) -> FloatRow:
        """The logits of the batch's token `index`; a view that the next decode overwrites."""
        pointer = lib.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise EngineError(f"no logits for token {index} of the batch")
        # Not `np.ctypeslib.as_array`, which takes longer than choosing the token.
        row = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(memoryview(row), np.float32)

    def clear(self, seq: int, start: int = 0) -> None:
        """Forget the tokens of `seq` from position `start` on."""
        lib.llama_memory_seq_rm(self._memory, seq, start, -1)

    def copy(self, source: int, target: int) -> None:
        """Let the sequence `target` hold what `source` holds, at the next decode."""
        lib.llama_memory_seq_rm(self._memory, target, 0, -1)
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def save(self, seq: int) -> bytes:
        """The keys and values that `seq` holds, for `load` into a context made the same way.

        A sequence that was the target of `copy` holds nothing before the next decode. Raises
        EngineError when llama.cpp gives nothing.
        """
        forget_complaints()
        size = lib.llama_state_seq_get_size(self._context, seq)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, buffer, size, seq)
        if not size or written != size:
            raise EngineError(f"llama.cpp can't save sequence {seq}{complaints()}")
        return bytes(buffer)

    def load(self, seq: int, state: bytes) -> None:
        """Let `seq` hold what `save` returned, instead of what it held.

        llama.cpp trusts the positions and counts in `state`; give it nothing that may be damaged.
        Raises EngineError when it refuses, as it does for another number of sequences, other types
        of keys and values, or more tokens than fit; `seq` is empty then.
        """
        forget_complaints()
        pointer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        read = lib.llama_state_seq_set_data(self._context, pointer, len(state), seq)
        if not state or read != len(state):
            self.clear(seq)
            raise EngineError(f"llama.cpp can't load a state into sequence {seq}{complaints()}")

    def close(self) -> None:
        """Free the cache."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """Consecutive tokens of one sequence, the first at position `start`."""

    seq: int
    tokens: Sequence[int]
    start: int
    want_logits: bool
    """Whether the logits after the last of `tokens` are wanted."""
    want_all: bool = False
    """Whether those after each of `tokens` are."""


class _Batch:
    """A `llama_batch` over numpy arrays, so that filling it is a few slice assignments."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._n_seq = np.ones(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        seq_pointer = ctypes.POINTER(ctypes.c_int32)
        base, step = self._seq.ctypes.data, self._seq.itemsize
        self._seq_pointers = (seq_pointer * capacity)(
            *(ctypes.cast(base + i * step, seq_pointer) for i in range(capacity))
        )
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self._pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq_pointers,
            logits=self._logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, entries: Sequence[BatchEntry]) -> None:
        n = 0
        for entry in entries:
            end = n + len(entry.tokens)
            self._token[n:end] = entry.tokens
            self._pos[n:end] = np.arange(entry.start, entry.start + end - n)
            self._seq[n:end] = entry.seq
            self._logits[n:end] = entry.want_all
            self._logits[end - 1] = entry.want_logits or entry.want_all
            n = end
        self.struct.n_tokens = n
