"""How much memory the keys and values of a context take, and whether this machine has it.

llama.cpp does not ask: it allocates and zeroes them, and the kernel ends the process when memory
runs out; and it counts the tokens of all sequences in 32 bits, so that absurd numbers wrap around
to small ones without a word.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.engine.context import KVTypes
from router.errors import EngineError

MOST_TOKENS = 2**31 - 1
"""Of all sequences together; llama.cpp's positions are signed 32-bit numbers."""

_PADDING = 256
"""llama.cpp rounds each sequence's tokens up to a multiple of this."""

_BYTES_A_CELL = 52
"""llama.cpp's own bookkeeping of a token: its position, its shift, its place, its sequences."""

BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,  # 32 numbers of 8 bits share a scale of 16 bits, and so on
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
}
"""What a cached number takes, its share of its block's scale included, by its type's name."""


class Shape(Protocol):
    """What must be known of a model; `router.engine.llama.Model` tells it."""

    @property
    def n_layer(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    def meta(self, key: str) -> str | None: ...


def padded(context: int, slots: int) -> int:
    """The tokens for which llama.cpp makes room in `slots` sequences of `context` tokens."""
    return -(-context // _PADDING) * _PADDING * slots


def kv_bytes(model: Shape, context: int, slots: int, types: KVTypes) -> int:
    """Bytes that the keys and values of `slots` sequences of `context` tokens take.

    An upper bound for models of which some layers look at a window only.
    """
    return padded(context, slots) * kv_bytes_per_token(model, types)


def kv_bytes_per_token(model: Shape, types: KVTypes) -> int:
    """Bytes of one token's keys and values in all layers: what each later token reads of it."""
    heads = sum(_kv_heads(model))
    width = model.n_embd // (_number(model, "attention.head_count") or 1)
    k = _number(model, "attention.key_length") or width
    v = _number(model, "attention.value_length") or width
    return int(heads * (k * BITS[types.k] + v * BITS[types.v])) // 8


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of main memory to be taken besides the weights that are loaded already.

    Attributes
    ----------
    cache : keys and values; 0 when they are kept on an accelerator.
    draft_weights, draft_cache : the same of a draft model; 0 without one.
    """

    cache: int = 0
    draft_weights: int = 0
    draft_cache: int = 0

    @property
    def total(self) -> int:
        return self.cache + self.draft_weights + self.draft_cache


def check_count(context: int, slots: int) -> None:
    """Raise EngineError when llama.cpp can't count the tokens of `slots` times `context`."""
    if context < 1 or slots < 1:
        raise EngineError(f"`context` is {context} and `slots` is {slots}; both must be at least 1")
    if context * slots > MOST_TOKENS:
        raise EngineError(
            f"{slots} slots of {context} tokens are more than the {MOST_TOKENS} tokens that "
            "llama.cpp can count; lower `context` or `slots`"
        )


def check_memory(context: int, slots: int, needs: Needs, available: int | None) -> None:
    """Raise EngineError when there is no memory for a context, before llama.cpp takes it.

    Parameters
    ----------
    context, slots : tokens a sequence, and sequences; what was reckoned for them is in `needs`.
    available : bytes that may be taken; None when that isn't known.
    """
    bookkeeping = context * slots * _BYTES_A_CELL
    needed = needs.total + bookkeeping
    if not needs.total or available is None or needed <= available:
        return
    a_token = (needs.cache + needs.draft_cache + bookkeeping) // context
    fit = (available - needs.draft_weights) // a_token
    hint = f", to {fit} tokens for example" if fit >= _PADDING else ""
    smaller = "; or take a smaller `draft_model`, or `speculative` = lookup"
    raise EngineError(
        f"{slots} slots of {context} tokens need {_spelt_out(needs, needed)}, "
        f"and {_gib(available)} are free; lower `context` or `slots`{hint}"
        f"{smaller if needs.draft_weights else ''}"
    )


def _spelt_out(needs: Needs, needed: int) -> str:
    if not needs.draft_weights:
        return f"{_gib(needed)} of memory for their keys and values"
    own = f"{_gib(needs.cache)} for keys and values, " if needs.cache else ""
    return (
        f"{_gib(needed)} of memory ({own}{_gib(needs.draft_weights)} for the draft model's weights "
        f"and {_gib(needs.draft_cache)} for its keys and values)"
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the machine's or its control group's, if less.

    None where the system does not tell (only Linux does). `root` is where its files are found.
    """
    known = [_machine_memory(root / "proc/meminfo"), *_group_memory(root / "sys/fs/cgroup")]
    return min((n for n in known if n is not None), default=None)


def _machine_memory(meminfo: Path) -> int | None:
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _group_memory(groups: Path) -> list[int | None]:
    """What the control group leaves, under version 2 and under version 1."""
    first = groups / "memory"
    return [
        _left(groups / "memory.max", groups / "memory.current", groups / "memory.stat"),
        _left(
            first / "memory.limit_in_bytes", first / "memory.usage_in_bytes", first / "memory.stat"
        ),
    ]


def _left(limit: Path, used: Path, stat: Path) -> int | None:
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    # Pages of files, the mapped model's too, are counted as used but given up when needed.
    files = 0
    if stat.exists():
        values = dict(line.split() for line in stat.read_text().splitlines())
        files = int(values.get("active_file", 0)) + int(values.get("inactive_file", 0))
    return max(0, int(limit.read_text()) - int(used.read_text()) + files)


def _kv_heads(model: Shape) -> list[int]:
    """Heads with keys and values of their own in each layer; 0 where a layer keeps none."""
    stated = _read(model, "attention.head_count_kv") or _read(model, "attention.head_count") or "1"
    heads = json.loads(stated)
    return [int(n) for n in heads] if isinstance(heads, list) else [int(heads)] * model.n_layer


def _number(model: Shape, key: str) -> int | None:
    """A number of the metadata; of a list, which has one a layer, the largest."""
    stated = _read(model, key)
    if stated is None:
        return None
    value = json.loads(stated)
    return max(int(n) for n in value) if isinstance(value, list) else int(value)


def _read(model: Shape, key: str) -> str | None:
    return model.meta(f"{model.meta('general.architecture')}.{key}")


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"
