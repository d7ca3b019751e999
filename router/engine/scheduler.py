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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.engine.context import BatchEntry, Context
from router.engine.hidden import HiddenSums
from router.engine.job import Job, Sink
from router.engine.llama import Model
from router.engine.messages import (
    Completion,
    EngineStats,
    EngineTimings,
    GenerateRequest,
    Scores,
    TextDelta,
)
from router.engine.sampling import StepReader, TokenChooser
from router.engine.tap import Copy
from router.engine.text import AnswerText
from router.errors import EngineBusy, EngineDown, EngineError
from uq.trace import Trace

log = logging.getLogger("router.engine.scheduler")

PREFILL_CHUNK = 256
"""Prompt tokens read at once: bounds how long a long prompt keeps the others from their tokens."""

LEAST_CHUNK = 2
"""A prompt token read alone goes through other kernels than one among several: its bits differ."""


FloatRow = np.ndarray[tuple[int], np.dtype[np.float32]]


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
        job = self._job(request, prompt, sink)
        self._enqueue(job, 1)
        return job

    def submit_samples(
        self, requests: Sequence[GenerateRequest], prompt: list[int], sinks: Sequence[Sink]
    ) -> list[Job]:
        """Queue requests that differ in their sampler only: the prompt is read once for all.

        Raises EngineBusy, EngineDown, and EngineError for more than the queue could ever hold.
        """
        most = self._n_slots + self._n_queue
        if len(requests) > most:
            raise EngineError(
                f"{len(requests)} samples at once are more than the engine's {most} slots and "
                "places in the queue; raise `slots` or `queue`"
            )
        jobs = [
            self._job(request, prompt, sink) for request, sink in zip(requests, sinks, strict=True)
        ]
        jobs[0].siblings = jobs[1:]
        self._enqueue(jobs[0], len(jobs))
        return jobs

    def submit_score(
        self, prompt: list[int], continuations: tuple[tuple[int, ...], ...], sink: Sink
    ) -> Job:
        """Queue the scoring of token sequences that may follow a prompt; the sink gets Scores.

        Prompt and any continuation must fit the context together. Raises EngineBusy, EngineDown.
        """
        job = self._job(GenerateRequest(messages=()), prompt, sink)
        job.continuations = continuations
        self._enqueue(job, 1)
        return job

    def _job(self, request: GenerateRequest, prompt: list[int], sink: Sink) -> Job:
        room = self._n_context - len(prompt)
        tap = self._context.tap
        return Job(
            request=request,
            prompt=prompt,
            sink=sink,
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            submitted=time.perf_counter(),
            chooser=TokenChooser(request.sampler, prompt),
            text=AnswerText(request.stop),
            hidden=HiddenSums(tap.layers) if tap is not None and _wants_states(request) else None,
        )

    def _enqueue(self, job: Job, n: int) -> None:
        with self._lock:
            if self._closing:
                raise EngineDown("the engine is shutting down")
            if self._unfinished + n > self._n_slots + self._n_queue:
                waiting = max(0, self._unfinished - self._n_slots)
                wait = self._seconds_per_job * (waiting + 1) / self._n_slots
                raise EngineBusy(waiting, max(1.0, wait))
            self._unfinished += n
        self._inbox.put(job)

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
            for each in (job, *job.siblings):
                each.sink(error)
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
            self._waiting.extend(job.siblings)
            job.siblings = []
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
        # In the order of their sequences: llama.cpp computes runs of neighbours at once.
        jobs = sorted(jobs, key=lambda job: job.seq)
        batch = [
            BatchEntry(job.seq, [job.next_token], job.n_past, want_logits=True)
            for job in jobs
            if job.next_token is not None
        ]
        wants_hidden = any(job.follows_states for job in jobs)
        if self._decode(jobs, batch, Copy.ALL_ROWS if wants_hidden else Copy.NOTHING):
            if wants_hidden:
                self._take_answer_states(jobs)
            for index, job in enumerate(jobs):
                job.n_past += 1
                self._take_token(job, self._context.logits(index))

    def _take_answer_states(self, jobs: list[Job]) -> None:
        states = self._states(jobs, len(jobs))
        for index, job in enumerate(jobs):
            if job.follows_states and job.hidden is not None and states is not None:
                job.hidden.take_answer_token(states[:, index])

    def _states(self, jobs: list[Job], n: int) -> NDArray[np.float32] | None:
        """The hidden states of the last batch; without them the jobs' traces have none."""
        try:
            if self._context.tap is None:
                raise EngineError("no layers are read")
            return self._context.tap.states(n)
        except EngineError as error:
            log.error("%s", error)
            for job in jobs:
                job.hidden = None
            return None

    def _read_prompt(self, job: Job) -> int:
        """Prefill the next chunk; returns its length. The last one yields the first token."""
        n_left = len(job.prompt) - job.n_past
        n = min(n_left, PREFILL_CHUNK)
        if 0 < n_left - n < LEAST_CHUNK:
            n -= LEAST_CHUNK
        chunk = job.prompt[job.n_past : job.n_past + n]
        is_last = job.n_past + len(chunk) == len(job.prompt)
        wants_hidden = is_last and any(each.hidden is not None for each in (job, *job.siblings))
        entry = BatchEntry(job.seq, chunk, job.n_past, want_logits=is_last)
        if self._decode([job], [entry], Copy.LAST_ROW if wants_hidden else Copy.NOTHING):
            job.n_past += len(chunk)
            self._prefilled += len(chunk)
            if is_last:
                self._leave_prompt(job, self._context.logits(len(chunk) - 1), wants_hidden)
        return len(chunk)

    def _leave_prompt(self, job: Job, row: FloatRow, with_states: bool) -> None:
        """The prompt is read, `row` follows it: fork the siblings, and take the first token."""
        if job.continuations:
            self._score(job, row)
            return
        jobs = [job, *self._fork_siblings(job)]
        states = self._states(jobs, 1) if with_states else None
        for each in jobs:
            if each.hidden is not None and states is not None:
                each.hidden.take_prompt_end(states[:, 0])
        for each in jobs:
            if each.is_gated:
                self._complete(each, "gated")
            else:
                self._take_token(each, row)

    def _fork_siblings(self, job: Job) -> list[Job]:
        """Let siblings go on from the prompt that `job` has read, as far as there are slots.

        The others wait like any request; each reads the prompt's end again in the slot it gets.
        """
        forks = []
        for sibling in job.siblings:
            if sibling.cancelled:
                self._count_end()
            elif self._free:
                sibling.seq = self._free.pop(0)
                sibling.admitted = job.admitted
                sibling.n_past = job.n_past
                self._context.copy(job.seq, sibling.seq)
                self._active.append(sibling)
                forks.append(sibling)
            else:
                self._waiting.append(sibling)
        job.siblings = []
        return forks

    def _score(self, job: Job, row: FloatRow) -> None:
        """Score the continuations, as many at once as there are slots, and complete the job."""
        log_z = _log_normaliser(row)
        found = [[float(row[tokens[0]]) - log_z] for tokens in job.continuations]
        longer = [i for i, tokens in enumerate(job.continuations) if len(tokens) > 1]
        while longer:
            # Each is read with the prompt's last token before it, and all are padded to one
            # length: the bits then don't depend on how many go into a batch.
            length = max(len(job.continuations[i]) for i in longer)
            room = max(1, PREFILL_CHUNK // length)
            seqs = [job.seq, *self._free[: min(room, len(longer)) - 1]]
            now, longer = longer[: len(seqs)], longer[len(seqs) :]
            if not self._score_batch(job, seqs, now, length, found):
                return
        self._end(job, Scores(tuple(tuple(logprobs) for logprobs in found)))

    def _score_batch(
        self, job: Job, seqs: list[int], now: list[int], length: int, found: list[list[float]]
    ) -> bool:
        start = len(job.prompt) - 1
        batch = []
        for seq, i in zip(seqs, now, strict=True):
            if seq != job.seq:
                self._context.copy(job.seq, seq)
                self._cached[seq] = job.prompt[:start]
            self._context.clear(seq, start)
            tokens = [job.prompt[-1], *job.continuations[i][:-1]]
            tokens += tokens[-1:] * (length - len(tokens))
            batch.append(BatchEntry(seq, tokens, start, want_logits=True, want_all=True))
        job.n_past = start
        if not self._decode([job], batch, Copy.NOTHING):
            return False
        self._prefilled += length * len(now)
        for place, (seq, i) in enumerate(zip(seqs, now, strict=True)):
            for t, token in enumerate(job.continuations[i][1:], start=1):
                after = self._context.logits(place * length + t)
                found[i].append(float(after[token]) - _log_normaliser(after))
            self._context.clear(seq, start)
        return True

    def _decode(self, jobs: list[Job], batch: list[BatchEntry], copy: Copy) -> bool:
        """Run a batch. One that llama.cpp can't compute ends the requests in it, not the engine."""
        try:
            if self._context.tap is not None:
                self._context.tap.arm(copy)
            self._context.decode(batch)
        except EngineError as error:
            log.error("a batch of %d sequences failed: %s", len(batch), error)
            for job in jobs:
                job.n_past = 0  # what its slot holds now is not to be trusted
                self._end(job, error)
            return False
        return True

    def _take_token(self, job: Job, row: FloatRow) -> None:
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
        elif job.is_hopeless:
            self._complete(job, "stopped")
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
            hidden=job.hidden.result() if job.hidden is not None else None,
        )
        ended = time.perf_counter()
        began = job.first_token or ended  # a gated answer has no first token
        timings = EngineTimings(
            queue=(job.admitted - job.submitted) * 1e3,
            prefill=(began - job.admitted) * 1e3,
            decode=(ended - began - job.uq_seconds) * 1e3,
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

    def _end(self, job: Job, last: Completion | Scores | EngineError) -> None:
        if job in self._active:
            self._release(job)
        else:
            self._count_end()
        job.sink(last)

    def _release(self, job: Job) -> None:
        self._waiting.extendleft(job.siblings)  # it ended before its prompt was read
        job.siblings = []
        self._active.remove(job)
        self._cached[job.seq] = [*job.prompt, *job.tokens][: job.n_past]
        self._free.append(job.seq)
        self._count_end()

    def _count_end(self) -> None:
        with self._lock:
            self._unfinished -= 1


def _wants_states(request: GenerateRequest) -> bool:
    return request.hidden or (request.exits is not None and request.exits.gate is not None)


def _log_normaliser(row: FloatRow) -> float:
    best = float(row.max())
    return best + float(np.log(np.exp(row - best).sum(dtype=np.float64)))


def _common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    for n, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return n
    return min(len(a), len(b))
