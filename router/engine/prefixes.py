"""System prompts that were read once, and stay on disk."""

from __future__ import annotations

import logging
import queue
import threading

from router.engine.context import Context
from router.engine.job import Job
from router.engine.prefix_store import PrefixStore
from router.errors import EngineError

log = logging.getLogger("router.engine.prefixes")


class Prefixes:
    """Loads and saves what a `PrefixStore` holds; files are written by a thread of their own."""

    def __init__(self, store: PrefixStore) -> None:
        self._store = store
        self._to_write: queue.SimpleQueue[tuple[str, list[int], bytes] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="prefixes", daemon=True)
        self._writer.start()

    def load(self, context: Context, job: Job, tokens: list[int], *, at_least: int) -> int:
        """Put the longest stored beginning of `tokens`, of its prompt, into the job's sequence.

        Returns its length, 0 when none has `at_least` so many tokens or it could not be read.
        """
        found = self._store.find(job.request.tenant, tokens)
        if found is None or len(found.tokens) < at_least:
            return 0
        try:
            context.load(job.seq, found.read())
        except EngineError as error:
            log.warning("a stored system prompt could not be used: %s", error)
            found.remove()
            context.clear(job.seq)
            job.n_past = job.n_reused = 0
            return 0
        return len(found.tokens)

    def save(self, context: Context, job: Job) -> None:
        """Keep the system part of the job's prompt, which its sequence holds just now."""
        tokens, tenant = job.prompt[: job.n_system], job.request.tenant
        found = self._store.find(tenant, tokens)
        if found is None or len(found.tokens) < len(tokens):
            self._to_write.put((tenant, tokens, context.save(job.seq)))

    def close(self) -> None:
        """Finish writing."""
        self._to_write.put(None)
        self._writer.join()

    def _write(self) -> None:
        while (work := self._to_write.get()) is not None:
            try:
                self._store.save(*work)
            except (OSError, EngineError) as error:
                log.warning("a system prompt could not be kept on disk: %s", error)
