"""What `benchmarks/engine.py` found: medians over the rounds, goals, and the tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.servers import OURS, STOCK, XLLAMACPP

MEGABYTE = 1e6
Figures = Mapping[str, Any]
"""What one server did in one cell of one round, or its `error`."""

_MEDIANS = ("rate", "first_p50", "first_p95", "p50", "p95", "cpu_seconds_per_token", "peak_bytes")
_RATIOS = {"rate": "rate_ratio", "first_p50": "first_ratio", "p50": "p50_ratio"}


@dataclass(frozen=True)
class Goal:
    """What a ratio of ours to a peer's is to be: at least `limit`, or at most."""

    what: str
    cell: str
    peer: str
    ratio: str
    limit: float
    at_most: bool = False


GOALS = (
    Goal("ours >= 1.0x xllamacpp at 1 client", "1x30+64", XLLAMACPP, "rate_ratio", 1.0),
    Goal("ours >= 1.0x xllamacpp at 8 clients", "8x30+64", XLLAMACPP, "rate_ratio", 1.0),
    Goal(
        "ours >= 1.3x xllamacpp at 8 clients with one system prompt",
        *("8xshared+64", XLLAMACPP, "rate_ratio", 1.3),
    ),
    Goal("ours >= 2.8x llama_cpp.server at 8 clients", "8x30+64", STOCK, "rate_ratio", 2.8),
    Goal(
        "time to the first token <= 1.0x xllamacpp's at 8 clients",
        *("8x30+64", XLLAMACPP, "first_ratio", 1.0),
        at_most=True,
    ),
)
GATEWAY_GOAL = "the gateway's own work < 1.5 ms of CPU a request"
GATEWAY_LIMIT = 1.5e-3


def progress(cell: str, figures: Figures) -> str:
    """One line on what was just measured."""
    if "error" in figures:
        return f"{cell}: {figures['error']}"
    return f"{cell}: {figures['rate']:.1f} tokens/s, first after {figures['first_p50']:.2f} s"


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `cells` (rows by cell and server), `gateway` and `goals` of what the rounds found."""
    servers = list(rounds[0]["servers"])
    names = list(rounds[0]["servers"][servers[0]]) if servers else []
    by_server = {server: [each["servers"][server] for each in rounds] for server in servers}
    cells: dict[str, dict[str, Any]] = {}
    for cell in names:
        figures = {server: [each[cell] for each in by_server[server]] for server in servers}
        ours = figures.get(OURS)
        new = int(cell.rpartition("+")[2])
        cells[cell] = {server: row(found, ours, new) for server, found in figures.items()}
    gateway = _gateway([each["gateway"] for each in rounds if "gateway" in each])
    return {"cells": cells, "gateway": gateway, "goals": list(_goals(cells, gateway))}


def row(rounds: Sequence[Figures], ours: Sequence[Figures] | None, new: int) -> dict[str, Any]:
    """Medians of one server in one cell over its rounds, and ours beside it in the same rounds.

    `new` is how many tokens every answer was asked to have. `errors` holds those of the rounds that
    failed; where all did, there is nothing else.
    """
    done = [each for each in rounds if "error" not in each]
    errors = [str(each["error"]) for each in rounds if "error" in each]
    if not done:
        return {"errors": errors}
    replies = [reply for each in done for reply in each["replies"]]
    prompts = [reply["prompt_tokens"] for reply in replies if reply["prompt_tokens"] is not None]
    found: dict[str, Any] = {name: median(each[name] for each in done) for name in _MEDIANS}
    found["rate_lowest"] = min(each["rate"] for each in done)
    found["rate_highest"] = max(each["rate"] for each in done)
    found["requests"] = len(replies)
    found["prompt_tokens"] = fmean(prompts) if prompts else None
    found["cut_short"] = sum(reply["tokens"] < new for reply in replies)
    found["errors"] = errors
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(ours or (), rounds, strict=ours is not None)
        if "error" not in mine and "error" not in theirs
    ]
    for name, ratio in _RATIOS.items():
        found[ratio] = median(m[name] / t[name] for m, t in pairs) if pairs else None
    return found


def _gateway(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Medians of the CPU seconds of a request; with `errors`, and nothing else where all failed."""
    done = [each for each in rounds if "error" not in each]
    found: dict[str, Any] = {"errors": [each["error"] for each in rounds if "error" in each]}
    if done:
        names = ("own", "beside", "hit", "bare")
        found |= {name: median(each[name] for each in done) for name in names}
        own = [each["own"] for each in done]
        found |= {"own_lowest": min(own), "own_highest": max(own)}
    return found


def _goals(cells: Mapping[str, Any], gateway: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that were measured, with the value and whether it is reached."""
    for goal in GOALS:
        value = cells.get(goal.cell, {}).get(goal.peer, {}).get(goal.ratio)
        if value is not None:
            reached = value <= goal.limit if goal.at_most else value >= goal.limit
            yield {"goal": goal.what, "value": value, "reached": reached}
    if "own" in gateway:
        value = gateway["own"]
        yield {"goal": GATEWAY_GOAL, "value": 1e3 * value, "reached": value < GATEWAY_LIMIT}


def text(report: Mapping[str, Any], *, markdown: bool = False) -> Iterator[str]:
    """The report for people, or as docs/performance.md has it."""
    yield from _setting(report)
    for table in (_rates(report["cells"]), _times(report["cells"])):
        if len(table) > 1:
            yield ""
            yield from _markdown(table) if markdown else _aligned(table)
    yield ""
    gateway, bullet = report["gateway"], "- " if markdown else ""
    if "own" in gateway:
        ms = {name: f"{1e3 * value:.2f}" for name, value in gateway.items() if name != "errors"}
        own = f"{ms['own']} ms of CPU time a request ({ms['own_lowest']}-{ms['own_highest']})"
        yield f"{bullet}the gateway's own work: {own}, {ms['hit']} ms from its cache"
        beside = "while a model computes beside it, which competes for the CPU's caches"
        yield f"{bullet}{beside}: {ms['beside']} ms"
        yield f"{bullet}a route of FastAPI's that does nothing: {ms['bare']} ms"
    for goal in report["goals"]:
        verdict = "reached" if goal["reached"] else "missed"
        yield f"{bullet}goal: {goal['goal']}: {goal['value']:.3f} {verdict}"
    for note in _notes(report):
        yield f"{bullet}{note}"


def _setting(report: Mapping[str, Any]) -> Iterator[str]:
    now, how = report["machine"], report["settings"]
    versions = ", ".join(build["version"] for build in report["builds"].values())
    hardware = f"{now['cpu']}, {now['physical_cores']} physical cores"
    yield f"{hardware}; {Path(how['model']).name}; {versions}."
    yield (
        f"{how['threads']} threads, {how['slots']} slots of {how['context']} tokens, rounds: "
        f"{len(report['rounds'])}, load before the start: {now['load_before']:.1f}."
    )


Table = list[list[str]]
"""The head, then the rows."""


def _rates(cells: Mapping[str, Any]) -> Table:
    """Tokens a second: a row a cell, a column a server, and ours over each peer's."""
    servers = list(next(iter(cells.values()), {}))
    head = ["clients", "prompt", "new"]
    for server in servers:
        head += [server] if server == OURS or OURS not in servers else [server, "ours / its"]
    table = [head]
    for cell, rows in cells.items():
        line = _cell(cell, rows)
        for server in servers:
            found = rows[server]
            line.append(_span(found))
            if server != OURS and OURS in servers:
                line.append(_number(found.get("rate_ratio"), 2))
        table.append(line)
    return table


def _times(cells: Mapping[str, Any]) -> Table:
    """Seconds, CPU time and memory: a row for each server of each cell."""
    head = "clients,prompt,new,server,first token s,ours / its,p50 s,p95 s,CPU ms / token,MB"
    table = [head.split(",")]
    for cell, rows in cells.items():
        for server, found in rows.items():
            if "rate" in found:
                ratio = None if server == OURS else found["first_ratio"]
                line = [server, _number(found["first_p50"], 2), _number(ratio, 2)]
                line += [_number(found[name], 2) for name in ("p50", "p95")]
                line.append(_number(1e3 * found["cpu_seconds_per_token"], 1))
                line.append(_number(found["peak_bytes"] / MEGABYTE, 0))
                table.append([*_cell(cell, rows), *line])
    return table


def _cell(cell: str, rows: Mapping[str, Any]) -> list[str]:
    """Clients, the prompts' true mean length, new tokens."""
    clients, _, rest = cell.partition("x")
    prompt, _, new = rest.partition("+")
    measured = [found["prompt_tokens"] for found in rows.values() if found.get("prompt_tokens")]
    mean = f"{fmean(measured):.0f}" if measured else prompt
    return [clients, f"{mean}, shared" if prompt == "shared" and measured else mean, new]


def _span(found: Mapping[str, Any]) -> str:
    if "rate" not in found:
        return "failed"
    return f"{found['rate']:.1f} ({found['rate_lowest']:.0f}-{found['rate_highest']:.0f})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader should know before believing the tables."""
    for cell, rows in report["cells"].items():
        wanted = max((found.get("requests", 0) for found in rows.values()), default=0)
        for server, found in rows.items():
            for error in dict.fromkeys(found["errors"]):
                times = found["errors"].count(error)
                yield f"{server} failed in {cell}, {times} of the rounds: {error}"
            asked = found.get("requests", 0)
            if found.get("cut_short"):
                new = cell.rpartition("+")[2]
                short = f"{found['cut_short']} of {asked} answers have less than {new} tokens"
                yield f"{server}, {cell}: {short}"
            if asked and asked < wanted and not found["errors"]:
                yield f"{server}, {cell}: time for {asked} of {wanted} requests"
    for error in dict.fromkeys(report["gateway"]["errors"]):
        yield f"the gateway's own cost was not measured in each round: {error}"
    builds = report["builds"]
    for name, build in builds.items():
        lacks = {*builds.get(OURS, build)["features"]} - {*build["features"]}
        if build["features"] and lacks:
            yield f"{name}'s llama.cpp is compiled without {' '.join(sorted(lacks))}; ours has that"
    if (busy := report["machine"]["load_before"]) > 0.5:
        yield f"the machine was busy before the start (load {busy:.1f}): run it again"
    yield f"again: {report['command']}"


def _markdown(table: Table) -> Iterator[str]:
    head, *rows = table
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(line)} |" for line in rows)


def _aligned(table: Table) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield "  ".join(
            cell.rjust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
