"""What taking a calibration over while running has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibration.artifact import Calibration
from calibration.difference import difference


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Which calibration was in use, which is now, and what that changes.

    Attributes
    ----------
    old_id, new_id : of both calibrations; None where there was or is none.
    warnings : what an operator should know of the new one.
    differences : what the new one changes, one line each; see `calibration.difference`.
    """

    old_id: str | None
    new_id: str | None
    warnings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether another calibration is in use now."""
        return self.old_id != self.new_id


def reloaded(old: Calibration | None, new: Calibration | None, warnings: Sequence[str]) -> Reloaded:
    """Tell what putting `new` in the place of `old` changes."""
    if old is not None and new is not None:
        lines = difference(old, new)
    elif old is new:
        lines = []
    else:
        lines = ["a calibration: none before" if old is None else "a calibration: none any more"]
    return Reloaded(
        None if old is None else old.id,
        None if new is None else new.id,
        tuple(warnings),
        tuple(lines),
    )
