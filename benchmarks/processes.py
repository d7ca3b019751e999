"""What running processes use, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return `pid` and all its descendants that run now; nothing when it has ended."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children[int(_stat(int(entry.name))[1])].append(int(entry.name))
    found = [pid] if (_PROC / str(pid)).exists() else []
    for parent in found:  # grows while it is walked
        found += children[parent]
    return found


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """CPU time of one process so far, all its threads, in user and kernel mode.

    `with_children` adds that of children that have ended and were waited for. The kernel tells it
    in steps of 10 ms. Raises ProcessLookupError when there is no such process.
    """
    try:
        user, system, ended_user, ended_system = map(int, _stat(pid)[11:15])
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    ended = ended_user + ended_system if with_children else 0
    return (user + system + ended) / _TICKS


def tree_cpu_seconds(pid: int) -> float:
    """CPU time so far of `pid` and all its descendants, those that have ended included."""
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            total += cpu_seconds(each, with_children=True)
    return total


def forget_peaks(pid: int) -> None:
    """Let the peak that `tree_peak_bytes` tells begin now; where that is not allowed, nothing."""
    for each in tree(pid):
        with contextlib.suppress(OSError):
            (_PROC / str(each) / "clear_refs").write_text("5")


def tree_peak_bytes(pid: int) -> int:
    """Most resident memory since `forget_peaks`: each process's own peak, added up."""
    return sum(_memory(each, "VmHWM") for each in tree(pid))


def tree_bytes(pid: int) -> int:
    """Resident memory of `pid` and all its descendants now."""
    return sum(resident_bytes(each) for each in tree(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of one process now; 0 when it has ended."""
    return _memory(pid, "VmRSS")


def _memory(pid: int, field: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before it may hold spaces."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
