"""What leaving sets out has shown, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.leave_one_out_results import NEAR, Carried, LeaveOneOut, Point, PoolChoice
from router.cli.evaluation_table import NOT_KNOWN, aligned

_POOLS: dict[PoolChoice, str] = {
    "others": "other sets",
    "others+builtin": "others, built-in",
    "builtin": "built-in",
}
_NOTES = 8
"""How many notes are shown; the file has all."""


def carried_tables(found: LeaveOneOut) -> str:
    """Write the gaps of every set, one curve in full, and whether thresholds carry over."""
    scores = (*found.names, *found.repairs)
    parts = ["\n".join(_gaps(found, score)) for score in scores if _judged(found, score)]
    first = next((one for one in found.carried if one.score == found.names[0]), None)
    if first is not None:
        parts.append("\n".join(_curves(found, first.score, first.pool)))
    if found.carried:
        parts.append("\n".join(_answer(found)))
    if found.notes:
        shown = [f"note: {note}" for note in found.notes[:_NOTES]]
        if len(found.notes) > _NOTES:
            shown.append(f"note: and {len(found.notes) - _NOTES} more")
        parts.append("\n".join(shown))
    return "\n\n".join(parts)


def _judged(found: LeaveOneOut, score: str) -> bool:
    return any(one.score == score for one in found.carried)


def _gaps(found: LeaveOneOut, score: str) -> Iterator[str]:
    repaired = ", fitted on the hold-out" if score in found.repairs else ""
    yield (
        f"{score}{repaired}: points between the wanted (10% to 90%) and the achieved escalation "
        "ratio: mean, worst, and mean by chance alone, by what the threshold is set on"
    )
    rows = []
    for dataset in found.datasets:
        judged = [found.find(score, pool, dataset) for pool in found.pools]
        known = [one for one in judged if one is not None]
        if known:
            rows.append([dataset, known[0].kind, str(known[0].n), *map(_gap, judged)])
    heads = [_POOLS[pool] for pool in found.pools]
    yield from aligned(["", "questions", "n", *heads], rows, n_left=2)


def _gap(one: Carried | None) -> str:
    if one is None:
        return NOT_KNOWN
    return " ".join(f"{_points(gap):>5}" for gap in (one.mean_gap, one.worst_gap, one.noise))


def _curves(found: LeaveOneOut, score: str, pool: PoolChoice) -> Iterator[str]:
    yield (
        f"{score}, threshold set on {_POOLS[pool]}: what is escalated and how much is right "
        "(overall where the large model's outcomes are recorded, else of what is kept), beside a "
        "threshold set in full knowledge of the set"
    )
    rows = []
    for dataset in found.datasets:
        one = found.find(score, pool, dataset)
        if one is None:
            continue
        rows.append([dataset, "escalated", *(_percent(point.achieved) for point in one.points)])
        overall = all(point.accuracy is not None for point in (*one.points, *one.full))
        what = "right" if overall else "right of kept"
        for label, points in (("", one.points), (", in full knowledge", one.full)):
            rows.append(["", what + label, *(_accuracy(point, overall) for point in points)])
    wanted = next(one for one in found.carried).points
    yield from aligned(
        ["", "wanted", *(_percent(point.wanted) for point in wanted)], rows, n_left=2
    )


def _accuracy(point: Point, overall: bool) -> str:
    share = point.accuracy if overall else point.accuracy_kept
    return NOT_KNOWN if share is None else _percent(share)


def _answer(found: LeaveOneOut) -> Iterator[str]:
    yield (
        f"Does the threshold carry over? Yes, where it is within {_points(NEAR['all'], 0)} "
        f"points on average ({_points(NEAR['free-form'], 0)} on free-form sets)"
    )
    rows = []
    for score in (*found.names, *found.repairs):
        for pool in found.pools:
            of_all = found.summary(score, pool)
            if of_all is None:
                continue
            kinds = [found.summary(score, pool, kind) for kind in ("free-form", "multiple choice")]
            rows.append(
                [
                    score,
                    _POOLS[pool],
                    "yes" if of_all.carries_over else "no",
                    _points(of_all.mean_gap),
                    _points(of_all.noise),
                    f"{_points(of_all.worst_gap)} ({of_all.worst_set})",
                    f"{of_all.n_near} of {of_all.n_sets}",
                    *(
                        NOT_KNOWN
                        if kind is None
                        else f"{_points(kind.mean_gap)} {'yes' if kind.carries_over else 'no'}"
                        for kind in kinds
                    ),
                ]
            )
    heads = ["set on", "carries", "mean", "chance", "worst", "sets within", "free-form", "choice"]
    yield from aligned(["", *heads], rows, n_left=3)


def _points(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
