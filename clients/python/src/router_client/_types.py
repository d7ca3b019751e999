"""Words that the signatures share: the sentinel for "not given", and what may be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal

import httpx

from router_client._models import Message


class NotGiven(Enum):
    """The type of `NOT_GIVEN`; an enum: type checkers narrow it, and copies stay identical."""

    NOT_GIVEN = "NOT_GIVEN"

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __bool__(self) -> Literal[False]:
        return False


NOT_GIVEN: Final = NotGiven.NOT_GIVEN
"""This argument was left out. Distinct from None: ``timeout=None`` waits for ever, and
``temperature=None`` sends a null."""

Mode = Literal["auto", "local", "remote"]
StreamMode = Literal["hold", "commit"]
"""Who answers: the gateway decides, the local model, or the remote one."""

MessageLike = Message | Mapping[str, Any]
Prompt = str | Sequence[MessageLike]
"""One question, or a conversation."""

TimeoutLike = httpx.Timeout | float | None | NotGiven
"""Seconds or httpx's value object; None waits for ever."""
