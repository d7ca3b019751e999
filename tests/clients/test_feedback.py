"""Feedback: what is sent, and what comes back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from router_client import APIStatusError, Feedback, InvalidResponse, NotFound, ServerError

from . import wire
from .faces import Face

TAKEN = wire.feedback()


@pytest.mark.parametrize("said", [{"correct": True}, {"correct": False}, {"answer": "21"}])
def test_one_thing_is_said(face: Face, said: dict[str, Any]) -> None:
    handler, seen = wire.recording(wire.answering(TAKEN))
    taken = face.call(handler, "feedback", "chatcmpl-1", **said)
    assert isinstance(taken, Feedback)
    assert (taken.id, taken.correct, taken.counted) == ("chatcmpl-1", True, True)
    assert (seen[0].method, seen[0].url.path) == ("POST", "/v1/feedback")
    assert wire.sent(seen[0]) == {"id": "chatcmpl-1", **said}


@pytest.mark.parametrize("said", [{}, {"correct": True, "answer": "21"}])
def test_nothing_or_both_is_not_sent(face: Face, said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"one of correct= .* and answer="):
        face.call(wire.answering(TAKEN), "feedback", "chatcmpl-1", **said)


def test_an_answer_is_not_its_id(face: Face) -> None:
    with pytest.raises(TypeError, match=r"pass answer\.id"):
        face.call(wire.answering(TAKEN), "feedback", 7, correct=True)


def test_one_requests_timeout(face: Face) -> None:
    handler, seen = wire.recording(wire.answering(TAKEN))
    face.call(handler, "feedback", "chatcmpl-1", correct=True, timeout=3)
    assert set(seen[0].extensions["timeout"].values()) == {3}


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (409, APIStatusError), (501, ServerError)]
)
def test_what_the_gateway_can_not_take(face: Face, status: int, kind: type[Exception]) -> None:
    refusing = wire.answering(wire.error("no such answer", code="answer_not_found"), status)
    with pytest.raises(kind, match="no such answer") as caught:
        face.call(refusing, "feedback", "chatcmpl-1", correct=True)
    assert isinstance(caught.value, APIStatusError)
    assert caught.value.status_code == status


def test_it_is_safe_to_repeat(face: Face) -> None:
    busy = httpx.Response(503, json=wire.error("no"), headers={"retry-after": "0"})
    handler = wire.in_turn(busy, httpx.Response(200, json=TAKEN))
    assert face.call(handler, "feedback", "chatcmpl-1", correct=True).counted


def test_something_else_answers(face: Face) -> None:
    with pytest.raises(InvalidResponse, match="`correct`"):
        face.call(wire.answering({"id": "x"}), "feedback", "chatcmpl-1", correct=True)
