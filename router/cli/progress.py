"""Progress bars of downloads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from router.models import resolve_model


def fetch_model(spec: str, *, cache_dir: Path | None = None) -> Path:
    """Resolve `spec`; if that takes a download, show a bar on stderr. Raises ModelError."""
    if not spec.startswith("hf:"):
        return resolve_model(spec)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(spec.rpartition("/")[2], visible=False)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        return resolve_model(spec, cache_dir=cache_dir, on_progress=report)
