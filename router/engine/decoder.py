"""Batches on their way through llama.cpp; one that fails ends its jobs, not the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from router.engine.context import BatchEntry, Context
from router.engine.job import Job
from router.engine.jobs import Jobs
from router.engine.tap import Copy
from router.errors import EngineError

log = logging.getLogger("router.engine.decoder")


class Decoder:
    """Decodes batches for jobs, and reads the hidden states that come with them."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._context = context
        self._jobs = jobs

    def decode(
        self,
        jobs: list[Job],
        batch: list[BatchEntry],
        copy: Copy,
        given_up: Callable[[], bool] | None = None,
    ) -> bool:
        """Run a batch. False: llama.cpp can't compute it, and `jobs` ended with its error.

        Or `given_up` said meanwhile that nobody wants it; then nothing has changed.
        """
        try:
            if self._context.tap is not None:
                self._context.tap.arm(copy)
            return self._context.decode(batch, given_up)
        except EngineError as error:
            log.error("a batch of %d sequences failed: %s", len(batch), error)
            for job in jobs:
                job.n_past = 0  # what its slot holds now is not to be trusted
                self._jobs.end(job, error)
            return False

    def states(self, jobs: list[Job], n: int) -> NDArray[np.float32] | None:
        """The hidden states of the last batch's `n` copied rows, in the order of computation.

        None when they are missing; the traces of `jobs` then have none.
        """
        try:
            if self._context.tap is None:
                raise EngineError("no layers are read")
            return self._context.tap.states(n)
        except EngineError as error:
            log.error("%s", error)
            for job in jobs:
                job.hidden = None
            return None
