"""Which layers go to which accelerator: what they need there, fitted into what is free.

llama.cpp offloads a model's end: the output first, then the layers from the last one on. It spreads
these, in their order, over the devices in theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from router.engine.context import KVTypes
from router.engine.draft_model import CHUNK as DRAFT_CHUNK
from router.engine.gguf import Header
from router.engine.kv_memory import BITS, padded
from router.engine.llama import Device, LoadOptions
from router.engine.messages import EngineConfig
from router.errors import EngineError, ModelError

_MARGIN = 1 << 30
_MARGIN_SHARE = 8
"""Left free is 1 GiB, on a small device an eighth of what is free: for the driver's own buffers,
which no header tells, and for whatever else shows a picture there."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Layers on each device, the output counted as one, and the bytes they need there."""

    counts: tuple[int, ...]
    needs: tuple[int, ...]

    @property
    def n_layers(self) -> int:
        return sum(self.counts)


def fit(
    layer_bytes: Sequence[int],
    output_bytes: int,
    kv_bytes_per_layer: int,
    *,
    overhead: int,
    free: Sequence[int],
    tensor_split: Sequence[float] = (),
) -> Fit:
    """The most layers that fit, all sizes in bytes.

    Parameters
    ----------
    layer_bytes, output_bytes : the weights of each layer, and those after the last one.
    kv_bytes_per_layer : what a layer caches, which lies where the layer lies.
    overhead : what each device that gets a layer needs besides.
    free : the memory of each device.
    tensor_split : the layers' shares for the devices. Without any the devices are filled one after
        the other, and as few as possible are used.
    """
    sizes = [*(size + kv_bytes_per_layer for size in layer_bytes), output_bytes]
    for n in range(len(sizes), 0, -1):
        last = sizes[-n:]
        if any(tensor_split):
            counts = split_by_shares(n, tensor_split, len(free))
        else:
            counts = _filled(last, overhead, free)
        needs = _needs(last, overhead, counts)
        if sum(counts) == n and all(map(int.__le__, needs, free)):
            return Fit(counts, needs)
    return Fit((0,) * len(free), (0,) * len(free))


def split_by_shares(n: int, shares: Sequence[float], n_devices: int) -> tuple[int, ...]:
    """How many of `n` layers each device gets by `shares`, as llama.cpp counts: in 32 bits.

    >>> split_by_shares(31, (3, 1), 2)
    (24, 7)
    """
    ends = np.zeros(n_devices, np.float32)
    ends[: len(shares)] = shares
    ends = np.cumsum(ends, dtype=np.float32)
    places = np.arange(n, dtype=np.float32) / np.float32(n)
    devices = np.searchsorted(ends / ends[-1], places, side="right")
    return tuple(int(count) for count in np.bincount(devices, minlength=n_devices))


def _filled(sizes: Sequence[int], overhead: int, free: Sequence[int]) -> tuple[int, ...]:
    """Layers on each device when each takes all it can; some may be left over."""
    counts, at = [], 0
    for room in free:
        left, first = room - overhead, at
        while at < len(sizes) and sizes[at] <= left:
            left -= sizes[at]
            at += 1
        counts.append(at - first)
    return tuple(counts)


def _needs(sizes: Sequence[int], overhead: int, counts: Sequence[int]) -> tuple[int, ...]:
    ends = np.cumsum([0, *counts])
    return tuple(
        sum(sizes[start:end]) + overhead if end > start else 0
        for start, end in pairwise(ends.tolist())
    )


def kv_bytes_per_layer(header: Header, config: EngineConfig) -> int:
    """Bytes that one layer's cache takes on an accelerator, for all slots."""
    k, v = (
        BITS["f16" if kind == "auto" else kind] for kind in (config.kv_type_k, config.kv_type_v)
    )
    cells = padded(config.context, config.slots)
    return int(cells * (header.n_embd_k * k + header.n_embd_v * v) / 8)


def compute_bytes(header: Header, config: EngineConfig) -> int:
    """About what one batch's intermediate results take on a device.

    The logits dominate, and llama.cpp reserves a row for each token. For two models at five
    settings this came to 1.06-1.17 times what llama.cpp reserved with flash attention, 1.4-1.8
    times without.
    """
    guessed = 0 if config.speculative == "off" else config.draft_tokens
    rows = max(config.prefill_chunk, config.slots * (1 + guessed))
    numbers = header.n_vocab + 2 * header.n_ff + 4 * header.n_embd
    attention = header.n_head * 8 if config.flash_attn == "off" else 2
    return rows * (4 * numbers + attention * config.context)


def draft_device_bytes(draft: Header, config: EngineConfig) -> int:
    """Bytes that a draft model takes of a device: weights, cache, intermediate results."""
    own = _draft_config(draft, config)
    cache = kv_bytes_per_layer(draft, own) * len(draft.layer_bytes)
    weights = sum(draft.layer_bytes) + draft.output_bytes
    return weights + cache + compute_bytes(draft, own)


def draft_cache_bytes(draft: Header, config: EngineConfig) -> int:
    """Bytes that a draft model's keys and values take of main memory."""
    types = KVTypes.on_cpu(draft.n_embd_head)
    own = replace(_draft_config(draft, config), kv_type_k=types.k, kv_type_v=types.v)
    return kv_bytes_per_layer(draft, own) * len(draft.layer_bytes)


def _draft_config(draft: Header, config: EngineConfig) -> EngineConfig:
    """As if the draft model were served by itself, in the way that it is."""
    return EngineConfig(
        config.draft_model_path,
        context=min(config.context, draft.n_context or config.context),
        slots=config.slots,
        prefill_chunk=DRAFT_CHUNK,
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's layers go.

    Attributes
    ----------
    n_layers : how many are offloaded, the output counted as one.
    n_all : how many there are.
    auto : whether they were counted here, not by the user.
    devices : the accelerators that llama.cpp sees.
    fit : layers and bytes for each of `devices`; None leaves the split to llama.cpp.
    draft_on : which of `devices` holds all of the draft model; None leaves it to the CPU.
    draft_bytes : what it takes there, its cache included.
    """

    n_layers: int = 0
    n_all: int = 0
    auto: bool = False
    devices: tuple[Device, ...] = ()
    fit: Fit | None = None
    draft_on: int | None = None
    draft_bytes: int = 0

    def describe(self) -> str:
        """``cpu``, or ``24 of 31 layers on NVIDIA H200 (auto: needs 1.2 of 2.0 GiB free)``."""
        if not self.n_layers:
            no_room = self.auto and self.devices
            return f"cpu (auto: no room on {list_devices(self.devices)})" if no_room else "cpu"
        text = f"{self.n_layers} of {self.n_all} layers on {self._names()}"
        return f"{text} (auto: needs {self._memory()})" if self.auto else text

    def advice(self) -> str:
        """What to do when a device's memory turns out not to be enough."""
        needs = f", which needs about {self._memory()}" if self.fit is not None else ""
        smaller = "" if self.draft_on is None else ", or take a smaller `draft_model`"
        return (
            f"{self.n_layers} of {self.n_all} layers were to go to {self._names()}{needs}; "
            f"if that was too much, lower `n_gpu_layers`, `context` or `slots`{smaller}"
        )

    def _names(self) -> str:
        if self.fit is None:
            return ", ".join(_name(device) for device in self.devices)
        used = [
            (_name(device), count)
            for device, count in zip(self.devices, self.fit.counts, strict=True)
            if count
        ]
        if len(used) == 1:
            return used[0][0]
        return ", ".join(f"{name} ({count})" for name, count in used)

    def _memory(self) -> str:
        assert self.fit is not None, "asked only of a placement that was counted"
        used = [
            device.memory_free
            for i, (device, count) in enumerate(zip(self.devices, self.fit.counts, strict=True))
            if count or i == self.draft_on
        ]
        text = f"{_gib(sum(self.fit.needs) + self.draft_bytes)} of {_gib(sum(used))} GiB free"
        draft = f", {_gib(self.draft_bytes)} of it for the draft model"
        return text if self.draft_on is None else text + draft


def place(
    config: EngineConfig, header: Header, devices: Sequence[Device], draft: Header | None = None
) -> Placement:
    """Where `config` says that a model's layers go, fitted into free memory for ``"auto"``.

    Without `tensor_split` all of them go to `main_gpu` if they fit there, else the devices are
    filled one after the other. A number of layers that seems not to fit is tried nevertheless.
    A draft model goes first, to `main_gpu` as a whole if it fits there, else it stays with the CPU.

    Raises
    ------
    ModelError
        `main_gpu` or `tensor_split` names more devices than there are.
    """
    n_all = len(header.layer_bytes) + 1
    auto = config.n_gpu_layers == "auto"
    wanted = n_all if auto else min(int(config.n_gpu_layers), n_all)
    nothing = Placement(n_all=n_all, auto=auto, devices=tuple(devices))
    if not devices or not wanted:
        return nothing
    _check(config, devices)
    free = [_usable(device) for device in devices]
    draft_bytes = 0 if draft is None else draft_device_bytes(draft, config)
    if draft_bytes > free[config.main_gpu]:
        draft_bytes = 0
    free[config.main_gpu] -= draft_bytes
    found = _fitted(config, header, free, wanted)
    if auto and not found.n_layers:
        return nothing
    fits = auto or found.n_layers == wanted
    return replace(
        nothing,
        n_layers=found.n_layers if auto else wanted,
        fit=found if fits else None,
        draft_on=config.main_gpu if draft_bytes else None,
        draft_bytes=draft_bytes,
    )


def _fitted(config: EngineConfig, header: Header, free: Sequence[int], wanted: int) -> Fit:
    """As many of the last `wanted` layers as fit into `free` bytes of each device."""
    alone = [room if i == config.main_gpu else 0 for i, room in enumerate(free)]
    # Layers that are not wanted are left out: what llama.cpp offloads is a model's end.
    layers = header.layer_bytes[len(header.layer_bytes) + 1 - wanted :]
    sizes = (layers, header.output_bytes, kv_bytes_per_layer(header, config))
    overhead = compute_bytes(header, config)
    found = fit(*sizes, overhead=overhead, free=free, tensor_split=config.tensor_split)
    if not any(config.tensor_split):
        on_main = fit(*sizes, overhead=overhead, free=alone)
        found = on_main if on_main.n_layers == wanted else found
    return found


@contextmanager
def explained(placement: Placement) -> Iterator[None]:
    """Let what fails in here say what to lower, when layers were to be offloaded."""
    try:
        yield
    except (ModelError, EngineError) as error:
        if not placement.n_layers:
            raise
        raise type(error)(f"{error}; {placement.advice()}") from error


def load_options(config: EngineConfig, placement: Placement) -> LoadOptions:
    """How to load a model that is placed so."""
    found = placement.fit
    used = [] if found is None else [i for i, count in enumerate(found.counts) if count]
    shares = config.tensor_split if found is None else found.counts
    return LoadOptions(
        n_gpu_layers=placement.n_layers,
        only_gpu=used[0] if len(used) == 1 else None,
        tensor_split=tuple(float(share) for share in shares),
        mmap=config.mmap,
        mlock=config.mlock,
        numa=config.numa,
    )


def draft_options(config: EngineConfig, placement: Placement) -> LoadOptions:
    """How to load the draft model of a model that is placed so."""
    return LoadOptions(
        n_gpu_layers=0 if placement.draft_on is None else -1,
        only_gpu=placement.draft_on,
        mmap=config.mmap,
        mlock=config.mlock,
        numa=config.numa,
    )


def list_devices(devices: Sequence[Device]) -> str:
    """``0: NVIDIA H200, 2.0 GiB free``, and so on."""
    return ", ".join(
        f"{i}: {_name(device)}, {_gib(device.memory_free)} GiB free"
        for i, device in enumerate(devices)
    )


def _check(config: EngineConfig, devices: Sequence[Device]) -> None:
    seen = f"llama.cpp sees {len(devices)} here ({list_devices(devices)})"
    if config.main_gpu >= len(devices):
        raise ModelError(
            f"main_gpu = {config.main_gpu} is none of the devices: {seen}; "
            f"set it to a number from 0 to {len(devices) - 1}"
        )
    if len(config.tensor_split) > len(devices):
        raise ModelError(
            f"tensor_split has {len(config.tensor_split)} shares, one for each device, but {seen}; "
            "leave the others out"
        )


def _usable(device: Device) -> int:
    return device.memory_free - min(_MARGIN, device.memory_free // _MARGIN_SHARE)


def _name(device: Device) -> str:
    return device.description or device.name


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f}"
