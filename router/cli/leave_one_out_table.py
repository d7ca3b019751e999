"""What leaving sets out has shown, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibration.controlled import SETTLED, STREAM
from calibration.leave_one_out_results import (
    HELD,
    NEAR,
    Carried,
    LeaveOneOut,
    Point,
    PoolChoice,
    Summary,
)
from router.cli.evaluation_table import NOT_KNOWN, aligned

_POOLS: dict[PoolChoice, str] = {
    "others": "other sets",
    "others+builtin": "others, built-in",
    "builtin": "built-in",
}
_SET = 13
"""Letters of a set's name that are shown in the last table."""

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
        f"{score}{repaired}:\npoints between the wanted (10% to 90%) and the achieved escalation "
        "ratio: mean, worst, and mean\nby chance, by what the threshold is set on"
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
        f"{score}, threshold set on {_POOLS[pool]}: what is escalated and how much is\nright "
        "(overall where the large model's outcomes are recorded, else of what is kept), beside a\n"
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
        for label, points in (("", one.points), (", full knowledge", one.full)):
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
        f"Does the threshold carry over? Yes, where the gap is at most {_points(NEAR['all'], 0)} "
        f"points on average\n({_points(NEAR['free-form'], 0)} on free-form sets). Mean gap, by "
        "chance alone, largest,\nand of how many sets it is within"
    )
    rows: list[list[str]] = []
    for pool in found.pools:
        rows.append([f"set on {_POOLS[pool]}:", *[""] * 6])
        for score, label in _labels(found):
            of_all = found.summary(score, pool)
            rows += [] if of_all is None else [[f"  {label}", *_line(found, of_all)]]
        rows += _controlled(found, pool)
    heads = ["mean", "chance", "worst", "within", "free-form", "choice"]
    yield from aligned(["", *heads], rows)
    if found.controlled:
        yield (
            f"controller: started from the pool's {found.controlled[0].score}, over {STREAM} "
            f"queries drawn from the set;\nwithin: every ratio held to {_points(HELD, 0)} points"
        )


def _labels(found: LeaveOneOut) -> Iterator[tuple[str, str]]:
    """All scores and what they are called: a repair of one stands under it."""
    for name in found.names:
        yield name, name
        for repair in found.repairs:
            if repair.startswith(f"{name}, "):
                yield repair, "  " + repair.removeprefix(f"{name}, ")
    alone = [r for r in found.repairs if not r.startswith(tuple(f"{n}, " for n in found.names))]
    yield from zip(alone, alone, strict=True)


def _line(found: LeaveOneOut, of_all: Summary) -> list[str]:
    kinds = [
        found.summary(of_all.score, of_all.pool, kind) for kind in ("free-form", "multiple choice")
    ]
    return [
        f"{_points(of_all.mean_gap)} {_yes(of_all.carries_over):>3}",
        _points(of_all.noise),
        f"{_points(of_all.worst_gap)} {of_all.worst_set[:_SET]}",
        f"{of_all.n_near}/{of_all.n_sets}",
        *(
            NOT_KNOWN if kind is None else f"{_points(kind.mean_gap)} {_yes(kind.carries_over):>3}"
            for kind in kinds
        ),
    ]


def _controlled(found: LeaveOneOut, pool: PoolChoice) -> Iterator[list[str]]:
    """What the controller does in the queries while it settles, and in those after them."""
    ones = [one for one in found.controlled if one.pool == pool]
    if not ones:
        return
    for label, gaps in (
        (f"  controller, first {SETTLED}", [one.first_gaps for one in ones]),
        ("  controller, then", [one.later_gaps for one in ones]),
    ):
        worst = [max(map(abs, of_set)) for of_set in gaps]
        largest = worst.index(max(worst))
        kinds = [
            [
                abs(gap)
                for one, of_set in zip(ones, gaps, strict=True)
                for gap in of_set
                if one.kind == kind
            ]
            for kind in ("free-form", "multiple choice")
        ]
        n_held = sum(gap <= HELD + 1e-9 for gap in worst)
        held = _yes(n_held == len(ones))
        yield [
            label,
            f"{_points(_mean([abs(gap) for of_set in gaps for gap in of_set]))} {held:>3}",
            "",
            f"{_points(worst[largest])} {ones[largest].dataset[:_SET]}",
            f"{n_held}/{len(ones)}",
            *(f"{_points(_mean(of_kind))}    " if of_kind else NOT_KNOWN for of_kind in kinds),
        ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _points(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
