"""How likely given texts are after a prompt that has been read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from router.engine.context import BatchEntry, Context, FloatRow
from router.engine.job import Job
from router.engine.messages import Scores
from router.engine.sequences import Sequences

Decode = Callable[[Job, list[BatchEntry]], bool]
"""Computes a batch; false when that failed and the job was ended."""


class Scorer:
    """Scores continuations, as many at once as there are free sequences.

    Each is read with the prompt's last token before it, and all are padded to one length: the bits
    then don't depend on how many go into a batch, whatever the kernels.
    """

    def __init__(self, context: Context, sequences: Sequences, chunk: int, decode: Decode) -> None:
        self._context = context
        self._decode = decode
        self._sequences = sequences
        self._chunk = chunk

    def score(self, job: Job, row: FloatRow) -> Scores | None:
        """The scores of the job's continuations, `row` being what follows its prompt.

        None when a batch failed, which has ended the job.
        """
        log_z = _log_normaliser(row)
        found = [[float(row[tokens[0]]) - log_z] for tokens in job.continuations]
        longer = [i for i, tokens in enumerate(job.continuations) if len(tokens) > 1]
        while longer:
            length = max(len(job.continuations[i]) for i in longer)
            most = min(max(1, self._chunk // length), len(longer))
            seqs = [job.seq, *self._sequences.neighbours(most - 1)]
            now, longer = longer[: len(seqs)], longer[len(seqs) :]
            if not self._score_batch(job, seqs, now, length, found):
                return None
        return Scores(tuple(tuple(logprobs) for logprobs in found))

    def _score_batch(
        self, job: Job, seqs: list[int], now: list[int], length: int, found: list[list[float]]
    ) -> bool:
        start = len(job.prompt) - 1
        batch = []
        for seq, i in zip(seqs, now, strict=True):
            if seq != job.seq:
                self._context.copy(job.seq, seq)
            self._context.clear(seq, start)
            tokens = [job.prompt[-1], *job.continuations[i][:-1]]
            tokens += tokens[-1:] * (length - len(tokens))
            batch.append(BatchEntry(seq, tokens, start, want_logits=True, want_all=True))
        job.n_past = start
        if not self._decode(job, batch):
            return False
        for place, (seq, i) in enumerate(zip(seqs, now, strict=True)):
            for t, token in enumerate(job.continuations[i][1:], start=1):
                after = self._context.logits(place * length + t)
                found[i].append(float(after[token]) - _log_normaliser(after))
            self._context.clear(seq, start)
        return True


def _log_normaliser(row: FloatRow) -> float:
    best = float(row.max())
    return best + float(np.log(np.exp(row - best).sum(dtype=np.float64)))
