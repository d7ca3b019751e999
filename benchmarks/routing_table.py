"""What `benchmarks/routing.py` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HEAD = (
    "| router | APGR | CPT 50% | CPT 80% | cost at 50% | at 80% | at 95% | ours minus it "
    "| mean over sets | sets ahead |\n|---|---|---|---|---|---|---|---|---|---|"
)


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    how = report["settings"]
    yield (
        f"An answer of the small model costs {how['ratio']:g} of the large one's; "
        f"{how['n_boot']} resamples, seed {how['seed']}."
    )
    for study in report["studies"]:
        for protocol, found in study["protocols"].items():
            yield f"\n### {study['population']}, {protocol}\n"
            yield from _summary(study, found)
            if found["sets"]:
                yield ""
                yield from _sets(found)
    yield f"\nAgain: `{report['command']}`"


def _summary(study: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    pooled, ours = found["pooled"], found["headline"]
    if pooled["why_not"]:
        yield f"n/a: {pooled['why_not']}"
        return
    yield (
        f"{pooled['n']} of {study['rows']} questions have outcomes of both models. Always local: "
        f"{pooled['slm']:.1%} right at a cost of {study['always']['local']:g}; always remote: "
        f'{pooled["llm"]:.1%} at {study["always"]["remote"]:g}. Ours is "{ours}".\n'
    )
    yield HEAD
    for name, row in pooled["routers"].items():
        if row.get("why_not"):
            yield f"| {name} | n/a: {row['why_not']} |" + " |" * 8
            continue
        cells = [
            _measured(row["apgr"]),
            *(_share(row["cpt"].get(x)) for x in ("0.5", "0.8")),
            *(_number(row["cost"].get(x)) for x in ("0.5", "0.8", "0.95")),
            *_compared(found["differences"].get(ours, {}).get(name)),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _compared(difference: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if difference is None:
        return "", "", ""
    over_sets = difference["mean_over_sets"]
    return (
        _measured(difference["pooled"], "+"),
        _measured(over_sets, "+") if over_sets else "",
        f"{difference['ahead']} of {difference['sets']}" if difference["sets"] else "",
    )


def _sets(found: Mapping[str, Any]) -> Iterator[str]:
    names = list(found["pooled"]["routers"])
    if not names:
        return
    yield f"| APGR | n | SLM | LLM | {' | '.join(names)} |\n|{'---|' * (4 + len(names))}"
    for dataset, group in found["sets"].items():
        if group["slm"] is None:
            yield f"| {dataset} | 0 | | | {group['why_not']} |" + " |" * (len(names) - 1)
            continue
        start = f"| {dataset} | {group['n']} | {group['slm']:.0%} | {group['llm']:.0%} |"
        if group["why_not"]:
            yield f"{start} n/a: {group['why_not']} |" + " |" * (len(names) - 1)
            continue
        cells = [group["routers"][name] for name in names]
        shown = ["n/a" if "apgr" not in cell else f"{cell['apgr']['value']:.3f}" for cell in cells]
        yield f"{start} {' | '.join(shown)} |"


def _measured(found: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (format(found[key], f"{sign}.3f") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _share(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
