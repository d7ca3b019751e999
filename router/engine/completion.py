"""A finished job -> what its caller gets."""

from __future__ import annotations

import time

import numpy as np

from router.engine.job import Job
from router.engine.llama import Model
from router.engine.messages import Completion, EngineTimings
from uq.trace import Trace


def completion_of(job: Job, model: Model, finish_reason: str) -> Completion:
    """The answer of `job`; tokens of text that a stop string cut off are left out."""
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
    piece = model.piece
    return Completion(
        trace=trace,
        timings=_timings(job),
        pieces=tuple(piece(t) for t in tokens),
        top_pieces=tuple(tuple(piece(t) for t in s.top_ids) for s in steps),
        n_reused=job.n_reused,
        n_guessed=job.n_guessed,
        n_accepted=job.n_accepted,
    )


def _timings(job: Job) -> EngineTimings:
    ended = time.perf_counter()
    began = job.first_token or ended  # a gated answer has no first token
    return EngineTimings(
        queue=(job.admitted - job.submitted) * 1e3,
        prefill=(began - job.admitted) * 1e3,
        decode=(ended - began - job.uq_seconds) * 1e3,
        uq=job.uq_seconds * 1e3,
    )
