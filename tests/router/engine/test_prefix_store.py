"""Prefixes on disk: found by their tenant, refused when damaged, and as good as read anew."""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.context import BatchEntry, Context, FloatRow
from router.engine.llama import Model
from router.engine.messages import EngineInfo
from router.engine.prefix_store import PrefixStore, PrefixUnreadable, engine_binding
from router.errors import ConfigError, EngineError

BINDING = {"model_sha256": "abc", "n_layer": "30"}
STATE = bytes(range(256))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def store(folder: Path) -> PrefixStore:
    return PrefixStore(folder, binding=BINDING)


def reopened(folder: Path, **changes: str) -> PrefixStore:
    return PrefixStore(folder, binding=BINDING | changes)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def found(store: PrefixStore, tenant: str, prompt: Sequence[int]) -> tuple[int, ...] | None:
    prefix = store.find(tenant, prompt)
    return prefix.tokens if prefix else None


def test_what_was_saved_is_found_now_and_after_a_restart(folder: Path, store: PrefixStore) -> None:
    store.save("t", [1, 2, 3], STATE)
    for each in (store, reopened(folder)):
        prefix = each.find("t", [1, 2, 3, 4])
        assert prefix is not None
        assert prefix.tokens == (1, 2, 3)
        assert prefix.read() == STATE


@given(
    stored=st.lists(st.lists(st.integers(0, 1), max_size=5), max_size=12),
    prompt=st.lists(st.integers(0, 1), max_size=8),
)
def test_find_gives_the_longest_stored_beginning(
    stored: list[list[int]], prompt: list[int]
) -> None:
    beginnings = [tuple(s) for s in stored if s and s == prompt[: len(s)]]
    with tempfile.TemporaryDirectory() as place:
        store = PrefixStore(Path(place), binding=BINDING)
        for tokens in stored:
            store.save("t", tokens, b"state")
        assert found(store, "t", prompt) == max(beginnings, key=len, default=None)
        assert found(reopened(Path(place)), "t", prompt) == found(store, "t", prompt)


def test_another_tenants_prefix_is_never_found(store: PrefixStore) -> None:
    store.save("ann", [1, 2], b"ann's")
    store.save("bob", [1, 2, 3], b"bob's")
    ann = store.find("ann", [1, 2, 3, 4])
    assert ann is not None
    assert (ann.tokens, ann.read()) == ((1, 2), b"ann's")
    assert store.find("", [1, 2, 3, 4]) is None


def test_a_tenants_name_is_not_written_down(folder: Path, store: PrefixStore) -> None:
    store.save("very-secret-name", [1], STATE)
    path = only_file(folder)
    assert b"very-secret" not in path.read_bytes()
    assert "very-secret" not in path.name


def test_folder_and_files_are_open_to_their_owner_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        PrefixStore(folder, binding=BINDING).save("t", [1], STATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match=f"chmod 700 {folder}"):
        PrefixStore(folder, binding=BINDING)


def test_a_folder_that_can_not_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "prefixes"
    with pytest.raises(ConfigError, match=f"`prefix_folder` {folder}"):
        PrefixStore(folder, binding=BINDING)


def test_the_same_prefix_is_not_written_twice(folder: Path, store: PrefixStore) -> None:
    store.save("t", [1, 2], STATE)
    inode = only_file(folder).stat().st_ino
    store.save("t", (1, 2), b"computed once more")
    other = reopened(folder)
    other.save("t", np.array([1, 2]).tolist(), b"and by another process")
    assert only_file(folder).stat().st_ino == inode


def test_what_another_process_has_stored_counts_as_saved(folder: Path, store: PrefixStore) -> None:
    other = reopened(folder)
    other.save("t", [1, 2], STATE)
    assert store.find("t", [1, 2]) is None
    store.save("t", [1, 2], STATE)
    assert found(store, "t", [1, 2]) == (1, 2)


def test_no_tokens_are_not_kept(folder: Path, store: PrefixStore) -> None:
    store.save("t", [], STATE)
    assert list(folder.iterdir()) == []
    assert store.find("t", []) is None


def test_a_prefix_longer_than_the_prompt_is_not_found(store: PrefixStore) -> None:
    store.save("t", [1, 2, 3], STATE)
    assert store.find("t", [1, 2]) is None
    assert found(store, "t", [1, 2, 3]) == (1, 2, 3)


@pytest.mark.parametrize("changed", [{"model_sha256": "def"}, {"n_layer": "24"}, {"more": "x"}])
def test_files_of_another_binding_are_left_alone(folder: Path, changed: dict[str, str]) -> None:
    reopened(folder).save("t", [1, 2], STATE)
    other = reopened(folder, **changed)
    assert other.find("t", [1, 2]) is None
    other.save("t", [1, 2], b"other")
    assert len(list(folder.iterdir())) == 2
    ours = reopened(folder).find("t", [1, 2])
    assert ours is not None
    assert ours.read() == STATE


def test_files_of_another_format_and_foreign_files_are_left_alone(
    folder: Path, store: PrefixStore
) -> None:
    store.save("t", [1], STATE)
    (folder / "later.kv").write_bytes(b'{"format": 2, "whatever": 1}\nmore')
    (folder / "notes.txt").write_text("mine")
    reopened(folder)
    assert len(list(folder.iterdir())) == 3


def test_a_vanished_file_is_a_miss_and_the_next_longest_is_found(
    folder: Path, store: PrefixStore
) -> None:
    store.save("t", [1], STATE)
    short = only_file(folder)
    store.save("t", [1, 2], STATE)
    (longer,) = set(folder.iterdir()) - {short}
    longer.unlink()
    assert found(store, "t", [1, 2, 3]) == (1,)


def test_a_file_that_vanishes_between_finding_and_reading_is_reported(
    folder: Path, store: PrefixStore
) -> None:
    store.save("t", [1], STATE)
    prefix = store.find("t", [1])
    assert prefix is not None
    only_file(folder).unlink()
    with pytest.raises(PrefixUnreadable, match="can't be read"):
        prefix.read()
    assert store.find("t", [1]) is None


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def alter_tokens(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"tokens":[1,2]', b'"tokens":[1,3]'))


def alter_tenant(path: Path) -> None:
    line, _, state = path.read_bytes().partition(b"\n")
    fields = json.loads(line) | {"tenant": "0" * 64}
    path.write_bytes(json.dumps(fields).encode() + b"\n" + state)


def leave_out_a_field(path: Path) -> None:
    line, _, state = path.read_bytes().partition(b"\n")
    fields = json.loads(line)
    del fields["state_sha256"]
    path.write_bytes(json.dumps(fields).encode() + b"\n" + state)


def change_a_fields_type(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"tokens":[1,2]', b'"tokens":"12"'))


def be_no_json(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY" * 100)


def be_no_object(path: Path) -> None:
    path.write_bytes(b"[1]\nstate")


DAMAGES = [
    truncate,
    lengthen,
    empty,
    alter_tokens,
    alter_tenant,
    leave_out_a_field,
    change_a_fields_type,
    be_no_json,
    be_no_object,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_removed_with_a_warning_at_the_next_start(
    folder: Path,
    store: PrefixStore,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.save("t", [1, 2], STATE)
    path = only_file(folder)
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = reopened(folder)
    assert str(path) in caplog.text
    assert not path.exists()
    assert found(again, "t", [1, 2]) is None
    assert found(again, "t", [1, 3]) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_damaged_since_the_start_is_refused_and_removed(
    folder: Path, store: PrefixStore, damage: Callable[[Path], None]
) -> None:
    store.save("t", [1, 2], STATE)
    prefix = store.find("t", [1, 2])
    assert prefix is not None
    damage(only_file(folder))
    with pytest.raises(PrefixUnreadable, match="damaged"):
        prefix.read()
    assert list(folder.iterdir()) == []
    assert store.find("t", [1, 2]) is None


def test_one_altered_bit_of_the_state_is_noticed(folder: Path, store: PrefixStore) -> None:
    store.save("t", [1, 2], STATE)
    path = only_file(folder)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    prefix = reopened(folder).find("t", [1, 2])
    assert prefix is not None
    with pytest.raises(PrefixUnreadable, match="hash"):
        prefix.read()
    assert not path.exists()


def test_a_state_that_the_engine_refuses_can_be_removed(folder: Path, store: PrefixStore) -> None:
    store.save("t", [1], STATE)
    prefix = store.find("t", [1])
    assert prefix is not None
    prefix.remove()
    assert list(folder.iterdir()) == []
    assert store.find("t", [1]) is None


def test_least_recently_used_files_go_first(folder: Path) -> None:
    state = bytes(10_000)
    store = PrefixStore(folder, binding=BINDING, max_bytes=35_000)
    for age, token in ((3, 1), (2, 2), (1, 3)):
        before = set(folder.iterdir())
        store.save("t", [token], state)
        (path,) = set(folder.iterdir()) - before
        os.utime(path, (1e9 - age, 1e9 - age))
    oldest = store.find("t", [1])
    assert oldest is not None
    oldest.read()
    store.save("u", [4], state)
    kept = [token for token in (1, 2, 3) if found(store, "t", [token])]
    assert kept == [1, 3]
    assert found(store, "u", [4]) == (4,)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 35_000


def test_a_lower_bound_holds_from_the_start_and_for_all_bindings(folder: Path) -> None:
    reopened(folder, model_sha256="old").save("t", [1], bytes(10_000))
    os.utime(only_file(folder), (1e9, 1e9))
    reopened(folder).save("t", [2], bytes(10_000))
    store = PrefixStore(folder, binding=BINDING, max_bytes=15_000)
    only_file(folder)
    assert found(store, "t", [2]) == (2,)


def test_more_than_the_bound_is_not_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore(folder, binding=BINDING, max_bytes=1000)
    store.save("t", [1], b"x")
    store.save("t", [1, 2], bytes(1000))
    assert "1000 bytes are the most" in caplog.text
    assert found(store, "t", [1, 2]) == (1,)


def test_a_failed_write_is_reported_and_leaves_nothing(
    folder: Path, store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=f"{folder}.*no space left"):
        store.save("t", [1], STATE)
    assert list(folder.iterdir()) == []
    assert store.find("t", [1]) is None


def test_what_a_crash_left_unfinished_is_removed_once_it_is_old(folder: Path) -> None:
    PrefixStore(folder, binding=BINDING)
    old, fresh = folder / "old.unfinished", folder / "fresh.unfinished"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (1e9, 1e9))
    PrefixStore(folder, binding=BINDING)
    assert only_file(folder) == fresh


# With the real model


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    model = Model(model_path)
    yield model
    model.close()


def small_context(model: Model, n_seq: int = 2) -> Context:
    return Context(model, n_context=256, n_seq=n_seq, n_batch=64, n_threads=1)


def last_logits(context: Context, seq: int, tokens: Sequence[int], start: int) -> FloatRow:
    context.decode([BatchEntry(seq, tokens, start, True)])
    return context.logits(len(tokens) - 1).copy()


def test_going_on_from_a_loaded_state_is_going_on_from_the_prompt(
    model: Model, folder: Path
) -> None:
    text = "You answer like a librarian who has read it all and forgotten none of it. " * 5
    prefix = model.tokenize(text, add_special=False, parse_special=False)[:60]
    question = model.tokenize(
        "What is the capital of Peru?", add_special=False, parse_special=False
    )
    with small_context(model) as first:
        first.decode([BatchEntry(0, prefix, 0, False)])
        PrefixStore(folder, binding=BINDING).save("t", prefix, first.save(0))
        token = int(last_logits(first, 0, question, 60).argmax())
        expected = last_logits(first, 0, [token], 60 + len(question))

    found = reopened(folder).find("t", [*prefix, *question])
    assert found is not None
    assert found.tokens == tuple(prefix)
    with small_context(model) as second:
        second.decode([BatchEntry(0, question, 0, False), BatchEntry(1, question, 0, False)])
        second.load(1, found.read())
        assert int(last_logits(second, 1, question, 60).argmax()) == token
        np.testing.assert_array_equal(last_logits(second, 1, [token], 60 + len(question)), expected)


def test_llama_cpp_refuses_what_does_not_fit_and_the_sequence_is_empty(model: Model) -> None:
    with small_context(model) as context, small_context(model, n_seq=3) as wider:
        context.decode([BatchEntry(0, [1, 2, 3], 0, False)])
        state = context.save(0)
        expected = last_logits(context, 1, [5], 0)
        for broken in (state[:-50], state[:30], b"", state + b"x"):
            context.load(1, state)
            with pytest.raises(EngineError, match="can't load a state"):
                context.load(1, broken)
            np.testing.assert_array_equal(last_logits(context, 1, [5], 0), expected)
        with pytest.raises(EngineError, match="n_stream mismatch"):
            wider.load(1, state)


def test_the_binding_tells_every_geometry_of_a_context_apart(model: Model, folder: Path) -> None:
    def binding(
        n_layer: int = 30, n_embd: int = 576, n_slots: int = 2, v: str = "f16"
    ) -> dict[str, str]:
        info = EngineInfo(
            model_path="m.gguf",
            model_sha256="abc",
            model_name="m",
            architecture="llama",
            quantisation="Q4_1",
            template_sha256="def",
            n_vocab=model.n_vocab,
            n_layer=n_layer,
            n_context=256,
            n_slots=n_slots,
            n_threads=1,
            build="llama.cpp b1",
            offload="cpu",
        )
        return engine_binding(info, n_embd=n_embd, kv_type_k="q8_0", kv_type_v=v, flash_attn="on")

    with small_context(model) as context:
        context.decode([BatchEntry(0, [1, 2, 3], 0, False)])
        PrefixStore(folder, binding=binding()).save("t", [1, 2, 3], context.save(0))
    assert found(PrefixStore(folder, binding=binding()), "t", [1, 2, 3]) == (1, 2, 3)
    for other in (binding(n_layer=24), binding(n_embd=896), binding(n_slots=3), binding(v="q8_0")):
        assert PrefixStore(folder, binding=other).find("t", [1, 2, 3]) is None
