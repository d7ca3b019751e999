"""A second, smaller model that guesses what the first will say."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.engine.context import BatchEntry, Context
from router.engine.draft import Ask, StepCost
from router.engine.llama import LoadOptions, Model
from router.engine.sequences import common_prefix
from router.errors import EngineError, ModelError

log = logging.getLogger("router.engine.draft_model")

CHUNK = 256
"""Tokens read at once, at least."""

_TRIED = 8
"""Tokens read at the start; the first ones are slow, until the weights are in memory."""

_UNREADABLE = "\ufffd"


class DraftModel:
    """A Drafter that guesses what its own model finds most likely, token after token.

    It has a cache of its own, `n_seq` sequences of `n_context` tokens, and reads every prompt that
    it is asked about. What the text turns out not to say is dropped from the cache at the next
    ask. It makes no request fail: after an EngineError it logs, and guesses no more.

    Raises ModelError when llama.cpp can't load `path` or when its vocabulary is not that of
    `target`, EngineError when there is no memory for the cache or it can't compute.
    """

    judges_itself = False

    def __init__(
        self,
        path: Path,
        target: Model,
        *,
        n_context: int,
        n_seq: int,
        n_threads: int,
        options: LoadOptions | None = None,
    ) -> None:
        self._model = Model(path, options or LoadOptions())
        try:
            check_vocabulary(self._model, target)
            self._n_context = min(n_context, self._model.n_ctx_train)
            self._n_batch = max(CHUNK, n_seq)
            self._context = Context(
                self._model,
                n_context=self._n_context,
                n_seq=n_seq,
                n_batch=self._n_batch,
                n_threads=n_threads,
            )
        except Exception:
            self._model.close()
            raise
        self._held: list[list[int]] = [[] for _ in range(n_seq)]
        self._cost = StepCost()
        self._lines = 0
        self._broken = False
        self._try_out()

    def _try_out(self) -> None:
        """Learn what a guess takes, so that no prompt is read for guesses that can't pay."""
        try:
            for _ in range(min(_TRIED, self._n_context)):
                self._read([_Piece(0, [0])])
            self._context.clear(0)
        except EngineError:
            self.close()
            raise
        self._held[0].clear()

    @property
    def seconds_per_guess(self) -> float:
        """What a guess took lately, the reading of prompts left out."""
        return self._cost.seconds(self._lines) / self._lines

    def propose(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Greedy guesses; fewer than asked for where the model would end or its context does."""
        lines = [_Line(ask) for ask in asks]
        if not self._broken:
            try:
                self._guess(lines)
            except EngineError as error:
                log.error("the draft model failed and will not be asked again: %s", error)
                self._broken = True
        return [[] if self._broken else line.guesses for line in lines]

    def _guess(self, lines: list[_Line]) -> None:
        """Fill in the lines' guesses: one batch for each position, all lines together."""
        # In the order of their sequences: llama.cpp computes runs of neighbours at once.
        going = sorted(
            (line for line in lines if len(line.ask.tokens) <= self._n_context),
            key=lambda line: line.ask.seq,
        )
        pieces = [self._unread(line.ask) for line in going]
        while pieces:
            going = [
                line
                for line, token in zip(going, self._read(pieces), strict=True)
                if self._takes(line, token)
            ]
            pieces = [_Piece(line.ask.seq, line.guesses[-1:]) for line in going]

    def _unread(self, ask: Ask) -> _Piece:
        """What of the ask's tokens its sequence does not hold, at least the last one.

        What it holds beyond or instead of them is dropped.
        """
        held = self._held[ask.seq]
        same = min(common_prefix(held, ask.tokens), len(ask.tokens) - 1)
        if same < len(held):
            self._context.clear(ask.seq, same)
            del held[same:]
        return _Piece(ask.seq, ask.tokens[same:])

    def _takes(self, line: _Line, token: int) -> bool:
        """Note `token` as guessed; returns whether to go on from it."""
        if self._model.is_end(token):  # nothing is verified after an end
            return False
        line.guesses.append(token)
        has_room = len(self._held[line.ask.seq]) < self._n_context
        return has_room and len(line.guesses) < line.ask.most

    def _read(self, pieces: Sequence[_Piece]) -> list[int]:
        """The token that is most likely after each of `pieces`, all of different sequences."""
        following = []
        for batch in self._batches(pieces):
            self._decode(batch)
            row = -1
            for entry in batch:
                self._held[entry.seq].extend(entry.tokens)
                row += len(entry.tokens)
                if entry.want_logits:
                    following.append(int(self._context.logits(row).argmax()))
        return following

    def _batches(self, pieces: Sequence[_Piece]) -> list[list[BatchEntry]]:
        """The pieces in their order, cut where a batch is full."""
        batches: list[list[BatchEntry]] = [[]]
        room = self._n_batch
        for piece in pieces:
            start, rest = len(self._held[piece.seq]), piece.tokens
            while rest:
                if room == 0:
                    batches.append([])
                    room = self._n_batch
                now, rest = rest[:room], rest[room:]
                batches[-1].append(BatchEntry(piece.seq, now, start, want_logits=not rest))
                start += len(now)
                room -= len(now)
        return batches

    def _decode(self, batch: Sequence[BatchEntry]) -> None:
        began = time.perf_counter()
        self._context.decode(batch)
        # Reading a prompt says nothing about what guessing costs.
        if all(len(entry.tokens) == 1 for entry in batch):
            self._lines = len(batch)
            self._cost.took(len(batch), time.perf_counter() - began)

    def close(self) -> None:
        """Free cache and weights."""
        self._context.close()
        self._model.close()


@dataclass(slots=True)
class _Line:
    """An ask, and what was guessed for it so far."""

    ask: Ask
    guesses: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens to append to a sequence."""

    seq: int
    tokens: Sequence[int]


def check_vocabulary(draft: Model, target: Model) -> None:
    """Raises ModelError, naming what differs, unless each token means the same to both models."""
    difference = _difference(draft, target)
    if difference:
        raise ModelError(
            f"{draft.path} can't guess for {target.path}: {difference}; "
            "set `draft_model` to a smaller model of the same family, or `speculative` to lookup"
        )


def _difference(draft: Model, target: Model) -> str:
    if draft.n_vocab != target.n_vocab:
        return f"its vocabulary has {draft.n_vocab} tokens, not {target.n_vocab}"
    for name in ("bos", "eos"):
        its, wanted = getattr(draft, name), getattr(target, name)
        if its != wanted:
            return f"its {name} token is {its}, not {wanted}"
    for token in range(target.n_vocab):
        its, wanted = draft.special_piece(token), target.special_piece(token)
        if its == wanted and _UNREADABLE in wanted:
            its, wanted = repr(draft.piece(token)), repr(target.piece(token))
        if its != wanted:
            return f"its token {token} is {its!r}, not {wanted!r}"
    return ""
