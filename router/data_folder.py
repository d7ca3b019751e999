"""Where a user's data is kept unless a setting says otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def data_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return ``$XDG_DATA_HOME/seek-stronger``, or what stands for it on this platform."""
    environ = os.environ if environ is None else environ
    named = environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME", "")
    folder = Path(named) if Path(named).is_absolute() else Path.home() / ".local" / "share"
    return folder / "seek-stronger"
