"""`router log`: the last decisions, from the ledger."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import settings_options
from router.config import Settings

if TYPE_CHECKING:
    from router.ledger import Decided, Label

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Age(click.ParamType[float]):
    """A span of time back from now, such as ``90s``, ``15m``, ``24h`` or ``7d``; gives seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value.strip())
        if found is None:
            self.fail(f"{value!r} is no span of time; write it as 90s, 15m, 24h or 7d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command(short_help="List the last decisions.")
@click.option(
    "-n", "n", type=click.IntRange(1, 100_000), default=20, help="How many.  [default: 20]"
)
@click.option("--since", type=Age(), metavar="AGE", help="Only younger ones: 15m, 24h, 7d.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead.")
@settings_options("ledger", "redis_url")
def log(*, n: int, since: float | None, as_json: bool, settings: Settings) -> None:
    """List the last decisions, the newest first, with what is known of them by now.

    They come from the ledger. Questions are kept as hashes (equal ones share theirs) unless the
    setting `log_prompts` says otherwise.
    """
    entries = latest(settings, n, since)
    if as_json:
        for entry in entries:
            click.echo(json.dumps(_as_dict(*entry), allow_nan=False))
        return
    if not entries:
        click.echo("The ledger holds no decisions yet.")
        return
    for line in _table(_rows(entries)):
        click.echo(line)


def latest(settings: Settings, n: int, since: float | None) -> list[tuple[Decided, Label | None]]:
    """Return the ledger's last `n` decisions that are at most `since` seconds old.

    Raises ConfigError when there is no ledger, LedgerError when it can't be read.
    """
    from router.errors import ConfigError  # noqa: PLC0415 - after --help
    from router.ledger import open_ledger  # noqa: PLC0415

    async def read() -> list[tuple[Decided, Label | None]]:
        ledger = await open_ledger(settings)
        if ledger is None:
            raise ConfigError("there is no ledger to read; give its file, or redis, with --ledger")
        try:
            return await ledger.latest(n, 0.0 if since is None else time.time() - since)
        finally:
            await ledger.close()

    return asyncio.run(read())


def _as_dict(decided: Decided, label: Label | None) -> dict[str, Any]:
    known = {name: score for name, score in decided.scores.items() if math.isfinite(score)}
    told = None if label is None else {"correct": label.correct, "source": label.source}
    return {**asdict(decided), "scores": known, "label": told}


def _rows(entries: Iterable[tuple[Decided, Label | None]]) -> Iterator[tuple[str, ...]]:
    yield "time", "route", "reason", "p", "threshold", "USD", "s", "label", "question", "id"
    for decided, label in entries:
        yield (
            time.strftime("%m-%d %H:%M:%S", time.localtime(decided.at)),
            decided.route + " (degraded)" * decided.degraded,
            decided.reason,
            _number(decided.p_correct),
            _number(decided.threshold),
            f"{decided.cost_usd:.5f}" if decided.cost_usd else "-",
            f"{decided.seconds:.2f}",
            "-" if label is None else ("right" if label.correct else "wrong"),
            _short(decided.prompt),
            decided.id,
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _short(prompt: str | None) -> str:
    if prompt is None:
        return "-"
    line = " ".join(prompt.split())
    return line if len(line) <= 40 else line[:39] + "…"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows with their columns one below the other."""
    every = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*every, strict=True)]
    for row in every:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()
