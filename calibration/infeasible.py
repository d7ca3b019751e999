"""Why no threshold could be certified, and what could be: advice, found without promise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calibration.bounds import about_needed, kept_needed, least_escalation, p_at_most
from calibration.errors import InfeasibleTarget
from calibration.parts import Grid, HeldOutPart
from calibration.targets import Target

_FEW = 10
"""An error rate among fewer kept answers of the fit part is not worth quoting."""


@dataclass(frozen=True, slots=True)
class Tested:
    """The first threshold tested: of the `n` held-out answers that count, `n_errors` erred."""

    threshold: float
    n: int
    n_errors: int


def not_certified(
    target: Target,
    grid: Grid,
    held_out: HeldOutPart,
    tested: Tested,
    *,
    confidence: float,
    smallest: Target | None,
) -> InfeasibleTarget:
    """Return the error for a risk or a loss that failed its test at the first threshold.

    Parameters
    ----------
    target : Target
    grid : Grid
    held_out : HeldOutPart
    tested : Tested
    confidence : float
    smallest : Target, optional
        The smallest of its kind that passes on these rows.
    """
    needed = _rows_needed(target, grid, held_out, confidence)
    more = None if needed is None or needed <= len(held_out) else needed - len(held_out)
    least, rest = None, ""
    if target.kind == "risk":
        error = float(np.mean(~held_out.correct))
        least = least_escalation(error, target.value)
        rest = (
            f" Whatever the method, {target} needs at least {least:.0%} of the queries escalated: "
            f"{error:.0%} of all local answers are wrong."
        )
    return InfeasibleTarget(
        f"{target} can't be certified with {100 * confidence:.6g}% confidence on "
        f"{len(held_out)} held-out rows: {_what_was_seen(target, tested)}. {_offer(smallest)}"
        f"{rest} {_advice(target, grid, needed, more, confidence)}",
        target=str(target),
        feasible=() if smallest is None else (str(smallest),),
        least_escalation=least,
        more_rows=more,
    )


def _what_was_seen(target: Target, tested: Tested) -> str:
    p = float(p_at_most([tested.n_errors], [tested.n], target.value)[0])
    if target.kind == "risk":
        return (
            f"from threshold {tested.threshold:.3f} on, where the fit part promises most, "
            f"{tested.n_errors} of {tested.n} kept answers are wrong (p = {p:.2g})"
        )
    return (
        f"even from threshold {tested.threshold:.3f} on, {tested.n_errors} of {tested.n} queries "
        f"keep a wrong answer where the large model's is right (p = {p:.2g})"
    )


def _offer(smallest: Target | None) -> str:
    if smallest is None:
        return "Nothing of the kind can be certified on these rows."
    return f"What they allow is about {smallest} (found by trying, so only a hint)."


def _rows_needed(
    target: Target, grid: Grid, held_out: HeldOutPart, confidence: float
) -> int | None:
    """Return how many held-out rows give an 80% chance, by the fit part's rates; None for never."""
    if target.kind == "risk":
        rates, share = grid.error, grid.n_kept / len(grid.fit)
    elif grid.lost is not None and held_out.llm is not None:
        rates = grid.lost
        share = np.full(len(rates), np.mean(~np.isnan(held_out.llm)))
    else:
        return None
    rows = about_needed(target.value, rates, confidence) / np.maximum(share, 1e-9)
    best = int(np.argmin(rows))
    kept = kept_needed(target.value, float(rates[best]), confidence)
    return None if kept is None else _rounded(kept / float(share[best]))


def _rounded(number: float) -> int:
    """Two digits are all that such an estimate carries."""
    step: int = 10 ** max(0, math.floor(math.log10(max(number, 1.0))) - 1)
    return math.ceil(number / step) * step


def _advice(
    target: Target, grid: Grid, needed: int | None, more: int | None, confidence: float
) -> str:
    if more is not None:
        return (
            f"For an 80% chance to certify {target}, have about {needed:,} held-out rows in all, "
            "going by the errors of the fit part."
        )
    if needed is not None:
        return (
            "The fit part promised enough for this many rows, and these did not bear it out: more "
            "rows would show which of them is right."
        )
    if target.value == 0.0:
        return "No number of rows shows that nothing ever goes wrong."
    if target.kind == "loss":
        lost = grid.lost_counts
        lowest = None if lost is None else float(lost[0][0] / lost[1])
    else:
        lowest = _lowest_error(grid)
    if lowest is not None and lowest >= target.value:
        return (
            f"No number of rows helps: the lowest {target.kind} seen at any threshold of the fit "
            f"part is {lowest:.3f}. A better score, or a better small model, would."
        )
    least = kept_needed(target.value, 0.0, confidence)
    what = "rows of known outcome" if target.kind == "loss" else "kept answers"
    return f"Even with no error among them, {least or 100_000:,} {what} are needed."


def _lowest_error(grid: Grid) -> float:
    enough = grid.n_kept >= min(_FEW, int(grid.n_kept.max()))
    return float(np.min(grid.n_wrong[enough] / np.maximum(grid.n_kept[enough], 1)))
