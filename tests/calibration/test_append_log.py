"""A JSON Lines file that survives interruptions."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from calibration.append_log import AppendLog
from calibration.errors import DataError


def open_log(path: Path, *, fresh: bool = False, **binding: Any) -> AppendLog[int]:
    return AppendLog(
        path,
        kind="number_log",
        version=1,
        binding=binding or {"made_by": "us"},
        parse=lambda row: int(row["n"]),
        fresh=fresh,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "numbers.jsonl"


@pytest.fixture
def written(path: Path) -> bytes:
    with open_log(path) as log:
        log.append({"n": 1, "text": 'é\n"\u2028\ud800'})  # half a surrogate pair passes JSON
        log.append({"n": 2})
    return path.read_bytes()


def test_it_gives_back_what_was_appended_and_only_grows(path: Path, written: bytes) -> None:
    with open_log(path) as log:
        assert log.loaded == [1, 2]
        log.append({"n": 3})
        assert path.read_bytes() == written + b'{"n":3}\n'
        log.close()


def test_fresh_starts_over(path: Path, written: bytes) -> None:
    assert written
    with open_log(path, fresh=True, made_by="them") as log:
        assert log.loaded == []
    with open_log(path, made_by="them") as log:
        assert log.loaded == []


def test_another_binding_is_refused_by_name(path: Path, written: bytes) -> None:
    with pytest.raises(DataError, match=r"made_by was 'us' and is 'them'.*--fresh"):
        open_log(path, made_by="them")
    with pytest.raises(DataError, match="size was None and is 5"):
        open_log(path, made_by="us", size=5)
    assert path.read_bytes() == written


def test_cut_anywhere_it_goes_on(path: Path, written: bytes) -> None:
    lines = written.splitlines(keepends=True)
    for cut in range(len(written) + 1):
        path.write_bytes(written[:cut])
        whole = max(written[:cut].count(b"\n") - 1, 0)
        with open_log(path) as log:
            assert log.loaded == [1, 2][:whole], cut
        assert path.read_bytes() == b"".join(lines[: whole + 1]), cut


@pytest.mark.parametrize("garbage", [b"\0\0\0\n", b'{"n": \n', b"\xff\n", b"7\n"])
def test_a_last_line_torn_by_a_power_cut_is_dropped(
    path: Path, written: bytes, garbage: bytes
) -> None:
    path.write_bytes(written + garbage)
    with open_log(path) as log:
        assert log.loaded == [1, 2]
    assert path.read_bytes() == written


@pytest.mark.parametrize("row", [b"garbage", b"{}", b'{"n": "x"}', b'{"n": null}', b"[1]"])
def test_damage_before_the_last_line_is_named(path: Path, written: bytes, row: bytes) -> None:
    header, first, second = written.splitlines()
    path.write_bytes(b"\n".join([header, first, row, second, b""]))
    with pytest.raises(DataError, match=r"numbers\.jsonl, line 3: damaged.*--fresh"):
        open_log(path)


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b'{"record_log":1}\n', b"\n", b"[]\n"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_of_another_kind_is_left_alone(path: Path, content: bytes, fresh: bool) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match="is no number log"):
        open_log(path, fresh=fresh)
    assert path.read_bytes() == content


def test_another_format_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"number_log":99,"binding":{}}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has format 99, this version reads 1"):
        open_log(path)


def test_a_place_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't open"):
        open_log(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="can't open"):
        open_log(tmp_path / "file" / "numbers.jsonl")


def test_two_at_once_are_refused(path: Path) -> None:
    with open_log(path), pytest.raises(DataError, match="in use by another process"):
        open_log(path)


def test_a_full_disk_leaves_whole_entries(path: Path, written: bytes) -> None:
    with open_log(path) as log:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(written) + 3, limits[1]))
        try:
            with pytest.raises(DataError, match="can't write"):
                log.append({"n": 3})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == written
        log.append({"n": 3})
    with open_log(path) as log:
        assert log.loaded == [1, 2, 3]
