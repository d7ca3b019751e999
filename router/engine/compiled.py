"""The engine's own C code, where there was a compiler when the package was installed."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

_LIBRARY = Path(__file__).with_name("_compiled.so")


@functools.cache
def is_compiled() -> bool:
    """Whether there was a compiler."""
    return _LIBRARY.exists()


@functools.cache
def compiled_library() -> ctypes.PyDLL:
    """The library, whose functions are too short to let go of the interpreter's lock for."""
    return ctypes.PyDLL(str(_LIBRARY))
