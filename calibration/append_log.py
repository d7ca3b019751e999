"""A JSON Lines file that survives interruptions.

A header says what the entries were made with, then follows one entry a line. Lines are only ever
appended. A process that dies while writing leaves a torn last line; the next one drops it and goes
on, so that nothing finished is lost or made twice.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from calibration.errors import DataError

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")


class AppendLog(Generic[T]):
    """The append-only file of one kind of entries.

    Parameters
    ----------
    path : the file; it and its folder are made when missing.
    kind : what the file is, such as ``record_log``; the header's first key.
    version : of the entries' format.
    binding : what the entries are made with, JSON-ready.
    parse : makes an entry of a line's object; KeyError, TypeError or ValueError mean damage.
    fresh : start over; whatever the file held is gone.

    Attributes
    ----------
    loaded : the entries that the file held when it was opened.

    Raises
    ------
    DataError
        The file was made with another binding (the message names what differs), is of another kind,
        is damaged before its last line, is in use by another process, or can't be written.

    Notes
    -----
    Appending flushes, so a killed process loses nothing; after a power cut the last lines may be
    missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str,
        version: int,
        binding: Mapping[str, Any],
        parse: Callable[[dict[str, Any]], T],
        fresh: bool = False,
    ) -> None:
        self.path = Path(path)
        self.binding: Mapping[str, Any] = json.loads(json.dumps(binding))
        self.loaded: list[T] = []
        self._kind = kind
        self._version = version
        self._parse = parse
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(f"can't open {self.path}: {error.strerror}") from error
        try:
            self._lock()
            self._load(fresh)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one entry. Raises DataError when the disk refuses; the file is then as before."""
        data = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(end)
            raise DataError(f"can't write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        self._file.close()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{self.path} is in use by another process; wait for it, or choose another folder"
            ) from None

    def _load(self, fresh: bool) -> None:
        self._file.seek(0)
        content = self._file.read()
        if self._is_foreign(content):
            name = self._kind.replace("_", " ")
            raise DataError(f"{self.path} is no {name}; choose another folder")
        lines = [] if fresh else content.split(b"\n")[:-1]  # what follows the last \n is torn
        if lines and _object(lines[-1]) is None:  # complete but unreadable: torn by a power cut
            lines.pop()
        if lines:
            self._check_header(lines[0])
        for number, line in enumerate(lines[1:], start=2):
            self.loaded.append(self._entry(line, number))
        self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self.append({self._kind: self._version, "binding": self.binding})

    def _entry(self, line: bytes, number: int) -> T:
        row = _object(line)
        try:
            if row is None:
                raise ValueError("no JSON object")
            return self._parse(row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}, line {number}: damaged; remove the line or start over (--fresh)"
            ) from error

    def _is_foreign(self, content: bytes) -> bool:
        """Whether a file can't be of this kind, nor the torn beginning of one."""
        start = f'{{"{self._kind}":'.encode()
        return content[: len(start)] != start[: len(content)]

    def _check_header(self, line: bytes) -> None:
        header = _object(line) or {}
        if header.get(self._kind) != self._version:
            raise DataError(
                f"{self.path} has format {header.get(self._kind)!r}, this version reads "
                f"{self._version}; start over (--fresh) or choose another folder"
            )
        made = header.get("binding", {})
        differences = [
            f"{name} was {made.get(name)!r} and is {self.binding.get(name)!r}"
            for name in sorted({*made, *self.binding})
            if made.get(name) != self.binding.get(name)
        ]
        if differences:
            raise DataError(
                f"{self.path} holds answers made with something else: {'; '.join(differences)}. "
                "Start over (--fresh), or choose another folder"
            )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # not JSON, or not text
        return None
    return row if isinstance(row, dict) else None
