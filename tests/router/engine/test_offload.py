"""Fitting layers into device memory: by hand, as properties, and from real headers."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp as lib

from router.engine.gguf import Header, read_header
from router.engine.llama import Device, LoadOptions, Model, _model_params
from router.engine.local import LocalEngine, load_model
from router.engine.messages import EngineConfig
from router.engine.offload import (
    Fit,
    Placement,
    compute_bytes,
    draft_cache_bytes,
    draft_device_bytes,
    draft_options,
    explained,
    fit,
    kv_bytes_per_layer,
    load_options,
    place,
    split_by_shares,
)
from router.errors import EngineError, ModelError

GIB = 1 << 30


class TestFit:
    """Ten layers of 90 bytes that cache 10 each, an output of 50, 20 besides on each device."""

    @staticmethod
    def fit(*free: int, split: tuple[float, ...] = ()) -> Fit:
        return fit([90] * 10, 50, 10, overhead=20, free=free, tensor_split=split)

    def test_all(self) -> None:
        assert self.fit(1070) == Fit((11,), (1070,))

    def test_a_byte_too_little(self) -> None:
        assert self.fit(1069) == Fit((10,), (970,))

    def test_the_output_comes_first(self) -> None:
        assert self.fit(70) == Fit((1,), (70,))
        assert self.fit(69) == Fit((0,), (0,))

    def test_no_device(self) -> None:
        assert self.fit() == Fit((), ())

    def test_devices_are_filled_one_after_the_other(self) -> None:
        assert self.fit(420, 1000) == Fit((4, 7), (420, 670))
        assert self.fit(5000, 5000) == Fit((11, 0), (1070, 0))

    def test_a_device_that_is_full_is_passed_over(self) -> None:
        assert self.fit(0, 220) == Fit((0, 2), (0, 170))

    def test_shares(self) -> None:
        assert self.fit(5000, 5000, split=(1, 1)) == Fit((6, 5), (620, 470))
        assert self.fit(5000, 5000, split=(0, 1)) == Fit((0, 11), (0, 1070))
        assert self.fit(5000, 5000, split=(1,)) == Fit((11, 0), (1070, 0))

    def test_the_smaller_device_limits_equal_shares(self) -> None:
        assert self.fit(5000, 270, split=(1, 1)) == Fit((4, 3), (420, 270))
        assert self.fit(5000, 269, split=(1, 1)) == Fit((3, 2), (320, 170))

    def test_shares_of_nothing_are_none(self) -> None:
        assert self.fit(420, 1000, split=(0, 0)) == self.fit(420, 1000)


@dataclasses.dataclass(frozen=True)
class Problem:
    layers: tuple[int, ...]
    output: int
    kv: int
    overhead: int
    free: tuple[int, ...]
    split: tuple[float, ...]

    def fit(self, free: Sequence[int]) -> Fit:
        """With other devices, as many as ours."""
        return fit(
            self.layers,
            self.output,
            self.kv,
            overhead=self.overhead,
            free=free,
            tensor_split=self.split[: len(free)],
        )


SMALL = st.integers(0, 50)
PROBLEMS = st.builds(
    Problem,
    layers=st.lists(st.integers(0, 100), max_size=12).map(tuple),
    output=SMALL,
    kv=SMALL,
    overhead=SMALL,
    free=st.lists(st.integers(0, 600), max_size=3).map(tuple),
    split=st.sampled_from([(), (1.0,), (1.0, 1.0), (3.0, 1.0, 2.0)]),
)


class TestProperties:
    @given(PROBLEMS)
    def test_never_more_than_is_free(self, problem: Problem) -> None:
        found = problem.fit(problem.free)
        assert len(found.counts) == len(problem.free)
        assert all(need <= room for need, room in zip(found.needs, problem.free, strict=True))
        sizes = [*(size + problem.kv for size in problem.layers), problem.output]
        used = sum(1 for count in found.counts if count)
        last = sizes[len(sizes) - found.n_layers :]
        assert sum(found.needs) == sum(last) + used * problem.overhead

    @given(PROBLEMS, st.data())
    def test_more_memory_never_means_fewer_layers(
        self, problem: Problem, data: st.DataObject
    ) -> None:
        more = [room + data.draw(st.integers(0, 300)) for room in problem.free]
        assert problem.fit(more).n_layers >= problem.fit(problem.free).n_layers

    @given(PROBLEMS, st.integers(1, 3))
    def test_all_layers_when_each_device_could_take_them(
        self, problem: Problem, n_devices: int
    ) -> None:
        need = sum(problem.layers) + len(problem.layers) * problem.kv
        need += problem.output + problem.overhead
        assert problem.fit([need] * n_devices).n_layers == len(problem.layers) + 1

    @given(st.integers(1, 200), st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
    def test_shares_that_are_counts_give_these_counts(self, n: int, shares: list[int]) -> None:
        counts = split_by_shares(n, shares, 4)
        assert sum(counts) == n
        assert split_by_shares(n, counts, 4) == counts


HEADER = Header(
    all_bytes=3200 << 20,
    layer_bytes=(100 << 20,) * 30,
    output_bytes=200 << 20,
    input_bytes=200 << 20,
    n_context=8192,
    n_vocab=1000,
    n_embd=512,
    n_ff=2048,
    n_head=8,
    n_embd_head=64,
    n_embd_k=128,
    n_embd_v=128,
)
CONFIG = EngineConfig("none.gguf", context=1000, slots=2, kv_type_k="q8_0")


def gpu(gib: float, name: str = "NVIDIA H200") -> Device:
    return Device("CUDA0", name, int(gib * GIB), int(gib * GIB))


def with_settings(**settings: Any) -> EngineConfig:
    return dataclasses.replace(CONFIG, **settings)


class TestSizes:
    def test_cache(self) -> None:
        # 2 slots of 1024 cells; 34 bytes for 32 keys, 2 for a value.
        assert kv_bytes_per_layer(HEADER, CONFIG) == 2 * 1024 * (128 * 34 // 32 + 128 * 2)
        f16 = with_settings(kv_type_k="auto")
        assert kv_bytes_per_layer(HEADER, f16) == 2 * 1024 * 256 * 2

    def test_computing(self) -> None:
        fused = compute_bytes(HEADER, CONFIG)
        assert fused == 256 * (4 * (1000 + 4096 + 2048) + 2 * 1000)
        assert compute_bytes(HEADER, with_settings(flash_attn="off")) > fused
        assert compute_bytes(HEADER, with_settings(prefill_chunk=512)) == 2 * fused
        many = with_settings(slots=128, speculative="lookup", draft_tokens=8)
        assert compute_bytes(HEADER, many) == 128 * 9 * fused // 256


class TestPlace:
    def test_everything_fits(self) -> None:
        placed = place(CONFIG, HEADER, [gpu(140)])
        assert placed.n_layers == 31
        assert placed.describe() == (
            "31 of 31 layers on NVIDIA H200 (auto: needs 3.2 of 140.0 GiB free)"
        )
        assert load_options(CONFIG, placed) == LoadOptions(31, 0, (31,))

    def test_what_fits(self) -> None:
        placed = place(CONFIG, HEADER, [gpu(2)])
        assert 0 < placed.n_layers < 31
        assert placed.fit is not None
        assert sum(placed.fit.needs) <= 2 * GIB * 7 // 8  # an eighth is left free
        assert placed.describe().startswith(f"{placed.n_layers} of 31 layers on NVIDIA H200 (auto")

    def test_nothing_fits(self) -> None:
        placed = place(CONFIG, HEADER, [gpu(0.1)])
        assert placed.describe() == "cpu (auto: no room on 0: NVIDIA H200, 0.1 GiB free)"
        assert load_options(CONFIG, placed).n_gpu_layers == 0

    def test_no_device(self) -> None:
        assert place(CONFIG, HEADER, []).describe() == "cpu"
        assert place(with_settings(n_gpu_layers=5), HEADER, []).n_layers == 0

    def test_none_wanted(self) -> None:
        assert place(with_settings(n_gpu_layers=0, main_gpu=7), HEADER, [gpu(9)]).describe() == (
            "cpu"
        )

    def test_a_number(self) -> None:
        placed = place(with_settings(n_gpu_layers=12), HEADER, [gpu(140)])
        assert placed.describe() == "12 of 31 layers on NVIDIA H200"
        assert placed.fit is not None
        assert sum(placed.fit.needs) < 2 * GIB
        assert place(with_settings(n_gpu_layers=99), HEADER, [gpu(140)]).n_layers == 31

    def test_a_number_that_seems_too_large_is_tried(self) -> None:
        placed = place(with_settings(n_gpu_layers=31), HEADER, [gpu(2)])
        assert placed.n_layers == 31
        assert load_options(CONFIG, placed) == LoadOptions(31, None, ())
        assert placed.describe() == "31 of 31 layers on NVIDIA H200"

    def test_the_main_device_first(self) -> None:
        two = [gpu(40, "A"), gpu(40, "B")]
        placed = place(with_settings(main_gpu=1), HEADER, two)
        assert "31 of 31 layers on B (auto" in placed.describe()
        assert load_options(CONFIG, placed).only_gpu == 1

    def test_over_two_devices(self) -> None:
        placed = place(CONFIG, HEADER, [gpu(2, "A"), gpu(40, "B")])
        assert placed.fit is not None
        a, b = placed.fit.counts
        assert a + b == 31
        assert a > 0
        assert f"31 of 31 layers on A ({a}), B ({b}) (auto: needs " in placed.describe()
        assert load_options(CONFIG, placed) == LoadOptions(31, None, (a, b))

    def test_shares(self) -> None:
        split = with_settings(tensor_split=(3.0, 1.0))
        placed = place(split, HEADER, [gpu(40, "A"), gpu(40, "B")])
        assert "31 of 31 layers on A (24), B (7)" in placed.describe()

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(ModelError) as caught:
            place(with_settings(main_gpu=1), HEADER, [gpu(2)])
        assert str(caught.value) == (
            "main_gpu = 1 is none of the devices: llama.cpp sees 1 here "
            "(0: NVIDIA H200, 2.0 GiB free); set it to a number from 0 to 0"
        )

    def test_more_shares_than_devices(self) -> None:
        with pytest.raises(ModelError, match=r"tensor_split has 3 shares.*sees 2 here \(0: A, "):
            place(with_settings(tensor_split=(1.0, 1.0, 1.0)), HEADER, [gpu(2, "A"), gpu(2, "B")])


DRAFT = dataclasses.replace(HEADER, all_bytes=400 << 20, layer_bytes=(30 << 20,) * 10)
DRAFTING = with_settings(speculative="draft", draft_model_path="draft.gguf")


class TestADraftModel:
    def test_its_sizes(self) -> None:
        cache = 2 * 1024 * (128 + 128) * 2 * 10
        computing = 256 * (4 * (1000 + 4096 + 2048) + 2 * 1000)
        assert draft_device_bytes(DRAFT, DRAFTING) == (500 << 20) + cache + computing
        assert draft_cache_bytes(DRAFT, DRAFTING) == 2 * 1024 * (128 * 34 // 32 + 128 * 2) * 10

    def test_it_has_no_more_context_than_it_was_made_for(self) -> None:
        short = dataclasses.replace(DRAFT, n_context=512)
        assert draft_cache_bytes(short, DRAFTING) == draft_cache_bytes(DRAFT, DRAFTING) // 2
        untold = dataclasses.replace(DRAFT, n_context=0)
        assert draft_cache_bytes(untold, DRAFTING) == draft_cache_bytes(DRAFT, DRAFTING)

    def test_it_is_counted(self) -> None:
        placed = place(DRAFTING, HEADER, [gpu(140)], DRAFT)
        assert placed.describe() == (
            "31 of 31 layers on NVIDIA H200 "
            "(auto: needs 3.7 of 140.0 GiB free, 0.5 of it for the draft model)"
        )
        assert draft_options(DRAFTING, placed) == LoadOptions(-1, 0)

    def test_it_leaves_less_to_the_model(self) -> None:
        alone, placed = (place(DRAFTING, HEADER, [gpu(2)], draft) for draft in (None, DRAFT))
        assert 0 < placed.n_layers < alone.n_layers
        assert placed.fit is not None
        assert sum(placed.fit.needs) + placed.draft_bytes <= 2 * GIB * 7 // 8

    def test_it_goes_to_the_main_device(self) -> None:
        config = dataclasses.replace(DRAFTING, main_gpu=1)
        placed = place(config, HEADER, [gpu(140, "A"), gpu(3.8, "B")], DRAFT)
        assert placed.draft_on == 1
        assert "31 of 31 layers on A (auto: needs 3.7 of 143.8 GiB free, 0.5" in placed.describe()
        assert draft_options(config, placed) == LoadOptions(-1, 1)

    def test_without_room_it_stays_with_the_cpu(self) -> None:
        placed = place(DRAFTING, HEADER, [gpu(0.5)], DRAFT)
        assert placed.n_layers > 0
        assert placed.draft_on is None
        assert draft_options(DRAFTING, placed).n_gpu_layers == 0

    def test_it_goes_nowhere_alone(self) -> None:
        wide = dataclasses.replace(HEADER, output_bytes=GIB)
        placed = place(DRAFTING, wide, [gpu(1)], DRAFT)
        assert (placed.n_layers, placed.draft_on) == (0, None)
        none = place(dataclasses.replace(DRAFTING, n_gpu_layers=0), HEADER, [gpu(9)], DRAFT)
        assert draft_options(DRAFTING, none).n_gpu_layers == 0

    def test_a_number_of_layers_goes_beside_it(self) -> None:
        config = dataclasses.replace(DRAFTING, n_gpu_layers=31)
        assert place(config, HEADER, [gpu(140)], DRAFT).draft_on == 0
        placed = place(config, HEADER, [gpu(4)], DRAFT)
        advice = r"or `slots`, or take a smaller `draft_model`$"
        with pytest.raises(EngineError, match=advice), explained(placed):
            raise EngineError("x")


class TestExplained:
    @pytest.mark.parametrize("kind", [ModelError, EngineError])
    def test_it_says_what_to_lower(self, kind: type[Exception]) -> None:
        placed = place(CONFIG, HEADER, [gpu(140)])
        with pytest.raises(kind) as caught, explained(placed):
            raise kind("no context")
        assert str(caught.value) == (
            "no context; 31 of 31 layers were to go to NVIDIA H200, which needs about "
            "3.2 of 140.0 GiB free; if that was too much, lower `n_gpu_layers`, `context` or "
            "`slots`"
        )

    def test_a_number_that_seems_too_large(self) -> None:
        placed = place(with_settings(n_gpu_layers=31), HEADER, [gpu(2)])
        with pytest.raises(EngineError, match=r"^x; 31 of .* NVIDIA H200; if"), explained(placed):
            raise EngineError("x")

    def test_without_offload_nothing_is_added(self) -> None:
        with pytest.raises(EngineError, match=r"^x$"), explained(Placement()):
            raise EngineError("x")


@pytest.mark.model
class TestHeader:
    def test_the_sizes_are_those_of_the_loaded_model(self, model_path: Path) -> None:
        header = read_header(model_path)
        model = Model(model_path)
        try:
            assert len(header.layer_bytes) == model.n_layer == 30
            assert header.n_vocab == model.n_vocab
            assert header.n_embd == model.n_embd
            assert (header.n_embd_k, header.n_embd_v) == (192, 192)  # 3 heads of 64
            norm = 4 * model.n_embd  # the output is the embedding, and a norm before it
            assert header.output_bytes == header.input_bytes + norm
            assert sum(header.layer_bytes) + header.output_bytes == header.all_bytes == model.size
            assert (header.n_context, header.n_embd_head) == (model.n_ctx_train, model.n_embd_head)
        finally:
            model.close()

    def test_no_gguf(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"not a model")
        for path in (broken, tmp_path / "none.gguf"):
            with pytest.raises(ModelError, match=f"{path} is no GGUF file"):
                read_header(path)


class TestLoading:
    def test_llama_cpp_knows_every_field_that_is_set(self) -> None:
        fields = {name for name, *_ in lib.llama_model_params._fields_}
        options = LoadOptions(only_gpu=1, tensor_split=(1.0,))
        assert set(vars(_model_params(options, True))) == set()
        assert {"n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "load_mode"} <= fields

    def test_one_device_alone(self) -> None:
        params = _model_params(LoadOptions(n_gpu_layers=7, only_gpu=2), True)
        assert (params.n_gpu_layers, params.split_mode, params.main_gpu) == (7, 0, 2)
        assert _model_params(LoadOptions(n_gpu_layers=7, only_gpu=2), False).n_gpu_layers == 0

    @pytest.mark.model
    @pytest.mark.parametrize("mmap", [True, False])
    def test_mapped_or_read(self, model_path: Path, tmp_path: Path, mmap: bool) -> None:
        copy = tmp_path / "copy.gguf"
        shutil.copyfile(model_path, copy)
        model = Model(copy, LoadOptions(mmap=mmap))
        try:
            maps = Path("/proc/self/maps")
            if maps.exists():
                assert (str(copy) in maps.read_text()) is mmap
            assert model.n_layer == 30
        finally:
            model.close()

    @pytest.mark.model
    def test_what_was_chosen_is_told(self, engine: LocalEngine, model_path: Path) -> None:
        model, placement = load_model(EngineConfig(str(model_path)))
        model.close()
        assert engine.info.offload.split(" (")[0] == placement.describe().split(" (")[0]

    @pytest.mark.model
    def test_numa_is_chosen_once_in_a_process(self, model_path: Path) -> None:
        code = f"""
from pathlib import Path
from typing import Any
from router.engine.llama import LoadOptions, Model
from router.errors import ModelError
for numa in ("distribute", "off", "distribute", "isolate"):
    try:
        Model(Path({str(model_path)!r}), LoadOptions(numa=numa)).close()
        print("loaded")
    except ModelError as error:
        print(error)
"""
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        *loaded, refused = result.stdout.splitlines()
        assert loaded == ["loaded"] * 3
        assert refused.startswith("numa = isolate, but this process already places its threads by")
        assert "already initialized" not in result.stderr
