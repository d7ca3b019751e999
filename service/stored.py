"""An answer as the cache keeps it: bytes that only this module reads."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from router.answer import Answer, Choice, Decision, Usage
from uq.trace import Trace

MAX_DECODED_BYTES = 64 * 2**20
"""A value that grows beyond this is not one of ours."""

WINDOW_BITS, MEMORY_LEVEL = 13, 6
"""With its own, zlib would clear 256 KiB of memory for each answer, in longer than it takes to
compress 1 KB; a longer answer comes out as small with these."""


class CorruptValueError(Exception):
    """A cached value is not what `encode` made."""


class _StoredChoice(BaseModel):
    """`Choice` in JSON's own types."""

    model_config = ConfigDict(extra="forbid")

    text: str
    finish_reason: str
    trace: dict[str, Any] | None = None
    pieces: list[str] = []
    top_pieces: list[list[str]] = []


class _Stored(BaseModel):
    """`Answer` in JSON's own types; pieces are base64."""

    model_config = ConfigDict(extra="forbid")

    choices: list[_StoredChoice]
    decision: Decision
    usage_local: Usage | None
    usage_remote: Usage | None
    cost_usd: float
    saved_usd: float
    timings_ms: dict[str, float]
    remote_body: dict[str, Any] | None
    upstream: str = ""
    at: float


class Kept(NamedTuple):
    """An answer from the cache, and when it was put there: seconds since 1970."""

    answer: Answer
    at: float


def encode(answer: Answer, *, at: float, keep_trace: bool) -> bytes:
    """Return `answer`, kept `at` this time, as compressed JSON; zlib's checksum guards it.

    The trace is large and only needed where the answer shows its log-probabilities.
    """
    decision = answer.decision
    if decision.budget is not None:  # what was left at that time
        decision = replace(decision, budget=None)
    stored: dict[str, Any] = {
        "choices": [_stored(choice, keep_trace=keep_trace) for choice in answer.choices],
        "decision": decision,
        "usage_local": answer.usage_local,
        "usage_remote": answer.usage_remote,
        "cost_usd": answer.cost_usd,
        "saved_usd": answer.saved_usd,
        "timings_ms": dict(answer.timings_ms),
        "remote_body": None if answer.remote_body is None else dict(answer.remote_body),
        "upstream": answer.upstream,
        "at": at,
    }
    packer = zlib.compressobj(level=1, wbits=WINDOW_BITS, memLevel=MEMORY_LEVEL)
    return packer.compress(_rendered(stored)) + packer.flush()


def decode(value: bytes) -> Kept:
    """Return the answer that `value` encodes. Raises CorruptValueError for anything else."""
    try:
        stored = _Stored.model_validate_json(_decompressed(value))
        first, *others = map(_choice, stored.choices)
        answer = Answer(
            text=first.text,
            finish_reason=first.finish_reason,
            decision=stored.decision,
            usage_local=stored.usage_local,
            usage_remote=stored.usage_remote,
            cost_usd=stored.cost_usd,
            saved_usd=stored.saved_usd,
            timings_ms=stored.timings_ms,
            trace=first.trace,
            pieces=first.pieces,
            top_pieces=first.top_pieces,
            remote_body=stored.remote_body,
            upstream=stored.upstream,
            others=tuple(others),
        )
        return Kept(answer, stored.at)
    # Its ValidationError and binascii's Error are ValueErrors; a trace may lack a field.
    except (zlib.error, ValueError, KeyError, TypeError) as exc:
        raise CorruptValueError(type(exc).__name__) from None


def _rendered(stored: Mapping[str, Any]) -> bytes:
    try:
        return to_json(stored)
    except ValueError:  # half a surrogate pair, or hundreds of levels; an upstream may send both
        text = json.dumps(stored, ensure_ascii=False, default=asdict)
        return text.encode("utf-8", "replace")


def _stored(choice: Choice, *, keep_trace: bool) -> dict[str, Any]:
    stored = {"text": choice.text, "finish_reason": choice.finish_reason}
    if not keep_trace or choice.trace is None:
        return stored
    return stored | {
        "trace": choice.trace.to_dict(),
        "pieces": [b64encode(piece).decode() for piece in choice.pieces],
        "top_pieces": [[b64encode(piece).decode() for piece in step] for step in choice.top_pieces],
    }


def _choice(stored: _StoredChoice) -> Choice:
    return Choice(
        text=stored.text,
        finish_reason=stored.finish_reason,
        trace=None if stored.trace is None else Trace.from_dict(stored.trace),
        pieces=tuple(_bytes(piece) for piece in stored.pieces),
        top_pieces=tuple(tuple(_bytes(piece) for piece in step) for step in stored.top_pieces),
    )


def _bytes(piece: str) -> bytes:
    return b64decode(piece, validate=True)


def _decompressed(value: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(value, MAX_DECODED_BYTES)
    if not inflater.eof:
        raise ValueError("truncated, or larger than any answer")
    return data
