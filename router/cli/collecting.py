"""Asking the model a set of questions from the command line, and what is shown meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from calibration.binding import Binding
from calibration.items import Item
from calibration.records import Record, RecordLog
from router.binding import binding_of
from router.cli.progress import fetch_model
from router.collect import Progress, collect
from router.config import Settings
from router.engine import open_engine
from uq.signals import Signal

RECORDS = "records.jsonl"

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Graded answers of one model, in the folder where they are kept."""

    folder: Path
    model_path: str
    n_layer: int
    binding: Binding
    records: list[Record]
    too_long: tuple[str, ...]


async def ask(
    items: Sequence[Item],
    signals: frozenset[Signal],
    settings: Settings,
    folder_for: Callable[[str], Path],
    *,
    fresh: bool,
    seen: list[Progress],
) -> Answers:
    """Ask what the record log does not hold yet.

    `folder_for` names the folder, given the model's path. The last entry of `seen` tells how far
    it came, also after an interruption.
    """
    fetch_model(settings.model)
    async with open_engine(settings) as engine:
        info = engine.info
        folder, binding = folder_for(info.model_path), binding_of(info)
        made_with = {
            "model_sha256": binding.model_sha256,
            "template_sha256": binding.template_sha256,
            "sampler": binding.sampler,
            "engine_build": binding.engine_build,
        }
        with (
            RecordLog(folder / RECORDS, made_with, fresh=fresh) as log,
            shown(Console(stderr=True)) as show,
        ):

            def on_progress(progress: Progress) -> None:
                seen[:] = [progress]
                show(progress)

            records = await collect(engine, items, log, signals=signals, on_progress=on_progress)
    too_long = seen[-1].too_long
    return Answers(folder, info.model_path, info.n_layer, binding, records, too_long)


@contextlib.contextmanager
def shown(
    console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows progress: a bar on a terminal, else a line now and then."""
    start = clock()
    if not console.is_terminal:
        yield _lines(console, clock)
        return
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            text = describe(progress, clock() - start)
            bar.update(task, total=progress.total, completed=progress.done, description=text)

        yield show


def describe(progress: Progress, seconds: float) -> str:
    """Say how far it is, how fast, how long it will take, and how many answers are right.

    `seconds` is how long this run has taken for the items that were not in the log already.
    """
    parts = [f"{progress.done}/{progress.total}"]
    asked = progress.done - progress.reused
    if asked and seconds > 0:
        rate = asked / seconds
        parts.append(f"{rate:.1f}/s, {progress.tokens / seconds:.0f} tok/s")
        if progress.done < progress.total:
            parts.append(f"{duration((progress.total - progress.done) / rate)} left")
    answered = progress.done - len(progress.too_long)
    if answered:
        parts.append(f"{progress.correct / answered:.0%} right")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a length of time in its two largest units: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _lines(console: Console, clock: Callable[[], float]) -> Callable[[Progress], None]:
    start = clock()
    last = start - LINE_EVERY

    def show(progress: Progress) -> None:
        nonlocal last
        now = clock()
        if now - last >= LINE_EVERY or progress.done == progress.total:
            last = now
            console.print(describe(progress, now - start), highlight=False)

    return show
