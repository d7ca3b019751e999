"""Continuous batching: one thread, one context, many requests.

Every step decodes one batch: the next token of each answering request, and a chunk of the prompts
that still wait to be read. Requests join and leave between steps.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from router.engine.llama import BatchEntry, Context, Model
from router.engine.messages import (
    Completion,
    EngineStats,
    EngineTimings,
    GenerateRequest,
    TextDelta,
)
from router.engine.sampling import StepReader, TokenChooser, TokenStatistics
from router.engine.text import AnswerText
from router.errors import EngineBusy, EngineDown, EngineError
from uq.trace import Trace

log = logging.getLogger("router.engine.scheduler")

Event = TextDelta | Completion | EngineError
"""What a request's sink is called with; a Completion or an error is the last."""

Sink = Callable[[Event], None]
"""Called on the engine's thread; must not block."""

PREFILL_CHUNK = 256
"""Prompt tokens read at once: bounds how long a long prompt keeps the others from their tokens."""

LEAST_CHUNK = 2
"""A prompt token read alone goes through other kernels than one among several: its bits differ."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the scheduler. Made by `Scheduler.submit`."""

    request: GenerateRequest
    prompt: list[int]
    sink: Sink
    max_tokens: int
    submitted: float
    chooser: TokenChooser
    text: AnswerText
    cancelled: bool = False
    seq: int = -1
    n_past: int = 0
    next_token: int | None = None
    tokens: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    statistics: list[TokenStatistics] = field(default_factory=list)
    end_logprob: float = float("nan")
    admitted: float = 0.0
    first_token: float = 0.0
    uq_seconds: float = 0.0

    @property
    def is_prefilling(self) -> bool:
        return self.n_past < len(self.prompt)


class Scheduler:
    """Owns the context and the thread that runs it.

    At most `n_slots` requests are worked on and `n_queue` wait; one more gets EngineBusy.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        n_context: int,
        n_slots: int,
        n_queue: int,
    ) -> None:
        self._model = model
        self._context = context
        self._n_context = n_context
        self._n_slots = n_slots
        self._n_queue = n_queue
        self._reader = StepReader(model.n_vocab)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._free = list(range(n_slots))
        self._cached: list[list[int]] = [[] for _ in range(n_slots)]
        self._lock = threading.Lock()
        self._unfinished = 0
        self._closing = False
        self._seconds_per_job = 1.0
        self._decoded = 0
        self._prefilled = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: GenerateRequest, prompt: list[int], sink: Sink) -> Job:
        """Queue a request whose prompt fits the context. Raises EngineBusy, EngineDown."""
        room = self._n_context - len(prompt)
        job = Job(
            request=request,
            prompt=prompt,
            sink=sink,
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            submitted=time.perf_counter(),
            chooser=TokenChooser(request.sampler, prompt),
            text=AnswerText(request.stop),
        )
        with self._lock:
            if self._closing:
                raise EngineDown("the engine is shutting down")
            if self._unfinished >= self._n_slots + self._n_queue:
                waiting = self._unfinished - self._n_slots
                wait = self._seconds_per_job * (waiting + 1) / self._n_slots
                raise EngineBusy(waiting, max(1.0, wait))
            self._unfinished += 1
        self._inbox.put(job)
        return job

    def cancel(self, job: Job) -> None:
        """Drop a request; its slot is free at the next step. Harmless when it has ended."""
        job.cancelled = True

    def stats(self) -> EngineStats:
        """The load right now, safe to ask from any thread."""
        active = len(self._active)
        return EngineStats(
            active=active,
            waiting=max(0, self._unfinished - active),
            n_slots=self._n_slots,
            decoded_tokens=self._decoded,
            prefilled_tokens=self._prefilled,
        )

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._closing

    def close(self) -> None:
        """Stop the thread; requests still in flight end with EngineDown."""
        with self._lock:
            self._closing = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_in():
                self._drop_cancelled()
                self._admit()
                if self._active:
                    self._step()
        finally:  # also when a defect ends this thread: nobody may wait for it for ever
            with self._lock:
                self._closing = True
            self._end_all(EngineDown("the engine has stopped"))

    def _end_all(self, error: EngineDown) -> None:
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                self._waiting.append(job)
        for job in [*self._active, *self._waiting]:
            job.sink(error)
        self._active.clear()
        self._waiting.clear()

    def _take_in(self) -> bool:
        """Move new requests to the queue; sleeps when there is nothing else to do."""
        idle = not self._active and not self._waiting
        while True:
            try:
                job = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._waiting.append(job)
            idle = False

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._active if job.cancelled]:
            self._release(job)
        gone = [job for job in self._waiting if job.cancelled]
        for job in gone:
            self._waiting.remove(job)
            self._count_end()

    def _admit(self) -> None:
        while self._waiting and self._free:
            job = self._waiting.popleft()
            job.admitted = time.perf_counter()
            self._take_slot(job)
            self._active.append(job)

    def _take_slot(self, job: Job) -> None:
        """Give `job` the free slot that holds most of its beginning, and keep that."""
        shared = {seq: _common_prefix(self._cached[seq], job.prompt) for seq in self._free}
        job.seq = max(self._free, key=lambda seq: shared[seq])  # the longest free among equals
        self._free.remove(job.seq)
        job.n_past = max(0, min(shared[job.seq], len(job.prompt) - LEAST_CHUNK))
        self._context.clear(job.seq, job.n_past)

    def _step(self) -> None:
        """One token for every answering request, then some of the prompts that wait to be read.

        Tokens and prompts go to llama.cpp in batches of their own, and no prompt token goes alone:
        an answer then has the same bits whoever else is served and whatever its slot held before.
        """
        answering = [job for job in self._active if job.next_token is not None]
        if answering:
            self._decode_tokens(answering)
        budget = PREFILL_CHUNK
        for job in [job for job in self._active if job.is_prefilling]:
            if budget <= 0:
                break
            budget -= self._read_prompt(job)

    def _decode_tokens(self, jobs: list[Job]) -> None:
        batch = [
            BatchEntry(job.seq, [job.next_token], job.n_past, want_logits=True)
            for job in jobs
            if job.next_token is not None
        ]
        if self._decode(jobs, batch):
            for index, job in enumerate(jobs):
                job.n_past += 1
                self._take_token(job, self._context.logits(index))

    def _read_prompt(self, job: Job) -> int:
        """Prefill the next chunk; returns its length. The last one yields the first token."""
        n_left = len(job.prompt) - job.n_past
        n = min(n_left, PREFILL_CHUNK)
        if 0 < n_left - n < LEAST_CHUNK:
            n -= LEAST_CHUNK
        chunk = job.prompt[job.n_past : job.n_past + n]
        is_last = job.n_past + len(chunk) == len(job.prompt)
        if self._decode([job], [BatchEntry(job.seq, chunk, job.n_past, want_logits=is_last)]):
            job.n_past += len(chunk)
            self._prefilled += len(chunk)
            if is_last:
                self._take_token(job, self._context.logits(len(chunk) - 1))
        return len(chunk)

    def _decode(self, jobs: list[Job], batch: list[BatchEntry]) -> bool:
        """Run a batch. One that llama.cpp can't compute ends the requests in it, not the engine."""
        try:
            self._context.decode(batch)
        except EngineError as error:
            log.error("a batch of %d sequences failed: %s", len(batch), error)
            for job in jobs:
                job.n_past = 0  # what its slot holds now is not to be trusted
                self._end(job, error)
            return False
        return True

    def _take_token(self, job: Job, row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        started = time.perf_counter()
        if not job.first_token:
            job.first_token = started
        best = self._reader.read(row)
        token = job.chooser.choose(row, best)
        statistics = self._reader.statistics(token, job.request.top_logprobs)
        job.uq_seconds += time.perf_counter() - started
        self._decoded += 1
        if self._model.is_end(token):
            job.end_logprob = statistics.logprob
            self._complete(job, "stop")
            return
        offset, shown = job.text.push(self._model.piece(token))
        job.tokens.append(token)
        job.offsets.append(offset)
        job.statistics.append(statistics)
        if shown and job.request.stream:
            job.sink(TextDelta(shown))
        if job.text.stopped:
            self._complete(job, "stop")
        elif len(job.tokens) >= job.max_tokens:
            self._complete(job, "length")
        else:
            job.next_token = token

    def _complete(self, job: Job, finish_reason: str) -> None:
        rest = job.text.finish()
        if rest and job.request.stream:
            job.sink(TextDelta(rest))
        self._end(job, self._completion(job, finish_reason))

    def _completion(self, job: Job, finish_reason: str) -> Completion:
        text = job.text.text
        kept = [i for i, offset in enumerate(job.offsets) if offset < len(text)]
        steps = [job.statistics[i] for i in kept]
        tokens = [job.tokens[i] for i in kept]
        k = job.request.top_logprobs
        trace = Trace(
            text=text,
            tokens=np.array(tokens, np.int64),
            offsets=np.array([job.offsets[i] for i in kept], np.int64),
            logprobs=np.array([s.logprob for s in steps]),
            entropies=np.array([s.entropy for s in steps]),
            margins=np.array([s.margin for s in steps]),
            top_ids=np.array([s.top_ids for s in steps], np.int64).reshape(len(steps), k),
            top_logprobs=np.array([s.top_logprobs for s in steps]).reshape(len(steps), k),
            end_logprob=job.end_logprob,
            finish_reason=finish_reason,
            n_prompt=len(job.prompt),
        )
        ended = time.perf_counter()
        timings = EngineTimings(
            queue=(job.admitted - job.submitted) * 1e3,
            prefill=(job.first_token - job.admitted) * 1e3,
            decode=(ended - job.first_token - job.uq_seconds) * 1e3,
            uq=job.uq_seconds * 1e3,
        )
        seconds = ended - job.admitted
        self._seconds_per_job += 0.1 * (seconds - self._seconds_per_job)
        piece = self._model.piece
        return Completion(
            trace=trace,
            timings=timings,
            pieces=tuple(piece(t) for t in tokens),
            top_pieces=tuple(tuple(piece(t) for t in s.top_ids) for s in steps),
        )

    def _end(self, job: Job, last: Completion | EngineError) -> None:
        if job in self._active:
            self._release(job)
        else:
            self._count_end()
        job.sink(last)

    def _release(self, job: Job) -> None:
        self._active.remove(job)
        self._cached[job.seq] = [*job.prompt, *job.tokens][: job.n_past]
        self._free.append(job.seq)
        self._count_end()

    def _count_end(self) -> None:
        with self._lock:
            self._unfinished -= 1


def _common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    for n, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return n
    return min(len(a), len(b))
