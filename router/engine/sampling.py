"""One row of logits -> the next token and what it says about the model's certainty."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.engine.compiled import compiled_library, is_compiled
from router.engine.messages import Sampler
from router.errors import EngineError

FloatRow = NDArray[np.float32]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """What one step's distribution looked like; logs are natural."""

    logprob: float
    entropy: float
    margin: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class _Distribution(ctypes.Structure):
    """`struct distribution` of statistics.c, which says what its fields are."""

    _fields_ = (
        ("best", ctypes.c_int64),
        ("largest", ctypes.c_float),
        ("second", ctypes.c_float),
        ("tail", ctypes.c_double),
        ("weighted", ctypes.c_double),
    )


class StepReader:
    """Reads statistics off logits rows of one vocabulary.

    Everything is under the model's own distribution, softmax of the raw logits. The normaliser is
    kept as ``max + log1p(tail)`` where the tail sums all but the most likely token: the
    log-probability of a near-certain token then keeps its digits instead of rounding to 0.0.

    Takes statistics.c where it was compiled, else numpy, which is slower.
    """

    def __init__(self, n_vocab: int, *, compiled: bool | None = None) -> None:
        use_compiled = is_compiled() if compiled is None else compiled
        self._row: FloatRow = np.empty(0, np.float32)
        self._found = _Distribution()
        self._log_z = 0.0
        self._read: Callable[[FloatRow], None]
        self._read = self._compiled_reader() if use_compiled else self._numpy_reader(n_vocab)
        self._most_likely = _compiled_most_likely if use_compiled else _most_likely

    def read(self, row: FloatRow) -> int:
        """Take in a row and return its most likely token (the lowest id among equals)."""
        self._row = row
        self._read(row)
        self._log_z = math.log1p(self._found.tail)
        return int(self._found.best)

    def statistics(self, token: int, n_top: int = 0) -> TokenStatistics:
        """Statistics of the row last read, `token` being the one that was chosen."""
        found = self._found
        log_z = self._log_z
        probability_best = math.exp(-log_z)
        second = math.exp(found.second - found.largest)
        top_ids = self._most_likely(self._row, n_top) if n_top else ()
        return TokenStatistics(
            logprob=self._logprob(token),
            entropy=max(log_z - found.weighted * probability_best, 0.0),
            margin=(1.0 - second) * probability_best,
            top_ids=tuple(int(i) for i in top_ids),
            top_logprobs=tuple(self._logprob(i) for i in top_ids),
        )

    def _logprob(self, token: int | np.intp) -> float:
        largest: float = self._found.largest
        return float(self._row[token]) - largest - self._log_z

    def _compiled_reader(self) -> Callable[[FloatRow], None]:
        function = compiled_library().read_distribution
        found = ctypes.byref(self._found)

        def read(row: FloatRow) -> None:
            function(_address(row), ctypes.c_int64(len(row)), found)

        return read

    def _numpy_reader(self, n_vocab: int) -> Callable[[FloatRow], None]:
        shifted, exp = np.empty(n_vocab, np.float32), np.empty(n_vocab, np.float32)
        found = self._found

        def read(row: FloatRow) -> None:
            best = found.best = int(row.argmax())
            found.largest = largest = float(row[best])
            with np.errstate(invalid="ignore"):  # where all are minus infinity
                np.subtract(row, row[best], out=shifted)
            np.exp(shifted, out=exp)
            exp[best], shifted[best] = 0.0, -np.inf
            found.second = largest + float(shifted.max())
            found.tail = float(exp.sum())
            np.maximum(shifted, _NEVER, out=shifted)  # its product with 0 is a number
            found.weighted = float(np.einsum("i,i", exp, shifted))

        return read


_NEVER = -200.0
"""Natural logarithm of a probability that 32 bits round to 0."""


_MOST_COMPILED = 64
"""Tokens that statistics.c finds."""


def _compiled_most_likely(row: FloatRow, n: int) -> Sequence[int] | NDArray[np.intp]:
    n = min(n, len(row))
    if n > _MOST_COMPILED:
        return _most_likely(row, n)
    ids = (ctypes.c_int64 * n)()
    compiled_library().most_likely(_address(row), ctypes.c_int64(len(row)), n, ids)
    return ids[:]


def _address(row: FloatRow) -> ctypes.c_void_p:
    """Of the first logit; `row.ctypes.data` is the same, and takes longer."""
    return ctypes.c_void_p(row.__array_interface__["data"][0])


def _block_candidates(row: FloatRow, n: int) -> NDArray[np.intp]:
    """Indices that surely contain the n largest values: those of the n blocks with largest maxima.

    A partial sort of the whole vocabulary would cost more than all other statistics together.
    """
    starts = np.arange(0, len(row), _BLOCK)
    maxima = np.maximum.reduceat(row, starts)
    if n >= len(maxima):
        return np.arange(len(row))
    blocks = np.sort(np.argpartition(maxima, -n)[-n:])
    indices = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    return indices[indices < len(row)]


class TokenFilter(Protocol):
    """Which tokens may come next in one answer; `router.engine.grammar.Grammar` in truth."""

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""

    def mask(self, row: FloatRow) -> None:
        """Set the logits of all that may not to minus infinity."""

    def accept(self, token: int) -> None:
        """Go on behind `token`, which is allowed."""


_MOST_REJECTED = 32
"""Tokens looked at one by one before the whole vocabulary is: about what that costs."""


class TokenChooser:
    """Draws the tokens of one request by its `Sampler`; seeded, independent of other requests.

    `grammar` is the sampler's own, ready to be followed.
    """

    def __init__(
        self, sampler: Sampler, prompt: Sequence[int], grammar: TokenFilter | None = None
    ) -> None:
        self._sampler = sampler
        self._grammar = grammar
        self._rng = np.random.default_rng(sampler.seed)
        self._counts: dict[int, int] = {}
        self._seen = set(prompt) if sampler.repetition_penalty != 1.0 else set()
        self._bias_ids = np.array([i for i, _ in sampler.logit_bias], np.intp)
        self._bias = np.array([b for _, b in sampler.logit_bias], np.float32)

    def choose(self, row: FloatRow, best: int) -> int:
        """The next token, given the raw logits and their arg max.

        Raises EngineError when the grammar allows none of the vocabulary.
        """
        if self._changes_logits:
            row = self._penalised(row)
            best = int(row.argmax())
        token = self._pick(row, best)
        if self._grammar is not None:
            token = self._allowed(self._grammar, row, token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._sampler.repetition_penalty != 1.0:
            self._seen.add(token)
        return token

    def _pick(self, row: FloatRow, best: int) -> int:
        return best if self._sampler.temperature == 0.0 else self._draw(row)

    def _allowed(self, grammar: TokenFilter, row: FloatRow, token: int) -> int:
        """`token` if the grammar allows it, else one picked from what it does allow.

        Taking out what was rejected, and drawing again, gives the distribution over what is
        allowed, without a look at the whole vocabulary while the model itself writes by the rules.
        """
        rejected = 0
        while not grammar.allows(token):
            if not rejected:
                row = row.copy()
            row[token] = -np.inf
            rejected += 1
            if rejected == _MOST_REJECTED:
                grammar.mask(row)
            best = int(row.argmax())
            if np.isneginf(row[best]):
                raise EngineError(
                    "no token of the model's vocabulary continues the format asked for"
                )
            token = self._pick(row, best)
        grammar.accept(token)
        return token

    @property
    def _changes_logits(self) -> bool:
        s = self._sampler
        counts_matter = s.presence_penalty != 0.0 or s.frequency_penalty != 0.0
        return bool(
            len(self._bias_ids)
            or (counts_matter and self._counts)
            or (s.repetition_penalty != 1.0 and self._seen)
        )

    def _penalised(self, row: FloatRow) -> FloatRow:
        s = self._sampler
        row = row.copy()
        if s.repetition_penalty != 1.0:
            ids = _ids(self._seen)
            seen = row[ids]
            row[ids] = np.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
        if self._counts and (s.presence_penalty or s.frequency_penalty):
            ids = _ids(self._counts)
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            row[ids] -= s.presence_penalty + s.frequency_penalty * counts
        if len(self._bias_ids):
            row[self._bias_ids] += self._bias
        return row

    def _draw(self, row: FloatRow) -> int:
        s = self._sampler
        filters = s.top_k > 0 or s.top_p < 1.0 or s.min_p > 0.0
        ids = filtered(row, s) if filters else None
        # In place: five samples at once draw from the whole vocabulary for each of their tokens.
        weights = (row if ids is None else row[ids]).astype(np.float64)
        weights -= weights.max()
        weights /= s.temperature
        np.exp(weights, out=weights)
        cumulative = np.cumsum(weights, out=weights)
        at = np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right")
        place = min(int(at), len(cumulative) - 1)
        return place if ids is None else int(ids[place])


def _ids(tokens: Iterable[int]) -> NDArray[np.intp]:
    return np.fromiter(tokens, np.intp)


def filtered(row: FloatRow, sampler: Sampler) -> NDArray[np.intp]:
    """Tokens that top_k, then top_p, then min_p leave; never empty.

    The filters look at probabilities before temperature, as llama.cpp's do.
    """
    ids = np.arange(len(row))
    if 0 < sampler.top_k < len(row):
        ids = _most_likely(row, sampler.top_k)
    if sampler.top_p < 1.0:
        ids = _nucleus(row, ids, sampler.top_p)
    if sampler.min_p > 0.0:
        ids = ids[row[ids] >= row[ids].max() + np.log(sampler.min_p)]
    return ids


_NUCLEUS_GUESS = 512


def _nucleus(row: FloatRow, ids: NDArray[np.intp], top_p: float) -> NDArray[np.intp]:
    """The fewest most likely of `ids` whose share of their common probability reaches `top_p`."""
    logits = row[ids]
    scaled = np.exp((logits - logits.max()).astype(np.float64))
    wanted = top_p * scaled.sum()
    for n in (_NUCLEUS_GUESS, len(ids)):  # a full sort is needed only when the guess falls short
        order = _most_likely(logits, min(n, len(ids)))
        reached = np.cumsum(scaled[order])
        if reached[-1] >= wanted or n >= len(ids):
            break
    return ids[order[: int(np.searchsorted(reached, wanted)) + 1]]


def _most_likely(row: FloatRow, n: int) -> NDArray[np.intp]:
    """Indices of the n largest values, largest first, lower index first among equals."""
    candidates = _block_candidates(row, n) if n < len(row) else np.arange(len(row))
    return candidates[np.lexsort((candidates, -row[candidates]))][:n]
