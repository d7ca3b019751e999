from __future__ import annotations

import logging
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_client import (
    APIConnectionError,
    APITimeoutError,
    Busy,
    RateLimited,
    ServerError,
    UpstreamFailed,
)
from router_client._retry import Attempts, RetryPolicy, retry_after

from . import wire
from .faces import Face

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
REFUSED = httpx.ConnectError("refused")


def at_once(status: int) -> httpx.Response:
    return httpx.Response(status, json=wire.error("later"), headers={"retry-after": "0"})


def fine() -> httpx.Response:
    return httpx.Response(200, json=wire.completion())


@pytest.mark.parametrize(
    ("retry", "least", "most"), [(0, 0.125, 0.25), (1, 0.25, 0.5), (2, 0.5, 1.0), (9, 4.0, 8.0)]
)
def test_backoff_doubles_up_to_a_ceiling(retry: int, least: float, most: float) -> None:
    policy = RetryPolicy(max_retries=10)
    assert policy.delay(retry, None, 0.0) == least
    assert policy.delay(retry, None, 1.0) == most


@settings(deadline=None)
@given(st.integers(0, 5000), st.floats(0, 1))
def test_backoff_is_bounded(retry: int, jitter: float) -> None:
    delay = RetryPolicy(max_retries=10_000).delay(retry, None, jitter)
    assert delay is not None
    assert 0 < delay <= 8.0


@settings(deadline=None)
@given(st.floats(0, 60), st.floats(0, 1))
def test_never_sooner_than_retry_after(asked: float, jitter: float) -> None:
    delay = RetryPolicy().delay(0, asked, jitter)
    assert delay is not None
    assert asked <= delay <= 1.25 * asked


def test_too_long_a_retry_after_ends_the_tries() -> None:
    assert RetryPolicy().delay(0, 60.1, 0.0) is None


def test_no_more_than_max_retries() -> None:
    attempts = Attempts(RetryPolicy(max_retries=2))
    delays = [attempts.after_error(REFUSED) for _ in range(4)]
    assert [delay is None for delay in delays] == [False, False, True, True]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 500, 501])
def test_other_statuses_are_final(status: int) -> None:
    assert Attempts(RetryPolicy()).after_status(status, {}) is None


def test_retry_after_of_a_status_is_used() -> None:
    delay = Attempts(RetryPolicy()).after_status(503, httpx.Headers({"Retry-After": "7"}))
    assert delay is not None
    assert 7 <= delay <= 8.75


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_header(value: str, seconds: float | None) -> None:
    # A plain dictionary: httpx's headers would refuse the digit outside ASCII.
    assert retry_after({"retry-after": value}, NOW) == seconds


def test_no_header_and_the_clock_of_this_machine() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0


@pytest.mark.parametrize("bad", [-1, True, 1.5, "2"])
def test_max_retries_is_checked(bad: int) -> None:
    with pytest.raises((ValueError, TypeError), match="max_retries"):
        RetryPolicy(max_retries=bad)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overload_that_passes_is_not_seen(face: Face, status: int) -> None:
    handler, seen = wire.recording(wire.in_turn(at_once(status), at_once(status), fine()))
    assert face.call(handler, "ask", "question").text == "Paris"
    assert len(seen) == 3
    assert seen[0].content == seen[2].content


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RateLimited), (502, UpstreamFailed), (503, Busy), (504, ServerError)]
)
def test_an_overload_that_stays_is_the_error(
    face: Face, status: int, kind: type[Exception]
) -> None:
    handler, seen = wire.recording(lambda _: at_once(status))
    with pytest.raises(kind, match="later"):
        face.call(handler, "ask", "question")
    assert len(seen) == 3


def test_a_dropped_connection_is_tried_again(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    broken = httpx.RemoteProtocolError("server disconnected")
    handler, seen = wire.recording(wire.in_turn(broken, fine()))
    with caplog.at_level(logging.INFO, logger="router_client"):
        assert face.call(handler, "ask", "question").text == "Paris"
    assert len(seen) == 2
    assert "after RemoteProtocolError" in caplog.text


def test_a_connection_that_stays_refused(face: Face) -> None:
    handler, seen = wire.recording(wire.in_turn(REFUSED, REFUSED))
    with pytest.raises(APIConnectionError, match="is the gateway running there"):
        face.call(handler, "ask", "question", client={"max_retries": 1})
    assert len(seen) == 2


def test_a_read_timeout_is_not_tried_again(face: Face) -> None:
    handler, seen = wire.recording(wire.in_turn(httpx.ReadTimeout("slow")))
    with pytest.raises(APITimeoutError, match="raise `timeout`"):
        face.call(handler, "ask", "question")
    assert len(seen) == 1


def test_max_retries_0(face: Face) -> None:
    handler, seen = wire.recording(wire.answering(wire.error(), 503, retry_after="0"))
    with pytest.raises(Busy):
        face.call(handler, "ask", "question", client={"max_retries": 0})
    assert len(seen) == 1


def test_a_far_retry_after_is_told_not_slept(face: Face) -> None:
    handler, seen = wire.recording(wire.answering(wire.error(), 429, retry_after="3600"))
    with pytest.raises(RateLimited) as caught:
        face.call(handler, "ask", "question")
    assert caught.value.retry_after == 3600
    assert len(seen) == 1


def test_opening_a_stream_is_tried_again(face: Face) -> None:
    whole = wire.streaming(wire.sse(wire.pieces("Paris")))
    handler, seen = wire.recording(
        wire.in_turn(at_once(503), whole(httpx.Request("POST", "http://gateway")))
    )
    went = face.stream(handler)
    assert (went.error, went.pieces, len(seen)) == (None, ["Paris"], 2)


@pytest.mark.parametrize("arrived", [b"", b"data: ", wire.sse([wire.delta("stop")], done=False)])
def test_a_stream_that_has_begun_is_never_tried_again(face: Face, arrived: bytes) -> None:
    handler, seen = wire.recording(wire.streaming(arrived))
    assert face.stream(handler).error is not None
    assert len(seen) == 1
