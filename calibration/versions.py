"""The calibration before the one in a folder, kept in ``previous`` below it.

One generation is kept. `Calibration.save` puts it there before it writes, and `rollback` swaps the
two, so that a second rollback undoes the first. Whatever interrupts either, at least one of the two
places holds a whole calibration; `rollback` brings that of ``previous`` back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from calibration.artifact import FILE_NAME, PROBE_FILE_NAME, Calibration
from calibration.errors import ArtifactError

PREVIOUS = "previous"
"""Name of the folder, inside a calibration's own, that holds the one before it."""


def keep(folder: str | os.PathLike[str], successor: Calibration) -> None:
    """Keep the calibration in `folder` as the previous one, for `successor` takes its place.

    The one that was kept until now goes. Nothing happens where there is none, where it is the
    successor itself, and where it can't be loaded: then the one kept until now is worth more.
    """
    folder = Path(folder)
    try:
        current = Calibration.load(folder)
    except ArtifactError:
        return
    if current.id != successor.id:
        with _copied(folder) as copy:
            _replace_previous(folder, copy)


def previous(folder: str | os.PathLike[str]) -> Calibration:
    """Return the calibration kept before the one in `folder`.

    Raises
    ------
    ArtifactError
        When none was kept, or the one kept can't be used.
    """
    kept = Path(folder) / PREVIOUS
    if not (kept / FILE_NAME).exists():
        raise ArtifactError(
            f"there is no earlier calibration in {folder}: one is kept in {kept} when another is "
            "saved over it, by `router calibrate` or `router recalibrate`"
        )
    return Calibration.load(kept)


def rollback(folder: str | os.PathLike[str]) -> Calibration:
    """Swap the calibration in `folder` with the one before it; return the one now in `folder`.

    What is in `folder` need not be loadable, the one before must be.

    Raises
    ------
    ArtifactError
        When none was kept, or the one kept can't be used. Nothing has changed then.
    """
    folder = Path(folder)
    back = previous(folder)
    with _copied(folder) as copy:
        # First into use, then out of keeping: until the end, what goes into use is also kept.
        _put(folder / PREVIOUS, folder)
        if (copy / FILE_NAME).exists():
            _replace_previous(folder, copy)
    return back


@contextlib.contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    """A copy of the calibration's files in a passing folder beside them, which may be moved."""
    staging = Path(tempfile.mkdtemp(prefix=".previous-", dir=folder))
    try:
        copy = staging / "copy"
        copy.mkdir()
        _put(folder, copy)
        yield copy
    finally:
        shutil.rmtree(staging)


def _replace_previous(folder: Path, copy: Path) -> None:
    kept, aside = folder / PREVIOUS, copy.with_name("replaced")
    if kept.exists():  # renaming does not replace a folder that holds something
        kept.rename(aside)
    try:
        copy.rename(kept)
    except OSError:
        if aside.exists():
            aside.rename(kept)
        raise


def _put(source: Path, target: Path) -> None:
    """Make `target` hold the calibration files of `source`, in the order that `save` writes in."""
    for name in (PROBE_FILE_NAME, FILE_NAME):
        if (source / name).exists():
            _copy(source / name, target / name)
    if not (source / PROBE_FILE_NAME).exists():
        (target / PROBE_FILE_NAME).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy one file; a reader of `target` sees the old content or the new one, never half."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(source.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
