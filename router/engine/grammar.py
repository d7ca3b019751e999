"""A grammar that an answer has to follow: which tokens may come next."""

from __future__ import annotations

import ctypes
import weakref

import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from router.engine.llama import Model, complaints, forget_complaints
from router.errors import EngineError

_CANDIDATES = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Grammar:
    """Follows one answer through a grammar in GBNF. Used by one thread at a time.

    Raises EngineError for a text that is no grammar.
    """

    def __init__(self, model: Model, text: str) -> None:
        forget_complaints()
        self._model = model
        self._sampler = lib.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not self._sampler:
            raise EngineError(f"llama.cpp can't use the grammar of this request{complaints()}")
        weakref.finalize(self, lib.llama_sampler_free, self._sampler).atexit = False

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A control token may not, but for one that ends."""
        if not self._model.piece(token) and not self._model.is_end(token):
            return False
        return bool(np.isfinite(self._apply(np.array([token]))[0]))

    def mask(self, row: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to minus infinity.

        The whole vocabulary costs tens of milliseconds; asking for single tokens, microseconds.
        """
        row[np.isneginf(self._apply(np.arange(len(row))))] = -np.inf

    def accept(self, token: int) -> None:
        """Go on behind `token`, which must be allowed: llama.cpp ends the process otherwise."""
        lib.llama_sampler_accept(self._sampler, token)

    def _apply(self, tokens: NDArray[np.int_]) -> NDArray[np.float32]:
        """0.0 for each of the tokens that is allowed, minus infinity for the others."""
        candidates = np.zeros(len(tokens), _CANDIDATES)
        candidates["id"] = tokens
        array = lib.llama_token_data_array(
            data=candidates.ctypes.data_as(lib.llama_token_data_p),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
        logits: NDArray[np.float32] = candidates["logit"]
        return logits


def grammar_of(model: Model, text: str) -> Grammar | None:
    """The grammar that a sampler names; None for none."""
    return Grammar(model, text) if text else None
