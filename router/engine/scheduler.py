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
from functools import partial

import numpy as np
from numpy.typing import NDArray

from router.engine.completion import completion_of
from router.engine.context import BatchEntry, Context, FloatRow
from router.engine.draft import Ask, Drafter, Pace, StepCost
from router.engine.hidden import HiddenSums
from router.engine.job import Job, Sink
from router.engine.llama import Model
from router.engine.messages import (
    Completion,
    EngineStats,
    GenerateRequest,
    Partial,
    Scores,
    TextDelta,
)
from router.engine.meter import Meter
from router.engine.prefixes import Prefixes
from router.engine.sampling import StepReader, TokenChooser
from router.engine.scoring import Scorer
from router.engine.sequences import WORTH_COPYING, Sequences, common_prefix
from router.engine.tap import Copy
from router.engine.text import AnswerText
from router.errors import EngineBusy, EngineDown, EngineError

log = logging.getLogger("router.engine.scheduler")

PREFILL_CHUNK = 256
"""Prompt tokens read at once: bounds how long a long prompt keeps the others from their tokens."""

SECONDS_BETWEEN_PIECES = 0.05
"""A streamed answer's pieces come no faster; the first one comes at once."""

LEAST_CHUNK = 2
"""With some weights' types one token goes through other kernels than several: its bits differ."""


class Scheduler:
    """Owns the context and the thread that runs it.

    At most `n_slots` requests are worked on and `n_queue` wait; one more gets EngineBusy. With a
    `drafter`, up to `draft_tokens` are guessed for a sequence and checked in one step; answers and
    what is observed of them stay the same. `prefixes` keeps system prompts across restarts.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        n_context: int,
        n_slots: int,
        n_queue: int,
        prefill_chunk: int = PREFILL_CHUNK,
        drafter: Drafter | None = None,
        draft_tokens: int = 0,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._model = model
        self._context = context
        self._n_context = n_context
        self._n_slots = n_slots
        self._n_queue = n_queue
        self._chunk = prefill_chunk
        self._drafter = drafter
        self._draft_tokens = draft_tokens
        self._prefixes = prefixes
        self._cost = StepCost()
        self._reader = StepReader(model.n_vocab)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._sequences = Sequences(n_slots)
        self._scorer = Scorer(context, self._sequences, prefill_chunk, self._decode_scores)
        self._meter = Meter()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._closing = False
        self._seconds_per_job = 1.0
        self._decoded = 0
        self._prefilled = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, request: GenerateRequest, prompt: list[int], sink: Sink, *, n_system: int = 0
    ) -> Job:
        """Queue a request whose prompt fits the context. Raises EngineBusy, EngineDown.

        `n_system` tokens of the prompt are the same whatever the user says.
        """
        job = self._job(request, prompt, sink)
        job.n_system = n_system
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
        self,
        prompt: list[int],
        continuations: tuple[tuple[int, ...], ...],
        sink: Sink,
        *,
        tenant: str = "",
    ) -> Job:
        """Queue the scoring of token sequences that may follow a prompt; the sink gets Scores.

        Prompt and any continuation must fit the context together. Raises EngineBusy, EngineDown.
        """
        job = self._job(GenerateRequest(messages=(), tenant=tenant), prompt, sink)
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
            pace=self._pace(),
        )

    def _pace(self) -> Pace | None:
        if self._drafter is None or self._drafter.judges_itself:
            return None
        return Pace(self._draft_tokens)

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
            extra=self._meter.snapshot(),
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
        while self._waiting and self._sequences.n_free:
            job = self._waiting.popleft()
            job.admitted = time.perf_counter()
            self._place(job)
            self._active.append(job)

    def _place(self, job: Job) -> None:
        """Give `job` a sequence, with what is already known of its prompt."""
        tenant = job.request.tenant
        live = {other.seq: other.held for other in self._active}
        place = self._sequences.take(tenant, job.prompt, live)
        job.seq = place.seq
        self._start_at(job, place.n_shared, place.source)
        self._follow(job)
        if self._prefixes is not None and job.leader is None:
            loaded = self._prefixes.load(self._context, job, at_least=job.n_past + WORTH_COPYING)
            job.n_past = job.n_reused = max(job.n_past, loaded)

    def _start_at(self, job: Job, n_shared: int, source: int) -> None:
        """Let `job` go on after its first `n_shared` tokens, which the sequence `source` holds."""
        n = max(0, min(n_shared, len(job.prompt) - LEAST_CHUNK))
        if source != job.seq:
            self._context.copy(source, job.seq)
        self._context.clear(job.seq, n)
        job.n_past = job.n_reused = n

    def _follow(self, job: Job) -> None:
        """When another is just reading more of the same beginning, wait for that."""
        for other in self._active:
            if other.is_prefilling and other.request.tenant == job.request.tenant:
                shared = common_prefix(other.prompt, job.prompt)
                n = min(shared, len(job.prompt) - LEAST_CHUNK)
                if n >= max(job.n_past, job.n_led) + WORTH_COPYING:
                    job.leader, job.n_led = other, n

    def _may_read(self, job: Job) -> bool:
        """Whether `job` need not wait for its leader (any longer); takes what that has read."""
        leader = job.leader
        if leader is None:
            return True
        if leader in self._active:
            if leader.n_past < job.n_led and leader.is_prefilling:
                return False
            n = min(job.n_led, leader.n_past)
            if n >= job.n_past + WORTH_COPYING:
                self._start_at(job, n, leader.seq)
        job.leader = None
        return True

    def _step(self) -> None:
        """One step for every answering request, then some of the prompts that wait to be read.

        Tokens and prompts go to llama.cpp in batches of their own, and no prompt token goes alone:
        an answer then has the same bits whoever else is served and whatever its slot held before,
        with weights of any type.
        """
        answering = [job for job in self._active if job.next_token is not None]
        if answering:
            with self._meter.token_step():
                self._decode_tokens(answering)
        budget = self._chunk
        for job in [job for job in self._active if job.is_prefilling]:
            if budget <= 0:
                break
            if self._may_read(job):
                budget -= self._read_prompt(job)

    def _decode_tokens(self, jobs: list[Job]) -> None:
        # In the order of their sequences: llama.cpp computes runs of neighbours at once.
        jobs = sorted(jobs, key=lambda job: job.seq)
        guesses = self._guess(jobs)
        batch = [
            BatchEntry(job.seq, _inputs(job, guess), job.n_past, want_logits=True, want_all=True)
            for job, guess in zip(jobs, guesses, strict=True)
        ]
        n_rows = sum(len(entry.tokens) for entry in batch)
        wants_hidden = any(job.follows_states for job in jobs)
        began = time.perf_counter()
        if not self._decode(jobs, batch, Copy.ALL_ROWS if wants_hidden else Copy.NOTHING):
            return
        seconds = time.perf_counter() - began
        self._meter.seconds_decode += seconds
        self._cost.took(n_rows, seconds)
        states = self._states(jobs, n_rows) if wants_hidden else None
        computed = {place: i for i, place in enumerate(self._context.computed_order(batch))}
        first_row = 0
        for index, (job, entry) in enumerate(zip(jobs, batch, strict=True)):
            rows = [computed[index, t] for t in range(len(entry.tokens))]
            self._verify(job, entry.tokens, first_row, None if states is None else states[:, rows])
            first_row += len(entry.tokens)

    def _guess(self, jobs: list[Job]) -> list[list[int]]:
        """What may come next, for each job: nothing where guessing does not pay."""
        if self._drafter is None:
            return [[] for _ in jobs]
        began = time.perf_counter()
        others = len(jobs) - 1
        worth = partial(self._cost.worth, others=others)
        asks: dict[int, Ask] = {}
        for job in jobs:
            room = min(job.max_tokens - len(job.tokens), self._n_context - job.n_past) - 1
            wanted = job.pace.length(self._cost, others) if job.pace else self._draft_tokens
            if min(wanted, room) > 0:
                tokens = [*job.prompt, *job.tokens]
                asks[job.seq] = Ask(job.seq, tokens, min(wanted, room), worth)
        proposed = dict(zip(asks, self._drafter.propose(list(asks.values())), strict=True))
        self._cost.per_guess = self._drafter.seconds_per_guess
        self._meter.seconds_guessing += time.perf_counter() - began
        return [proposed.get(job.seq, []) for job in jobs]

    def _verify(
        self, job: Job, inputs: Sequence[int], first_row: int, states: NDArray[np.float32] | None
    ) -> None:
        """Take the token after each of `inputs`, as long as the next input is the one taken.

        A token is drawn as it would be without guessing, which for guesses that are certain of
        themselves is rejection sampling: answers have the same distribution, even the same tokens.
        """
        start, taken = job.n_past, 0
        job.n_guessed += len(inputs) - 1  # before the last token completes the job
        self._meter.guessed += len(inputs) - 1
        for t, token in enumerate(inputs):
            if t > 0:
                if token != job.next_token:
                    break
                job.n_accepted += 1
                self._meter.accepted += 1
            taken = t + 1
            job.n_past = start + taken
            if states is not None and job.follows_states and job.hidden is not None:
                job.hidden.take_answer_token(states[:, t])
            self._take_token(job, self._context.logits(first_row + t))
            if job.next_token is None:
                break
        if taken < len(inputs):
            self._context.clear(job.seq, start + taken)
        if len(inputs) > 1 and job.pace is not None:
            job.pace.verified(len(inputs) - 1, taken - 1)

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
        chunk = job.prompt[job.n_past : job.n_past + self._chunk_length(job)]
        is_last = job.n_past + len(chunk) == len(job.prompt)
        wants_hidden = is_last and any(each.hidden is not None for each in (job, *job.siblings))
        entry = BatchEntry(job.seq, chunk, job.n_past, want_logits=is_last)
        began = time.perf_counter()
        if self._decode([job], [entry], Copy.LAST_ROW if wants_hidden else Copy.NOTHING):
            self._meter.seconds_prefill += time.perf_counter() - began
            job.n_past += len(chunk)
            self._prefilled += len(chunk)
            if self._prefixes is not None and job.n_past == job.n_system:
                self._prefixes.save(self._context, job)
            if is_last:
                self._leave_prompt(job, self._context.logits(len(chunk) - 1), wants_hidden)
        return len(chunk)

    def _chunk_length(self, job: Job) -> int:
        to_system = job.n_system - job.n_past
        if self._prefixes is not None and LEAST_CHUNK <= to_system <= self._chunk:
            return to_system  # what is kept on disk ends here
        n_left = len(job.prompt) - job.n_past
        n = min(n_left, self._chunk)
        return n - LEAST_CHUNK if 0 < n_left - n < LEAST_CHUNK else n

    def _leave_prompt(self, job: Job, row: FloatRow, with_states: bool) -> None:
        """The prompt is read, `row` follows it: fork the siblings, and take the first token."""
        self._meter.reused += job.n_reused
        if job.continuations:
            scores = self._scorer.score(job, row)
            if scores is not None:
                self._end(job, scores)
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

        The others wait like any request; each takes the prompt from a cache when it gets a slot.
        """
        forks = []
        for sibling in job.siblings:
            if sibling.cancelled:
                self._count_end()
            elif self._sequences.n_free:
                sibling.seq = self._sequences.take_neighbour()
                sibling.admitted = job.admitted
                sibling.n_past = sibling.n_reused = job.n_past
                self._context.copy(job.seq, sibling.seq)
                self._active.append(sibling)
                forks.append(sibling)
            else:
                self._waiting.append(sibling)
        job.siblings = []
        return forks

    def _decode_scores(self, job: Job, batch: list[BatchEntry]) -> bool:
        self._prefilled += sum(len(entry.tokens) for entry in batch)
        return self._decode([job], batch, Copy.NOTHING)

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
        """The token that follows `row`; `next_token` is None afterwards when it ended the job."""
        job.next_token = None
        began = time.perf_counter()
        if not job.first_token:
            job.first_token = began
        best = self._reader.read(row)
        read = time.perf_counter()
        token = job.chooser.choose(row, best)
        chosen = time.perf_counter()
        statistics = self._reader.statistics(token, job.request.top_logprobs)
        counted = time.perf_counter()
        job.uq_seconds += counted - began
        self._meter.seconds_statistics += (read - began) + (counted - chosen)
        self._meter.seconds_sampling += chosen - read
        self._decoded += 1
        if self._model.is_end(token):
            job.end_logprob = statistics.logprob
            self._complete(job, "stop")
            return
        offset, shown = job.text.push(self._model.piece(token))
        self._meter.seconds_text += time.perf_counter() - counted
        job.tokens.append(token)
        job.offsets.append(offset)
        job.statistics.append(statistics)
        if shown and job.request.stream:
            self._show(job, shown)
        if job.text.stopped:
            self._complete(job, "stop")
        elif len(job.tokens) >= job.max_tokens:
            self._complete(job, "length")
        elif job.is_hopeless:
            self._complete(job, "stopped")
        else:
            job.next_token = token
            if job.is_to_be_looked_at(counted):
                job.looked_at = True
                job.sink(Partial(completion_of(job, self._model, "stopped")))

    def _show(self, job: Job, text: str) -> None:
        """Send text on its way, together with the last bit of it when that is very young.

        On two cores every piece takes from computing what it costs to hand it through two
        processes and the client; nobody reads faster than this.
        """
        job.unsent += text
        now = time.perf_counter()
        if now - job.sent_at >= SECONDS_BETWEEN_PIECES:
            job.sink(TextDelta(job.unsent))
            job.unsent, job.sent_at = "", now

    def _complete(self, job: Job, finish_reason: str) -> None:
        rest = job.unsent + job.text.finish()
        if rest and job.request.stream:
            job.sink(TextDelta(rest))
        self._end(job, completion_of(job, self._model, finish_reason))
        seconds = time.perf_counter() - job.admitted
        self._seconds_per_job += 0.1 * (seconds - self._seconds_per_job)

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
        self._sequences.release(job.seq, job.held)
        self._count_end()

    def _count_end(self) -> None:
        with self._lock:
            self._unfinished -= 1


def _wants_states(request: GenerateRequest) -> bool:
    return request.hidden or (request.exits is not None and request.exits.gate is not None)


def _inputs(job: Job, guess: list[int]) -> list[int]:
    assert job.next_token is not None, "only answering jobs are decoded"
    return [job.next_token, *guess]
