"""Tests. Processes that run them side by side take one core each.

Engines, BLAS and torch start a thread for every core that they may use. Those of one process would
spin while they wait for a turn after those of another. BLAS counts cores when numpy is imported, so
this comes before any test is.
"""

import os
import sys


def _take_one_core(worker: str) -> None:
    """Leave this process and its children one core, by the number of the pytest-xdist worker."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    _take_one_core(worker)
