"""Framed pickles over a private socket pair: how a gateway talks to its engine process.

Both ends are this package, joined by a socket that nothing else can open.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass
from typing import NamedTuple

from router.engine.messages import (
    Completion,
    EngineConfig,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    Message,
    Partial,
    SampleRequest,
    ScoreRequest,
    Scores,
    TextDelta,
)
from router.errors import RouterError

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller of a request is gone."""


@dataclass(frozen=True, slots=True)
class CountTokens:
    """How many tokens do these messages have?"""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class AskStats:
    """What is the load?"""


@dataclass(frozen=True, slots=True)
class Samples:
    """What a SampleRequest gives."""

    completions: tuple[Completion, ...]


Down = (
    EngineConfig | GenerateRequest | SampleRequest | ScoreRequest | CountTokens | AskStats | Cancel
)
Reply = EngineInfo | TextDelta | Partial | Completion | Samples | Scores | int | EngineStats
Up = Reply | RouterError


class Envelope(NamedTuple):
    """`body` belongs to the request numbered `id`; the start-up exchange has number 0."""

    id: int
    body: Down | Up


def write(writer: asyncio.StreamWriter, envelope: Envelope) -> None:
    """Queue an envelope for sending."""
    payload = pickle.dumps(envelope, protocol=pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(payload)) + payload)


async def read(reader: asyncio.StreamReader) -> Envelope | None:
    """The next envelope; None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        envelope: Envelope = pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return envelope
