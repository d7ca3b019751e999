"""Answers, token by token: what may come next is guessed, decoded, checked, chosen and shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from router.engine.completion import completion_of
from router.engine.context import BatchEntry, Context, FloatRow
from router.engine.decoder import Decoder
from router.engine.draft import Ask, Drafter, Pace, StepCost
from router.engine.job import Job
from router.engine.jobs import Jobs
from router.engine.llama import Model
from router.engine.messages import Partial, TextDelta
from router.engine.meter import Meter
from router.engine.sampling import StepReader
from router.engine.tap import Copy
from router.errors import EngineError

SECONDS_BETWEEN_PIECES = 0.05
"""A streamed answer's pieces come no faster; the first one comes at once."""


class AnswerWriter:
    """Writes the answers of jobs whose prompts are read.

    With a `drafter`, up to `draft_tokens` are guessed where that pays, and checked together with
    the last token; answers and what is observed of them stay the same.

    Attributes
    ----------
    n_tokens : how many tokens were chosen so far.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        jobs: Jobs,
        decoder: Decoder,
        meter: Meter,
        reader: StepReader,
        n_context: int,
        drafter: Drafter | None = None,
        draft_tokens: int = 0,
    ) -> None:
        self.n_tokens = 0
        self._model = model
        self._context = context
        self._jobs = jobs
        self._decoder = decoder
        self._meter = meter
        self._n_context = n_context
        self._drafter = drafter
        self._draft_tokens = draft_tokens
        self._cost = StepCost()
        self._reader = reader

    def pace(self) -> Pace | None:
        """How many tokens are to be guessed for a new job; None leaves that to the drafter."""
        if self._drafter is None or self._drafter.judges_itself:
            return None
        return Pace(self._draft_tokens)

    def step(self, jobs: list[Job]) -> None:
        """Write at least one more token of each answer."""
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
        if not self._decoder.decode(jobs, batch, Copy.ALL_ROWS if wants_hidden else Copy.NOTHING):
            return
        seconds = time.perf_counter() - began
        self._meter.seconds_decode += seconds
        self._cost.took(n_rows, seconds)
        states = self._states(jobs, batch) if wants_hidden else [None] * len(jobs)
        first_row = 0
        for job, entry, at_inputs in zip(jobs, batch, states, strict=True):
            self._verify(job, entry.tokens, first_row, at_inputs)
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

    def _states(
        self, jobs: list[Job], batch: list[BatchEntry]
    ) -> Sequence[NDArray[np.float32] | None]:
        """The hidden states at each job's tokens, of shape (L, tokens, d), for those who want them.

        They were copied in the order in which llama.cpp has computed the tokens.
        """
        n_rows = sum(len(entry.tokens) for entry in batch)
        states = self._decoder.states(jobs, n_rows)
        if states is None:
            return [None] * len(jobs)
        rows: Sequence[slice | list[int]]
        if n_rows == len(batch):  # a token each, computed as they stand
            rows = [slice(i, i + 1) for i in range(n_rows)]
        else:
            at = {place: row for row, place in enumerate(self._context.computed_order(batch))}
            rows = [[at[i, t] for t in range(len(entry.tokens))] for i, entry in enumerate(batch)]
        return [
            states[:, of_job] if job.follows_states else None
            for job, of_job in zip(jobs, rows, strict=True)
        ]

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
            if states is not None and job.hidden is not None:
                job.hidden.take_answer_token(states[:, t])
            self.take_token(job, self._context.logits(first_row + t))
            if job.next_token is None:
                break
        if taken < len(inputs):
            self._context.clear(job.seq, start + taken)
        if len(inputs) > 1 and job.pace is not None:
            job.pace.verified(len(inputs) - 1, taken - 1)

    def take_token(self, job: Job, row: FloatRow) -> None:
        """The token that follows `row`; `next_token` is None afterwards when it ended the job."""
        job.next_token = None
        began = time.perf_counter()
        if not job.first_token:
            job.first_token = began
        best = self._reader.read(row)
        read = time.perf_counter()
        try:
            token = job.chooser.choose(row, best)
        except EngineError as error:  # its grammar leaves nothing to say
            self._jobs.end(job, error)
            return
        chosen = time.perf_counter()
        statistics = self._reader.statistics(token, job.request.top_logprobs)
        counted = time.perf_counter()
        job.uq_seconds += counted - began
        self._meter.seconds_statistics += (read - began) + (counted - chosen)
        self._meter.seconds_sampling += chosen - read
        self.n_tokens += 1
        if self._model.is_end(token):
            job.end_logprob = statistics.logprob
            self.complete(job, "stop")
            return
        offset, shown = job.text.push(self._model.piece(token))
        self._meter.seconds_text += time.perf_counter() - counted
        job.tokens.append(token)
        job.offsets.append(offset)
        job.statistics.append(statistics)
        if shown and job.request.stream:
            self._show(job, shown)
        if job.text.stopped:
            self.complete(job, "stop")
        elif len(job.tokens) >= job.max_tokens:
            self.complete(job, "length")
        elif job.is_hopeless:
            self.complete(job, "stopped")
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

    def complete(self, job: Job, finish_reason: str) -> None:
        """End a job with what is written of its answer."""
        rest = job.unsent + job.text.finish()
        if rest and job.request.stream:
            job.sink(TextDelta(rest))
        self._jobs.complete(job, completion_of(job, self._model, finish_reason))


def _inputs(job: Job, guess: list[int]) -> list[int]:
    assert job.next_token is not None, "only answering jobs are decoded"
    return [job.next_token, *guess]
