"""Files of rows, as users write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calibration.datasets import read_items
from calibration.items import Item


def write(path: Path, *rows: object) -> Path:
    """Write rows as JSON Lines; text and bytes as they stand."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_one(folder: Path, row: dict[str, Any]) -> Item:
    [item] = read_items(write(folder / "own.jsonl", row)).items
    return item
