"""What is shown while the model answers a set of questions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from router.collect import Progress

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


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
