"""What is read from the answers of upstreams: how long to wait, and what was used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from router.answer import Usage
from router.remote_body import LONGEST_WAIT, is_usage_chunk, retry_after, usage_of
from tests.router.fake_upstream import USAGE_CHUNK


class TestRetryAfter:
    def test_seconds(self) -> None:
        assert retry_after({"retry-after": " 12 "}) == 12.0

    def test_a_date(self) -> None:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        wait = retry_after({"retry-after": later})
        assert wait is not None
        assert 50 < wait <= 60

    def test_a_date_without_zone_is_utc(self) -> None:
        later = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S -0000")
        wait = retry_after({"retry-after": later})
        assert wait is not None
        assert 50 < wait <= 60

    def test_a_past_date_is_now(self) -> None:
        assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0

    def test_a_date_is_read_by_the_clock_of_who_wrote_it(self) -> None:
        there = datetime.now(UTC) + timedelta(days=400)
        headers = {
            "date": format_datetime(there, usegmt=True),
            "retry-after": format_datetime(there + timedelta(seconds=7), usegmt=True),
        }
        assert retry_after(headers) == 7.0

    @pytest.mark.parametrize("value", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
    def test_what_is_absurd_is_bounded(self, value: str) -> None:
        assert retry_after({"retry-after": value}) == LONGEST_WAIT

    @pytest.mark.parametrize("value", ["", "soon", "-3", "nan", "1e9", "²"])
    def test_anything_else_is_nothing(self, value: str) -> None:
        assert retry_after({"retry-after": value}) is None


class TestUsage:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({}, None),
            ({"usage": None}, None),
            ({"usage": 3}, None),
            ({"usage": {}}, Usage(0, 0)),
            ({"usage": {"prompt_tokens": 2, "completion_tokens": "3"}}, Usage(2, 0)),
            ({"usage": {"prompt_tokens": -2, "completion_tokens": 3}}, Usage(0, 3)),
        ],
    )
    def test_counts(self, body: dict[str, Any], expected: Usage | None) -> None:
        assert usage_of(body) == expected

    def test_a_usage_chunk_has_no_choices(self) -> None:
        assert is_usage_chunk(USAGE_CHUNK)
        assert not is_usage_chunk({"choices": [], "usage": None})
        assert not is_usage_chunk({**USAGE_CHUNK, "choices": [{"index": 0}]})
