"""Graded answers, and the file in which they survive an interruption.

A record log holds one answer a line (`calibration.append_log`), so that none that is finished is
lost or asked for twice. NaN and infinities stand as Python's `json` writes them: a broken trace is
kept as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from calibration.append_log import AppendLog
from calibration.items import Item
from uq import Trace

FORMAT = 1

Key = tuple[str, str]
"""Data set and item id."""


@dataclass(frozen=True, slots=True)
class Record:
    """One graded answer; its text is `trace.text`.

    Attributes
    ----------
    item_id, dataset, family : of the `calibration.items.Item` that was asked.
    correct : the grader's verdict.
    trace : all that the engine observed of the answer.
    asked : `fingerprint` of the item; "" when unknown.
    gathered : the signals that were asked of the engine, whether or not the trace could get them.
    """

    item_id: str
    dataset: str
    correct: bool
    trace: Trace
    family: str | None = None
    asked: str = ""
    gathered: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What the record is found by in its log."""
        return self.dataset, self.item_id

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {
            "item_id": self.item_id,
            "dataset": self.dataset,
            "family": self.family,
            "asked": self.asked,
            "gathered": list(self.gathered),
            "correct": self.correct,
            "trace": self.trace.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record from `to_dict`'s output.

        Raises
        ------
        KeyError, TypeError, ValueError
            A field is missing or of the wrong kind.
        """
        correct = data["correct"]
        if not isinstance(correct, bool):
            raise TypeError(f"correct is {correct!r}, expected true or false")
        return cls(
            item_id=str(data["item_id"]),
            dataset=str(data["dataset"]),
            correct=correct,
            trace=Trace.from_dict(data["trace"]),
            family=data["family"],
            asked=str(data["asked"]),
            gathered=tuple(data.get("gathered", ())),
        )


def fingerprint(item: Item) -> str:
    """Return a hash of what the model is sent for `item`; other words, another answer."""
    asked = json.dumps([item.prompt(), item.max_tokens])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


class RecordLog:
    """The append-only file of one calibration's records.

    Parameters
    ----------
    path : the file; it and its folder are made when missing.
    binding : what the answers are made with, JSON-ready: model, template, sampler, engine build.
    fresh : start over; whatever the file held is gone.

    Raises
    ------
    DataError
        The file was made with another binding (the message names what differs), is no record log,
        is damaged before its last line, is in use by another process, or can't be written.

    Notes
    -----
    A later record of the same key replaces an earlier one. Appending flushes, so a killed process
    loses nothing; after a power cut the last lines may be missing, and are then asked again.
    """

    def __init__(
        self, path: str | os.PathLike[str], binding: Mapping[str, Any], *, fresh: bool = False
    ) -> None:
        self._log = AppendLog(
            path,
            kind="record_log",
            version=FORMAT,
            binding=binding,
            parse=Record.from_dict,
            fresh=fresh,
        )
        self._records = {record.key: record for record in self._log.loaded}

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def find(self, item: Item) -> Record | None:
        """Return the record of `item`, if it was asked in these very words."""
        record = self._records.get((item.dataset, item.id))
        return record if record is not None and record.asked == fingerprint(item) else None

    def append(self, record: Record) -> None:
        """Write `record`. Raises DataError when the disk refuses; the file is then as before."""
        self._log.append(record.to_dict())
        self._records[record.key] = record

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        self._log.close()
