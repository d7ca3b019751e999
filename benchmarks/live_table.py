"""What `benchmarks/live.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.live_control import FIRST, LATER, SETTLED, SPANS, SWITCHED

Figures = Mapping[str, Any]


def tables(report: Figures) -> Iterator[str]:
    """Lines of Markdown."""
    how, sets = report["settings"], report["sets"]
    unknown = sum(row["unknown"] for row in sets.values())
    yield (
        f"{sum(row['n'] for row in sets.values())} answers to {len(sets)} sets "
        f"({how['source']}, {how['score']}), {unknown} of unknown score; seed {how['seed']}."
    )
    control, drift = report["controller"], report["drift"]
    yield "\n### Controller: |achieved - wanted| escalation ratio, in points\n"
    yield from _spans(control)
    yield "\nBy wanted ratio; the bound is of 200 queries from the start:\n"
    yield from _ratios(control)
    yield "\nBy the set that is asked, the worst first (by the controller's worst):\n"
    yield from _sets(control, sets)
    yield "\n### Controller: share of wrong answers among those escalated\n"
    yield (
        "Controller / a fixed threshold of the same realised ratio, set in hindsight. Intervals "
        "are over draws of the same answers.\n"
    )
    yield from _quality(control["quality"])
    yield f"\n### Drift: false alarms, {how['length']:,} answers, {how['alarms']:,} streams\n"
    yield from _alarms(drift["alarms"])
    for n, of_calm in drift["scores"].items():
        yield f"\n### Drift of scores: answers until the alarm (alpha 0.01), {n} reference scores\n"
        yield from _delays("largest difference of the distributions", of_calm, drift["horizon"])
    yield "\n### Drift of P(correct): labels until the alarm (alpha 0.01)\n"
    yield from _delays("average gap after the change", drift["labels"], drift["horizon"])
    yield "\nSimulated, too sure by a constant gap from the start:\n"
    yield from _gaps(drift["gaps"], drift["horizon"])
    yield f"\nAgain: `{report['command']}`"


def _spans(control: Figures) -> Iterator[str]:
    yield from _head(
        "queries", "runs", "controller: mean", "99%", "worst", "runs within 3", "cases within 3",
        "fixed: mean", "99%", "worst", "runs within 3", "cases within 3",
    )  # fmt: skip
    for span in SPANS:
        row = control["spans"][span]
        cells = [f"{row['runs']:,}"]
        for which in ("controlled", "fixed"):
            of = row[which]
            cells += [*(_points(of[key]) for key in ("mean", "p99", "worst"))]
            cells += [f"{of['runs_within']:.1%}", f"{of['cases_within']:,} of {of['cases']:,}"]
        yield _row(span, *cells)
    yield "\nA case is a set (or a switch) and a ratio, within 3 points when all its runs are."


def _ratios(control: Figures) -> Iterator[str]:
    yield from _head("wanted", "bound", *(f"{span}: worst" for span in SPANS), "fixed: mean")
    for ratio, row in control["ratios"].items():
        spans = row["spans"]
        worst = [_points(s["controlled"]["worst"]) if s else "" for s in spans.values()]
        yield _row(ratio, _points(row["bound"]), *worst, _points(spans[FIRST]["fixed"]["mean"]))


def _sets(control: Figures, sets: Figures) -> Iterator[str]:
    yield from _head(
        "set", "n", "right", "AUROC", "fixed: mean", "worst", f"{FIRST}: mean", "worst",
        f"{LATER}: mean", "worst", f"{SWITCHED}: worst", f"{SETTLED}: worst",
    )  # fmt: skip
    worst = {
        name: max(row[span]["controlled"]["worst"] for span in SPANS)
        for name, row in control["sets"].items()
    }
    for name in sorted(worst, key=lambda name: -worst[name]):
        row, of = control["sets"][name], sets[name]
        cells = [row[FIRST]["fixed"]["mean"], row[FIRST]["fixed"]["worst"]]
        for span in (FIRST, LATER):
            cells += [row[span]["controlled"]["mean"], row[span]["controlled"]["worst"]]
        cells += [row[span]["controlled"]["worst"] for span in (SWITCHED, SETTLED)]
        yield _row(name, f"{of['n']}", f"{of['right']:.0%}", _auroc(of), *map(_points, cells))


def _quality(quality: Figures) -> Iterator[str]:
    ratios = ("0.1", "0.3", "0.5", "0.7", "0.9")
    lost = "wrong ones that only the fixed one escalates"
    yield from _head("traffic", "AUROC", *(f"at {ratio}" for ratio in ratios), "at all", lost)
    for name, row in quality.items():
        cells = [_both(row["ratios"][ratio]) for ratio in ratios]
        yield _row(name, _auroc(row), *cells, _both(row), _interval(row["lost"], "+.2%"))


def _alarms(alarms: Figures) -> Iterator[str]:
    yield from _head("test", *(f"alpha = {alpha}" for alpha in next(iter(alarms.values()))))
    for name, row in alarms.items():
        yield _row(name, *(_interval(share, ".2%") for share in row.values()))


def _delays(size: str, of_calm: Figures, horizon: int) -> Iterator[str]:
    head = ["streams", "median", "90%", "worst", "never", "false alarms"]
    starts = [f"after {calm} calm: " if calm != "0" else "from the start: " for calm in of_calm]
    yield from _head(size, "changes", *(f"{s if i == 0 else ''}{h}" for s in starts
                                        for i, h in enumerate(head)))  # fmt: skip
    first = next(iter(of_calm.values()))
    for name in first:
        cells = [f"{first[name]['changes']}"]
        for rows in of_calm.values():
            row = rows[name]
            cells += [f"{row['n']:,}", *_late(row, horizon), f"{row['early']}"]
        yield _row(name, *cells)
    yield f"\nNever: no alarm within {horizon:,}."


def _gaps(gaps: Figures, horizon: int) -> Iterator[str]:
    yield from _head("gap", "streams", "median", "90%", "worst", "never")
    for gap, row in gaps.items():
        yield _row(gap, f"{row['n']:,}", *_late(row, horizon))


def _late(row: Figures, horizon: int) -> list[str]:
    if not row["n"]:
        return ["n/a"] * 4
    late = [f"> {horizon:,}" if row[k] is None else f"{row[k]:,}" for k in _LATE]
    return [*late, f"{row['never']:.1%}"]


_LATE: Sequence[str] = ("median", "q90", "worst")


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield "|" + "---|" * len(cells)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _points(gap: float) -> str:
    return f"{100 * gap:.1f}"


def _auroc(row: Figures) -> str:
    return "n/a" if row["auroc"] is None else f"{row['auroc']:.2f}"


def _both(row: Figures) -> str:
    return f"{row['controlled']:.1%} / {row['fixed']:.1%}"


def _interval(found: Figures, how: str) -> str:
    value, low, high = (format(found[key], how) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
