"""How many CPU threads it makes sense to compute with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")


def usable_cores(root: Path = SYSTEM) -> int:
    """Physical cores that this process may use, at least 1.

    Counted are the cores of its CPU affinity, hyper-threads once, and no more than its control
    group's CPU quota allows, rounded down: a thread that the quota stops keeps the others waiting.
    """
    quota = cpu_quota(root)
    cores = physical_cores(allowed_cpus(), root)
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def allowed_cpus() -> frozenset[int]:
    """Numbers of the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(cpus: Iterable[int], root: Path = SYSTEM) -> int:
    """Number of cores that the logical CPUs `cpus` belong to.

    Where the system does not tell which share a core, half of them is taken.
    """
    numbers = set(cpus)
    topology = root / "sys/devices/system/cpu"
    if not topology.is_dir():
        return max(1, len(numbers) // 2)
    return len({_siblings(topology / f"cpu{number}", number) for number in numbers})


def _siblings(folder: Path, number: int) -> str:
    path = folder / "topology/thread_siblings_list"
    return path.read_text().strip() if path.exists() else str(number)


def cpu_quota(root: Path = SYSTEM) -> float | None:
    """CPUs' worth of time that this process's control group may use; None without a limit.

    Groups lie in one another, and the least limit on the way up holds. Inside a container the
    group's own path may not exist: its limits then are those at the root.
    """
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return None
    found = []
    for controllers, group in parse_groups(membership.read_text()):
        for folder in _folders(root / "sys/fs/cgroup", controllers, group):
            limit = _limit(folder)
            if limit is not None:
                found.append(limit)
    return min(found, default=None)


def parse_groups(text: str) -> list[tuple[str, str]]:
    """The CPU-limiting entries of /proc/self/cgroup: controllers (empty for v2), and the group.

    >>> parse_groups("4:cpu,cpuacct:/a/b\\n1:memory:/a\\n0::/c\\n")
    [('cpu,cpuacct', '/a/b'), ('', '/c')]
    """
    entries = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return [
        (controllers, group)
        for _, controllers, group in entries
        if not controllers or "cpu" in controllers.split(",")
    ]


def _folders(mount: Path, controllers: str, group: str) -> Iterator[Path]:
    """The group's folder and those above it, wherever its controllers may be mounted."""
    names = [controllers, "cpu"] if controllers else ["", "unified"]
    inner = PurePosixPath(group.lstrip("/"))
    for name in names:
        for place in (inner, *inner.parents):
            if ".." not in place.parts:
                yield mount / name / place


def _limit(folder: Path) -> float | None:
    if (folder / "cpu.max").exists():
        return parse_cpu_max((folder / "cpu.max").read_text())
    quota, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    if quota.exists() and period.exists():
        return parse_cpu_max(f"{quota.read_text()} {period.read_text()}")
    return None


def parse_cpu_max(text: str) -> float | None:
    """CPUs' worth of time of "QUOTA PERIOD", both in microseconds; None where QUOTA is no limit.

    >>> parse_cpu_max("150000 100000")
    1.5
    >>> parse_cpu_max("max 100000")
    """
    quota, _, period = text.strip().partition(" ")
    if quota == "max" or int(quota) <= 0:  # v1 writes -1
        return None
    return int(quota) / int(period or 100_000)
