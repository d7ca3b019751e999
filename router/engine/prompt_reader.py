"""Prompts, chunk by chunk: what is known already is not read again, however it became known."""

from __future__ import annotations

import time

from router.engine.answer_writer import AnswerWriter
from router.engine.context import BatchEntry, Context, FloatRow
from router.engine.decoder import Decoder
from router.engine.job import Job
from router.engine.jobs import Jobs
from router.engine.meter import Meter
from router.engine.prefixes import Prefixes
from router.engine.scoring import Scorer
from router.engine.sequences import WORTH_COPYING, Sequences, common_prefix
from router.engine.tap import Copy

LEAST_CHUNK = 2
"""With some weights' types one token goes through other kernels than several: its bits differ."""


WORTH_STOPPING = 64
"""Tokens of a chunk from which on it is stopped half-way when nobody wants it any more; a shorter
one is read before that pays for asking."""


class PromptReader:
    """Reads the prompts of jobs, at most `chunk` tokens at once, up to their first tokens.

    `prefixes` keeps system prompts across restarts.

    Attributes
    ----------
    n_tokens : how many tokens were read so far.
    """

    def __init__(
        self,
        context: Context,
        sequences: Sequences,
        *,
        jobs: Jobs,
        decoder: Decoder,
        answers: AnswerWriter,
        meter: Meter,
        chunk: int,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.n_tokens = 0
        self._context = context
        self._sequences = sequences
        self._jobs = jobs
        self._decoder = decoder
        self._answers = answers
        self._meter = meter
        self._chunk = chunk
        self._prefixes = prefixes
        self._scorer = Scorer(context, sequences, chunk, self._decode_scores)

    def place(self, job: Job) -> None:
        """Give `job` a sequence, with what is already known of its prompt."""
        tenant = job.request.tenant
        live = {other.seq: other.held for other in self._jobs.active}
        place = self._sequences.take(tenant, job.prompt, live)
        job.seq = place.seq
        self._start_at(job, place.n_shared, place.source)
        self._follow(job)
        if self._prefixes is not None and job.leader is None:
            beginning = job.prompt[:-LEAST_CHUNK]
            least = job.n_past + WORTH_COPYING
            loaded = self._prefixes.load(self._context, job, beginning, at_least=least)
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
        for other in self._jobs.active:
            if other.is_prefilling and other.request.tenant == job.request.tenant:
                shared = common_prefix(other.prompt, job.prompt)
                n = min(shared, len(job.prompt) - LEAST_CHUNK)
                if n >= max(job.n_past, job.n_led) + WORTH_COPYING:
                    job.leader, job.n_led = other, n

    def step(self) -> None:
        """Read about a chunk, of the prompts that came first."""
        budget = self._chunk
        for job in [job for job in self._jobs.active if job.is_prefilling]:
            if budget <= 0:
                break
            if self._may_read(job):
                budget -= self._read(job)

    def _may_read(self, job: Job) -> bool:
        """Whether `job` need not wait for its leader (any longer); takes what that has read."""
        leader = job.leader
        if leader is None:
            return True
        if leader in self._jobs.active:
            if leader.n_past < job.n_led and leader.is_prefilling:
                return False
            n = min(job.n_led, leader.n_past)
            if n >= job.n_past + WORTH_COPYING:
                self._start_at(job, n, leader.seq)
        job.leader = None
        return True

    def _read(self, job: Job) -> int:
        """Read the next chunk; returns its length. The last one yields the first token."""
        chunk = job.prompt[job.n_past : job.n_past + self._chunk_length(job)]
        is_last = job.n_past + len(chunk) == len(job.prompt)
        wants_hidden = is_last and any(each.hidden is not None for each in (job, *job.siblings))
        entry = BatchEntry(job.seq, chunk, job.n_past, want_logits=is_last)
        copy = Copy.LAST_ROW if wants_hidden else Copy.NOTHING
        began = time.perf_counter()
        given_up = (lambda: job.is_unwanted) if len(chunk) >= WORTH_STOPPING else None
        if self._decoder.decode([job], [entry], copy, given_up):
            self._meter.seconds_prefill += time.perf_counter() - began
            job.n_past += len(chunk)
            self.n_tokens += len(chunk)
            if self._prefixes is not None and job.n_past == job.n_system:
                self._prefixes.save(self._context, job)
            if is_last:
                self._leave(job, self._context.logits(len(chunk) - 1), wants_hidden)
        return len(chunk)

    def _chunk_length(self, job: Job) -> int:
        to_system = job.n_system - job.n_past
        if self._prefixes is not None and LEAST_CHUNK <= to_system <= self._chunk:
            return to_system  # what is kept on disk ends here
        n_left = len(job.prompt) - job.n_past
        n = min(n_left, self._chunk)
        return n - LEAST_CHUNK if 0 < n_left - n < LEAST_CHUNK else n

    def _leave(self, job: Job, row: FloatRow, with_states: bool) -> None:
        """The prompt is read, `row` follows it: fork the siblings, and take the first token."""
        self._meter.reused += job.n_reused
        if job.continuations:
            scores = self._scorer.score(job, row)
            if scores is not None:
                self._jobs.end(job, scores)
            return
        jobs = [job, *self._fork_siblings(job)]
        states = self._decoder.states(jobs, 1) if with_states else None
        for each in jobs:
            if each.hidden is not None and states is not None:
                each.hidden.take_prompt_end(states[:, 0])
        for each in jobs:
            if each.is_gated:
                self._answers.complete(each, "gated")
            else:
                self._answers.take_token(each, row)

    def _fork_siblings(self, job: Job) -> list[Job]:
        """Those siblings that go on right now from the prompt that `job` has read."""
        forks = self._jobs.start_siblings(job)
        for fork in forks:
            fork.n_past = fork.n_reused = job.n_past
            self._context.copy(job.seq, fork.seq)
        return forks

    def _decode_scores(self, job: Job, batch: list[BatchEntry]) -> bool:
        self.n_tokens += sum(len(entry.tokens) for entry in batch)
        return self._decoder.decode([job], batch, Copy.NOTHING)
