"""All jobs that have not ended: how one comes in, gets its turn, and ends."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from router.engine.job import Job
from router.engine.messages import Completion, Scores
from router.engine.sequences import Sequences
from router.errors import EngineBusy, EngineDown, EngineError


class Jobs:
    """At most `n_slots` jobs are worked on, and `n_queue` wait, none longer than `most_seconds`.

    How long one would wait is estimated when it comes: by how many are there before it, and how
    long the last ones took.

    Any thread may call `enter` and `close` and read the numbers; the rest is for the thread that
    works on the jobs.

    Attributes
    ----------
    active : the jobs that are worked on, each in a sequence of its own.
    n_unfinished : how many there are, waiting ones included.
    n_slots : how many are worked on at most.
    most : how many there may be.
    n_refused : how many were not let in because all places were taken.
    n_shed : how many were not because they would have waited too long.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        n_slots: int,
        n_queue: int,
        most_seconds: float = math.inf,
    ) -> None:
        self.active: list[Job] = []
        self.n_unfinished = 0
        self.n_slots = n_slots
        self.most = n_slots + n_queue
        self.n_refused = 0
        self.n_shed = 0
        self._most_seconds = most_seconds
        self._sequences = sequences
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._seconds_per_job: float | None = None

    def enter(self, job: Job) -> None:
        """Take a job and its siblings, all or none. Raises EngineBusy, EngineDown.

        A job that scores is never shed: it belongs to an answer that was let in.
        """
        n = 1 + len(job.siblings)
        with self._lock:
            if self._closed:
                raise EngineDown("the engine is shutting down")
            wait = self.expected_wait()
            if self.n_unfinished + n > self.most:
                self.n_refused += 1
                raise self._busy(wait)
            if wait > self._most_seconds and not job.continuations:
                self.n_shed += 1
                raise self._busy(wait)
            self.n_unfinished += n
            self._inbox.put(job)  # in here: nothing comes in after `close`

    def expected_wait(self) -> float:
        """Seconds that one who came now would wait for a slot; 0 before one was ever answered."""
        ahead = self.n_unfinished - self.n_slots + 1
        return max(0, ahead) * (self._seconds_per_job or 0.0) / self.n_slots

    def _busy(self, wait: float) -> EngineBusy:
        return EngineBusy(max(0, self.n_unfinished - self.n_slots), max(1.0, wait))

    def close(self) -> None:
        """Let no more in, and wake the thread that waits in `take_in`."""
        with self._lock:
            self._closed = True
        self._inbox.put(None)

    @property
    def closed(self) -> bool:
        return self._closed

    def take_in(self) -> bool:
        """Let those that came in wait their turn; sleeps when there is nothing else to do.

        False says that `close` was called.
        """
        idle = not self.active and not self._waiting
        while True:
            try:
                job = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._waiting.append(job)
            idle = False

    def drop_cancelled(self) -> None:
        """End those that nobody wants any more, without a word."""
        for job in [job for job in self.active if job.cancelled]:
            self._release(job)
        gone = [job for job in self._waiting if job.cancelled]
        for job in gone:
            self._waiting.remove(job)
            self._waiting.extend(job.siblings)
            job.siblings = []
            self._count_end()

    def start(self, place: Callable[[Job], None]) -> None:
        """Start those that wait, as far as sequences are free; `place` gives each its own."""
        while self._waiting and self._sequences.n_free:
            job = self._waiting.popleft()
            job.admitted = time.perf_counter()
            place(job)
            self.active.append(job)

    def start_siblings(self, job: Job) -> list[Job]:
        """Start the siblings of a job whose prompt is read, as far as sequences are free.

        The others wait like any job; each takes the prompt from a cache when its turn comes.
        """
        started = []
        for sibling in job.siblings:
            if sibling.cancelled:
                self._count_end()
            elif self._sequences.n_free:
                sibling.seq = self._sequences.take_neighbour()
                sibling.admitted = job.admitted
                self.active.append(sibling)
                started.append(sibling)
            else:
                self._waiting.append(sibling)
        job.siblings = []
        return started

    def complete(self, job: Job, result: Completion) -> None:
        """End a job with its answer; how long that took tells others how long to wait."""
        self.end(job, result)
        seconds = time.perf_counter() - job.admitted
        before = seconds if self._seconds_per_job is None else self._seconds_per_job
        self._seconds_per_job = before + 0.1 * (seconds - before)

    def end(self, job: Job, last: Completion | Scores | EngineError) -> None:
        """End a job and free its sequence; its sink is called with `last`."""
        if job in self.active:
            self._release(job)
        else:
            self._count_end()
        job.sink(last)

    def end_all(self, error: EngineDown) -> None:
        """Close, and end every job there is with `error`."""
        self.close()
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                self._waiting.append(job)
        for job in [*self.active, *self._waiting]:
            for each in (job, *job.siblings):
                each.sink(error)
        self.active.clear()
        self._waiting.clear()

    def _release(self, job: Job) -> None:
        self._waiting.extendleft(job.siblings)  # it ended before its prompt was read
        job.siblings = []
        self.active.remove(job)
        self._sequences.release(job.seq, job.held)
        self._count_end()

    def _count_end(self) -> None:
        with self._lock:
            self.n_unfinished -= 1
