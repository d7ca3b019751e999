"""A cached answer comes back as it went in, or not at all."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import stored
from tests.service.scripted import LOCAL, PIECES, REMOTE, TOP_PIECES, TRACE


def test_a_remote_answer_comes_back_as_it_was() -> None:
    back, at = stored.decode(stored.encode(REMOTE, at=5.0, keep_trace=False))
    assert at == 5.0
    assert math.isnan(back.decision.uncertainty["margin"])
    shown = replace(REMOTE.decision, uncertainty={"perplexity": 0.12})
    assert replace(back, decision=shown) == replace(REMOTE, decision=shown)


def test_the_trace_is_kept_where_it_is_wanted() -> None:
    back, _ = stored.decode(stored.encode(LOCAL, at=5.0, keep_trace=True))
    assert back.trace is not None
    np.testing.assert_array_equal(back.trace.logprobs, TRACE.logprobs)
    np.testing.assert_array_equal(back.trace.top_ids, TRACE.top_ids)
    assert back.pieces == PIECES
    assert back.top_pieces == TOP_PIECES


@pytest.mark.parametrize("keep_trace", [True, False])
def test_further_choices_come_back(keep_trace: bool) -> None:
    answer = replace(LOCAL, others=(replace(LOCAL.choices[0], text="Hallo!"),))
    back, _ = stored.decode(stored.encode(answer, at=5.0, keep_trace=keep_trace))
    assert [choice.text for choice in back.choices] == ["Grüße!", "Hallo!"]
    assert back.choices[1].pieces == (PIECES if keep_trace else ())


def test_it_is_compressed() -> None:
    long = replace(REMOTE, text="The tide came in and the keeper counted the ships. " * 100)
    assert len(stored.encode(long, at=5.0, keep_trace=False)) < len(long.text) / 4


def test_the_trace_is_left_out_elsewhere() -> None:
    back, _ = stored.decode(stored.encode(LOCAL, at=5.0, keep_trace=False))
    assert back.trace is None
    assert back.pieces == ()
    assert (back.text, back.usage_local) == (LOCAL.text, LOCAL.usage_local)


def test_half_a_surrogate_pair_of_an_upstream_does_no_harm() -> None:
    stored.decode(stored.encode(replace(REMOTE, text="\ud83d"), at=5.0, keep_trace=False))


def packed(data: Any) -> bytes:
    return zlib.compress(json.dumps(data).encode())


GOOD: dict[str, Any] = json.loads(zlib.decompress(stored.encode(LOCAL, at=5.0, keep_trace=True)))

FIRST = GOOD["choices"][0]


def with_choice(**wrong: Any) -> bytes:
    return packed({**GOOD, "choices": [{**FIRST, **wrong}]})


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        stored.encode(LOCAL, at=5.0, keep_trace=True)[:-3],
        zlib.compress(b"not json"),
        packed([]),
        packed({}),
        packed({**GOOD, "choices": []}),
        with_choice(text=5),
        packed({**GOOD, "more": 5}),
        packed({**GOOD, "decision": {"route": "moon", "reason": "confident"}}),
        with_choice(trace={"text": "x"}),
        with_choice(trace={**FIRST["trace"], "tokens": [1]}),
        with_choice(pieces=["%"]),
        zlib.compress(b" " * (stored.MAX_DECODED_BYTES + 1)),
    ],
)
def test_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(stored.CorruptValueError):
        stored.decode(value)


VALUE = stored.encode(LOCAL, at=5.0, keep_trace=True)


@settings(deadline=None)
@given(at=st.integers(0, len(VALUE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_meant_nothing(at: int, bit: int) -> None:
    value = bytearray(VALUE)
    value[at] ^= 1 << bit
    try:
        back, kept_at = stored.decode(bytes(value))
    except stored.CorruptValueError:
        return
    assert stored.encode(back, at=kept_at, keep_trace=True) == VALUE
