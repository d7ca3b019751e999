"""The memory that a context takes, against what llama.cpp says that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.engine.context import KVTypes
from router.engine.kv_memory import (
    MOST_TOKENS,
    Needs,
    available_memory,
    check_count,
    check_memory,
    kv_bytes,
    kv_bytes_per_token,
)
from router.engine.llama import Model
from router.errors import EngineError

GIB = 2**30
MIXED = KVTypes("q8_0", "f16")


class Told:
    """A model of which only the metadata are known."""

    def __init__(self, n_layer: int, n_embd: int, **meta: str) -> None:
        self.n_layer = n_layer
        self.n_embd = n_embd
        self._meta = {
            "general.architecture": "x",
            **{f"x.attention.{k}": v for k, v in meta.items()},
        }

    def meta(self, key: str) -> str | None:
        return self._meta.get(key)


SMALL = Told(30, 576, head_count="9", head_count_kv="3")  # as SmolLM2-135M


def test_it_is_what_llama_cpp_allocates() -> None:
    # "failed to allocate CPU buffer of size 1183800360960", it said for this many tokens.
    assert kv_bytes(SMALL, 2**23, 8, MIXED) == 1183800360960
    assert kv_bytes_per_token(SMALL, MIXED) == 30 * 3 * 64 * 34 // 32 + 30 * 3 * 64 * 2


def test_each_sequence_is_rounded_up() -> None:
    assert kv_bytes(SMALL, 1, 2, MIXED) == kv_bytes(SMALL, 256, 2, MIXED)
    assert kv_bytes(SMALL, 257, 1, MIXED) == kv_bytes(SMALL, 512, 1, MIXED)


def test_types_by_hand() -> None:
    one = Told(1, 32, head_count="1")
    sizes = {"f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22}
    for name, size in {**sizes, "q4_1": 20, "q4_0": 18}.items():
        assert kv_bytes_per_token(one, KVTypes(name, name)) == 2 * size


def test_stated_widths_and_layers_of_different_kinds() -> None:
    f16 = KVTypes("f16", "f16")
    stated = Told(2, 64, head_count="4", head_count_kv="2", key_length="32", value_length="8")
    assert kv_bytes_per_token(stated, f16) == 2 * 2 * (32 + 8) * 2
    mixed = Told(4, 64, head_count="[4, 4, 4, 4]", head_count_kv="[0, 2, 0, 1]")
    assert kv_bytes_per_token(mixed, f16) == 3 * (16 + 16) * 2


def needs(context: int, **draft: int) -> Needs:
    return Needs(kv_bytes(SMALL, context, 8, MIXED), **draft)


def test_what_fits_passes() -> None:
    check_count(2048, 8)
    check_memory(2048, 8, needs(2048), available=GIB)
    check_memory(2**20, 8, needs(2**20), available=None)
    check_memory(2**20, 8, Needs(), available=0)  # all of it is on an accelerator


@pytest.mark.parametrize(("context", "slots"), [(0, 1), (-5, 1), (2048, 0)])
def test_nothing_is_no_context(context: int, slots: int) -> None:
    with pytest.raises(EngineError, match=f"`context` is {context} and `slots` is {slots}"):
        check_count(context, slots)


@pytest.mark.parametrize(("context", "slots"), [(2**30, 8), (2**32 + 256, 1), (MOST_TOKENS + 1, 1)])
def test_more_tokens_than_llama_cpp_counts(context: int, slots: int) -> None:
    with pytest.raises(EngineError, match=r"can count; lower `context` or `slots`"):
        check_count(context, slots)


def test_more_than_there_is_tells_what_would_fit() -> None:
    with pytest.raises(EngineError, match=r"need 2\.2 GiB .* 1\.0 GiB are free.*to 758\d tokens"):
        check_memory(2**14, 8, needs(2**14), available=GIB)
    with pytest.raises(EngineError, match=r"lower `context` or `slots`$"):
        check_memory(2**14, 8, needs(2**14), available=2**20)


class TestADraftModel:
    def test_counts(self) -> None:
        own = needs(2048)
        check_memory(2048, 8, own, available=GIB)
        for draft in ({"draft_weights": GIB}, {"draft_cache": GIB}):
            with pytest.raises(EngineError):
                check_memory(2048, 8, needs(2048, **draft), available=GIB)

    def test_the_error_tells_what_takes_how_much(self) -> None:
        with pytest.raises(EngineError) as caught:
            check_memory(2048, 8, Needs(GIB, GIB // 2, GIB // 4), available=GIB)
        assert str(caught.value) == (
            "8 slots of 2048 tokens need 1.8 GiB of memory (1.0 GiB for keys and values, 0.5 GiB "
            "for the draft model's weights and 0.2 GiB for its keys and values), and 1.0 GiB are "
            "free; lower `context` or `slots`, to 818 tokens for example; or take a smaller "
            "`draft_model`, or `speculative` = lookup"
        )

    def test_what_is_proposed_fits(self) -> None:
        check_memory(818, 8, Needs(GIB * 818 // 2048, GIB // 2, GIB // 4 * 818 // 2048), GIB)

    def test_beside_a_model_on_an_accelerator(self) -> None:
        with pytest.raises(EngineError, match=r"1\.5 GiB of memory \(1\.0 GiB for the draft"):
            check_memory(2048, 8, Needs(0, GIB, GIB // 2), available=GIB)


class TestAvailable:
    def test_here(self) -> None:
        found = available_memory()
        assert found is None or found > 0

    def test_a_system_that_does_not_tell(self, tmp_path: Path) -> None:
        assert available_memory(tmp_path) is None

    def test_the_machines(self, tmp_path: Path) -> None:
        self.machine(tmp_path)
        assert available_memory(tmp_path) == 900 * 1024

    @pytest.mark.parametrize(
        ("folder", "limit", "used"),
        [
            ("sys/fs/cgroup", "memory.max", "memory.current"),
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ],
    )
    def test_a_control_groups_limit(
        self, tmp_path: Path, folder: str, limit: str, used: str
    ) -> None:
        self.machine(tmp_path)
        group = tmp_path / folder
        group.mkdir(parents=True)
        (group / limit).write_text("5000\n")
        (group / used).write_text("4000\n")
        assert available_memory(tmp_path) == 1000
        (group / "memory.stat").write_text("anon 3000\nactive_file 300\ninactive_file 200\n")
        assert available_memory(tmp_path) == 1500
        (group / used).write_text("9000\n")
        assert available_memory(tmp_path) == 0

    def test_no_limit(self, tmp_path: Path) -> None:
        self.machine(tmp_path)
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text("max\n")
        (group / "memory.current").write_text("4000\n")
        assert available_memory(tmp_path) == 900 * 1024

    @staticmethod
    def machine(root: Path) -> None:
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(
            "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     900 kB\n"
        )


def test_the_real_model_tells_what_is_needed(model_path: Path) -> None:
    model = Model(model_path)
    try:
        assert kv_bytes(model, 2**23, 8, MIXED) == kv_bytes(SMALL, 2**23, 8, MIXED)
    finally:
        model.close()
