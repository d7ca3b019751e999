"""The calibration before: kept by saving, brought back by `rollback`, whatever interrupts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from calibration.artifact import FILE_NAME, PROBE_FILE_NAME, Calibration
from calibration.errors import ArtifactError
from calibration.versions import PREVIOUS, keep, rollback
from tests.calibration.test_artifact import CALIBRATION, PROBED

PLAIN = CALIBRATION
OTHER = replace(CALIBRATION, seed=7)
_PROBES = {name: replace(probe, slope=0.5) for name, probe in PROBED.learned.probes.items()}
PROBED_ANEW = replace(PROBED, learned=replace(PROBED.learned, probes=_PROBES))

PAIRS = pytest.mark.parametrize(
    ("old", "new"),
    [(PLAIN, OTHER), (PLAIN, PROBED), (PROBED, PLAIN), (PROBED, PROBED_ANEW)],
    ids=["neither", "new one with probes", "old one with probes", "both with probes"],
)


def ids(folder: Path) -> tuple[str, str]:
    return Calibration.load(folder).id, Calibration.load(folder / PREVIOUS).id


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestSaving:
    @PAIRS
    def test_keeps_the_one_that_was_there(
        self, old: Calibration, new: Calibration, tmp_path: Path
    ) -> None:
        old.save(tmp_path)
        assert not (tmp_path / PREVIOUS).exists()
        new.save(tmp_path)
        assert ids(tmp_path) == (new.id, old.id)
        assert names(tmp_path) <= {FILE_NAME, PROBE_FILE_NAME, PREVIOUS}

    def test_keeps_one_generation(self, tmp_path: Path) -> None:
        for calibration in (PROBED, PLAIN, OTHER):
            calibration.save(tmp_path)
        assert ids(tmp_path) == (OTHER.id, PLAIN.id)
        assert names(tmp_path / PREVIOUS) == {FILE_NAME}

    def test_the_same_one_again_changes_nothing(self, tmp_path: Path) -> None:
        PLAIN.save(tmp_path)
        PROBED.save(tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        PROBED.save(tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("name", [FILE_NAME, PROBE_FILE_NAME])
    def test_one_that_is_broken_is_not_kept(self, name: str, tmp_path: Path) -> None:
        PLAIN.save(tmp_path)
        PROBED.save(tmp_path)
        (tmp_path / name).write_bytes(b"{")
        OTHER.save(tmp_path)
        assert ids(tmp_path) == (OTHER.id, PLAIN.id)

    def test_other_files_in_the_folder_stay_where_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "records.jsonl").write_text("{}\n")
        PLAIN.save(tmp_path)
        OTHER.save(tmp_path)
        assert names(tmp_path) == {FILE_NAME, PREVIOUS, "records.jsonl"}
        assert names(tmp_path / PREVIOUS) == {FILE_NAME}


class TestRollback:
    @PAIRS
    def test_swaps_and_a_second_one_undoes_it(
        self, old: Calibration, new: Calibration, tmp_path: Path
    ) -> None:
        old.save(tmp_path)
        new.save(tmp_path)
        assert rollback(tmp_path).id == old.id
        assert ids(tmp_path) == (old.id, new.id)
        assert rollback(tmp_path).id == new.id
        assert ids(tmp_path) == (new.id, old.id)
        assert names(tmp_path) <= {FILE_NAME, PROBE_FILE_NAME, PREVIOUS}

    @pytest.mark.parametrize("saved", [False, True])
    def test_without_an_earlier_one(self, saved: bool, tmp_path: Path) -> None:
        if saved:
            PLAIN.save(tmp_path)
        with pytest.raises(ArtifactError, match=r"no earlier calibration in .* one is kept"):
            rollback(tmp_path)

    def test_an_earlier_one_that_is_broken_changes_nothing(self, tmp_path: Path) -> None:
        PLAIN.save(tmp_path)
        OTHER.save(tmp_path)
        (tmp_path / PREVIOUS / FILE_NAME).write_text("{")
        with pytest.raises(ArtifactError, match=r"previous/calibration\.json is not valid JSON"):
            rollback(tmp_path)
        assert Calibration.load(tmp_path).id == OTHER.id

    def test_replaces_one_that_is_gone(self, tmp_path: Path) -> None:
        PLAIN.save(tmp_path)
        OTHER.save(tmp_path)
        (tmp_path / FILE_NAME).unlink()
        rollback(tmp_path)
        assert ids(tmp_path) == (PLAIN.id, PLAIN.id)


class CrashError(Exception):
    """The process died here."""


class Crashes:
    """Lets the first `n` replacements, removals and moves of files happen; the next one crashes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.left = n
        for name in ("replace", "rename", "unlink"):
            monkeypatch.setattr(Path, name, self._limited(getattr(Path, name)))

    def _limited(self, real: Callable[..., object]) -> Callable[..., object]:
        def limited(path: Path, *args: object, **options: object) -> object:
            if path.name.endswith(".tmp") and not args:  # cleaning up after the crash
                return real(path, *args, **options)
            if self.left == 0:
                raise CrashError
            self.left -= 1
            return real(path, *args, **options)

        return limited


def interrupted(monkeypatch: pytest.MonkeyPatch, n: int, act: Callable[[], object]) -> bool:
    """Whether `act` crashed after `n` steps."""
    with monkeypatch.context() as patched:
        Crashes(patched, n)
        try:
            act()
        except CrashError:
            return True
    return False


def what_is_wrong(folder: Path) -> str:
    try:
        Calibration.load(folder)
    except ArtifactError as error:
        return str(error)
    return ""


@PAIRS
def test_a_crash_while_saving_leaves_what_can_be_loaded_or_rolled_back(
    old: Calibration, new: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, mended = 0, 0
    while True:
        folder = tmp_path / str(steps)
        old.save(folder)
        if not interrupted(monkeypatch, steps, partial(new.save, folder)):
            break
        wrong = what_is_wrong(folder)
        if wrong:
            assert "go back to the calibration before with `router calibration rollback`" in wrong
            assert rollback(folder).id == old.id
            mended += 1
        assert Calibration.load(folder).id in (old.id, new.id)
        steps += 1
    assert steps >= 1
    assert mended == (0 if old is PLAIN and new is OTHER else 1)
    assert Calibration.load(folder).id == new.id


@PAIRS
def test_a_crash_while_rolling_back_is_mended_by_rolling_back(
    old: Calibration, new: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        old.save(folder)
        new.save(folder)
        if not interrupted(monkeypatch, steps, partial(rollback, folder)):
            break
        if what_is_wrong(folder):
            assert rollback(folder).id == old.id
        assert Calibration.load(folder).id in (old.id, new.id)
        steps += 1
    assert steps >= 2
    assert ids(folder) == (old.id, new.id)


def test_what_was_kept_stays_when_its_successor_can_not_be_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLAIN.save(tmp_path)
    OTHER.save(tmp_path)
    real = Path.rename

    def refuses(path: Path, target: Path) -> Path:
        if path.name == "copy":
            raise OSError("no space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(OSError, match="no space left"):
        keep(tmp_path, PROBED)
    assert ids(tmp_path) == (OTHER.id, PLAIN.id)
    assert names(tmp_path) == {FILE_NAME, PREVIOUS}
