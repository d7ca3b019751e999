"""What a new calibration changes against the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calibration.artifact import Calibration

_LONGEST = 80
"""Characters of a value that a line for people shows."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs: its name, and its value before and now, as JSON knows them.

    `style` is how people read the values: a number, a share of all (a percentage), an operating
    point, or as they are.
    """

    name: str
    was: Any
    now: Any
    style: Literal["number", "share", "point", "plain"] = "plain"

    def __str__(self) -> str:
        was, now = _shown(self.was, self.style), _shown(self.now, self.style)
        if was == now:  # they differ further back than people usually read
            further = _shown_point if self.style == "point" else str
            was, now = further(self.was), further(self.now)
        return f"{self.name}: {was} -> {now}"


def changes(old: Calibration, new: Calibration) -> tuple[Change, ...]:
    """Return what differs between two calibrations in what they decide and what that rests on.

    In this order: threshold, target, escalation ratio, accuracy kept, method, its alignment (AUROC)
    and calibrator, certificate, band, gate and early stop, numbers of answers, the population (how
    the hold-out was made), what it is bound to, and the operating points.
    """
    compared = _compared(old.summary(), new.summary())
    return tuple(change for change in compared if change.was != change.now)


def difference(old: Calibration, new: Calibration) -> list[str]:
    """Return `changes` as lines for people; an empty list when nothing of it differs."""
    return [str(change) for change in changes(old, new)]


def to_json(old: Calibration, new: Calibration) -> dict[str, Any]:
    """Return `changes` as a JSON object, with the ids of both calibrations."""
    return {
        "object": "calibration.difference",
        "old": old.id,
        "new": new.id,
        "changes": [
            {"name": change.name, "was": change.was, "now": change.now}
            for change in changes(old, new)
        ],
    }


def _compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Compare two summaries, as `Calibration.summary` gives them."""
    was, now = old["operating_point"], new["operating_point"]
    yield Change("threshold", was["threshold"], now["threshold"], "number")
    for name in ("target", "confidence", "labels", "labelled_by"):
        yield Change(name.replace("_", " "), old[name], new[name])
    yield Change("escalation ratio", was["escalation_ratio"], now["escalation_ratio"], "share")
    yield Change("accuracy kept", was["accuracy_kept"], now["accuracy_kept"], "share")
    yield Change("accuracy of all answers", old["accuracy"], new["accuracy"], "share")
    yield Change("method", old["method"], new["method"])
    yield Change("AUROC of the method", _auroc(old), _auroc(new), "number")
    yield Change("calibrator", old["calibrator"]["kind"], new["calibrator"]["kind"])
    yield from _nested("certificate", was["certificate"], now["certificate"])
    for name in ("band", "gate", "early_stop"):
        yield from _nested(name.replace("_", " "), old[name], new[name])
    for name in ("n", "n_fit", "n_test", "n_unknown"):
        yield Change(name, old[name], new[name])
    yield Change("drawn from", old["population"], new["population"])
    yield from _nested("cost", old["cost"], new["cost"])
    yield from _nested("population", old["holdout"], new["holdout"])
    yield from _nested("bound to", old["binding"], new["binding"])
    yield from _points(old, new)


def _auroc(summary: Mapping[str, Any]) -> float | None:
    quality: Mapping[str, Any] = summary["estimators"].get(summary["method"], {})
    return quality.get("auroc")


def _nested(name: str, was: Any, now: Any) -> Iterator[Change]:
    """Compare field by field where both are objects, as a whole where one is not."""
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        yield Change(name, was, now)
        return
    for field in sorted({*was, *now}):
        yield from _nested(f"{name}, {field}", was.get(field), now.get(field))


def _points(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Compare what is reached for the usual targets; None is a target that is not."""
    was, now = _by_target(old), _by_target(new)
    for target in dict.fromkeys((*was, *now)):
        yield Change(target, was.get(target), now.get(target), "point")


def _by_target(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    fields = ("threshold", "escalation_ratio", "accuracy_kept")
    return {
        point["target"]: {field: point[field] for field in fields}
        for point in summary["operating_points"]
    }


def _shown(value: Any, style: str) -> str:
    if value is None:
        return "not reached" if style == "point" else "none"
    if style == "point":
        return _shown_point(value, 3)
    if style == "share":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _shown_point(point: Mapping[str, Any], digits: int = 7) -> str:
    right = point["accuracy_kept"]
    kept = "none kept" if right is None else f"{right:.1%} of the kept right"
    escalated = f"{point['escalation_ratio']:.1%} escalated"
    return f"threshold {point['threshold']:.{digits}f} ({escalated}, {kept})"
