"""JSON that every reader understands."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import strict_json


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=VALUES)
def test_whatever_is_written_is_strict(value: Any) -> None:
    written = json.loads(strict_json.dumps(value), parse_constant=refuse)
    assert written == strict_json.without_nan(value)


def test_what_json_lacks_becomes_null() -> None:
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": (math.nan,)}
    assert strict_json.dumps(value) == b'{"a":null,"b":[null,null,1.5],"c":[null]}'


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert strict_json.dumps({"a": "x\ud83dy"}) == b'{"a":"x?y"}'


def test_half_a_surrogate_pair_beside_what_json_lacks() -> None:
    assert strict_json.dumps(["\ud83d", math.nan]) == b'["?",null]'


def test_many_levels_are_written() -> None:
    deep: Any = 1
    for _ in range(700):
        deep = [deep]
    assert strict_json.dumps(deep) == b"[" * 700 + b"1" + b"]" * 700


def test_text_is_written_as_it_is() -> None:
    assert strict_json.dumps("Grüße") == '"Grüße"'.encode()


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (math.nan, None), (None, None)])
def test_finite(value: float | None, expected: float | None) -> None:
    assert strict_json.finite(value) == expected


@pytest.mark.parametrize("data", [b"NaN", b"-Infinity", b'"\\ud800"', b'"\xff"', b"[" * 1000, b""])
def test_reading_refuses_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json.loads(data)


@pytest.mark.parametrize(
    "text", ["1e400", "-1E+309", '{"a": [1, {"b": 1e999}]}', "1" * 400 + ".0", "1" * 250 + "e99"]
)
def test_a_number_beyond_all_doubles_is_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="a number is larger"):
        strict_json.loads(text.encode())


@given(value=VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    assert strict_json.loads(strict_json.dumps(value)) == strict_json.without_nan(value)


@pytest.mark.parametrize("text", ["1e308", '"1e400"', "1e-400", "9" * 400])
def test_what_only_looks_like_one_is_read(text: str) -> None:
    assert strict_json.loads(text.encode()) == json.loads(text)
