"""How long one query's stages took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from router.engine.messages import Completion, EngineTimings


class Clock:
    """Measures one query's way, in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._remote_ms = 0.0

    @contextlib.contextmanager
    def remote(self) -> Iterator[None]:
        """Counts what happens inside as time spent on the upstream."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._remote_ms += (time.perf_counter() - began) * 1e3

    def timings(self, completion: Completion | None) -> dict[str, float]:
        """What `Answer.timings_ms` holds."""
        local = completion.timings if completion else EngineTimings()
        return {
            "queue": local.queue,
            "prefill": local.prefill,
            "decode": local.decode,
            "uq": local.uq,
            "remote": self._remote_ms,
            "total": (time.perf_counter() - self._began) * 1e3,
        }
