"""Continuous batching: one thread, one context, many requests.

Every step decodes one batch: the next token of each answering request, and a chunk of the prompts
that still wait to be read. Requests join and leave between steps.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from router.engine.answer_writer import AnswerWriter
from router.engine.context import Context
from router.engine.decoder import Decoder
from router.engine.draft import Drafter
from router.engine.grammar import grammar_of
from router.engine.hidden import HiddenSums
from router.engine.job import Job, Sink
from router.engine.jobs import Jobs
from router.engine.llama import Model
from router.engine.messages import EngineStats, GenerateRequest
from router.engine.meter import Meter
from router.engine.prefixes import Prefixes
from router.engine.prompt_reader import PromptReader
from router.engine.sampling import StepReader, TokenChooser
from router.engine.sequences import Sequences
from router.engine.text import AnswerText
from router.errors import EngineDown, EngineError

PREFILL_CHUNK = 256
"""Prompt tokens read at once: bounds how long a long prompt keeps the others from their tokens."""


class Scheduler:
    """Owns the context and the thread that runs it.

    At most `n_slots` requests are worked on and `n_queue` wait; one more gets EngineBusy, and one
    that would wait longer than `most_seconds`. With a
    `drafter`, up to `draft_tokens` are guessed for a sequence and checked in one step; answers and
    what is observed of them stay the same. `prefixes` keeps system prompts across restarts, and
    `reader` takes the statistics of the answers' tokens.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        n_context: int,
        n_slots: int,
        n_queue: int,
        most_seconds: float = math.inf,
        prefill_chunk: int = PREFILL_CHUNK,
        drafter: Drafter | None = None,
        draft_tokens: int = 0,
        prefixes: Prefixes | None = None,
        reader: StepReader | None = None,
    ) -> None:
        self._model = model
        self._tap = context.tap
        self._n_context = n_context
        self._meter = Meter()
        sequences = Sequences(n_slots)
        self._jobs = Jobs(sequences, n_slots=n_slots, n_queue=n_queue, most_seconds=most_seconds)
        decoder = Decoder(context, self._jobs)
        self._answers = AnswerWriter(
            model,
            context,
            jobs=self._jobs,
            decoder=decoder,
            meter=self._meter,
            reader=StepReader(model.n_vocab) if reader is None else reader,
            n_context=n_context,
            drafter=drafter,
            draft_tokens=draft_tokens,
        )
        self._prompts = PromptReader(
            context,
            sequences,
            jobs=self._jobs,
            decoder=decoder,
            answers=self._answers,
            meter=self._meter,
            chunk=prefill_chunk,
            prefixes=prefixes,
        )
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
        self._jobs.enter(job)
        return job

    def submit_samples(
        self, requests: Sequence[GenerateRequest], prompt: list[int], sinks: Sequence[Sink]
    ) -> list[Job]:
        """Queue requests that differ in their sampler only: the prompt is read once for all.

        Raises EngineBusy, EngineDown, and EngineError for more than the queue could ever hold.
        """
        if len(requests) > self._jobs.most:
            raise EngineError(
                f"{len(requests)} samples at once are more than the engine's {self._jobs.most} "
                "slots and places in the queue; raise `slots` or `queue`"
            )
        jobs = [
            self._job(request, prompt, sink) for request, sink in zip(requests, sinks, strict=True)
        ]
        jobs[0].siblings = jobs[1:]
        self._jobs.enter(jobs[0])
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
        self._jobs.enter(job)
        return job

    def _job(self, request: GenerateRequest, prompt: list[int], sink: Sink) -> Job:
        room = self._n_context - len(prompt)
        tap = self._tap
        return Job(
            request=request,
            prompt=prompt,
            sink=sink,
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            submitted=time.perf_counter(),
            chooser=TokenChooser(
                request.sampler, prompt, grammar_of(self._model, request.sampler.grammar)
            ),
            text=AnswerText(request.stop),
            hidden=HiddenSums(tap.layers) if tap is not None and _wants_states(request) else None,
            pace=self._answers.pace(),
        )

    def cancel(self, job: Job) -> None:
        """Drop a request; its slot is free at the next step. Harmless when it has ended."""
        job.cancelled = True

    def stats(self) -> EngineStats:
        """The load right now, safe to ask from any thread."""
        active = len(self._jobs.active)
        return EngineStats(
            active=active,
            waiting=max(0, self._jobs.n_unfinished - active),
            n_slots=self._jobs.n_slots,
            decoded_tokens=self._answers.n_tokens,
            prefilled_tokens=self._prompts.n_tokens,
            extra={
                **self._meter.snapshot(),
                "wait_seconds": self._jobs.expected_wait(),
                "refused_full": self._jobs.n_refused,
                "refused_slow": self._jobs.n_shed,
            },
        )

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._jobs.closed

    def close(self) -> None:
        """Stop the thread; requests still in flight end with EngineDown."""
        self._jobs.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._jobs.take_in():
                self._jobs.drop_cancelled()
                self._jobs.start(self._prompts.place)
                if self._jobs.active:
                    self._step()
        finally:  # also when a defect ends this thread: nobody may wait for it for ever
            self._jobs.end_all(EngineDown("the engine has stopped"))

    def _step(self) -> None:
        """One step for every answering request, then some of the prompts that wait to be read.

        Tokens and prompts go to llama.cpp in batches of their own, and no prompt token goes alone:
        an answer then has the same bits whoever else is served and whatever its slot held before,
        with weights of any type.
        """
        answering = [job for job in self._jobs.active if job.next_token is not None]
        if answering:
            with self._meter.token_step():
                self._answers.step(answering)
        self._prompts.step()


def _wants_states(request: GenerateRequest) -> bool:
    return request.hidden or (request.exits is not None and request.exits.gate is not None)
