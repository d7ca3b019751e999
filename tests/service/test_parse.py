"""Errors in a request name the field, what it got and what it wants."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import parse
from service.errors import ApiError
from service.openai import ChatRequest
from service.parse import parse_chat_request
from tests.service.scripted import QUESTION, client_of

USER = {"role": "user", "content": "hi"}


def refused(data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat_request(data)
    return caught.value


def refused_with(**fields: Any) -> ApiError:
    return refused(json.dumps({**QUESTION, **fields}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"model": "auto"} x',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_json(data: bytes) -> None:
    error = refused(data)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)


def test_a_body_that_is_no_object() -> None:
    assert refused(b"[1]").code == "invalid_type"


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [
        ({"temprature": 1}, "temprature", "'temperature'"),
        ({"max_token": 1}, "max_token", "'max_tokens'"),
        ({"repeat_penalty": 1}, "repeat_penalty", "'repetition_penalty'"),
        ({"n_predict": 1}, "n_predict", "'max_tokens'"),
        ({"router": {"treshold": 1}}, "router.treshold", "'threshold'"),
        ({"stream_options": {"include_usge": 1}}, "stream_options.include_usge", "include_usage"),
        ({"messages": [USER, {**USER, "nmae": 1}]}, "messages[1].nmae", "'name'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]},
            "messages[0].content[0].txt",
            "'text'",
        ),
    ],
)
def test_an_unknown_parameter_is_named_and_the_near_one_too(
    fields: dict[str, Any], param: str, hint: str
) -> None:
    error = refused_with(**fields)
    assert error.status == 400
    assert error.code == "unknown_parameter"
    assert error.param == param
    assert param in error.message
    assert hint in error.message


def test_an_unknown_parameter_like_no_other_gets_no_hint() -> None:
    assert "Did you mean" not in refused_with(zzzzqqqq=1).message
    assert "Did you mean" not in refused_with(response_format={"type": "text", "qqqq": 1}).message


def test_an_unknown_parameter_goes_before_other_faults() -> None:
    assert refused_with(temperature=9, tempreture=9).param == "tempreture"


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_parameter(name: str) -> None:
    body = {key: value for key, value in QUESTION.items() if key != name}
    error = refused(json.dumps(body).encode())
    assert error.code == "missing_required_parameter"
    assert error.param == name


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": "hot"}, "temperature", "expected a number, but got a string"),
        ({"temperature": True}, "temperature", "expected a number, but got a boolean"),
        ({"max_tokens": 1.5}, "max_tokens", "expected an integer, but got a decimal"),
        ({"max_tokens": "5"}, "max_tokens", "expected an integer, but got a string"),
        ({"stream": 1}, "stream", "expected a boolean, but got an integer"),
        ({"model": None}, "model", "expected a string, but got null"),
        ({"messages": "hi"}, "messages", "but got a string"),
        ({"messages": ["hi"]}, "messages[0]", "expected an object, but got a string"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "an integer"),
        ({"stop": 5}, "stop", "expected an array (or a string"),
        ({"stop": [5]}, "stop[0]", "expected a string"),
        ({"metadata": {"a": 1}}, "metadata.a", "expected a string"),
        ({"logit_bias": []}, "logit_bias", "expected an object, but got an array"),
        ({"router": "auto"}, "router", "expected an object"),
        ({"tool_choice": 3}, "tool_choice", "'tool_choice'"),
    ],
)
def test_a_wrong_type(fields: dict[str, Any], param: str, words: str) -> None:
    error = refused_with(**fields)
    assert error.code == "invalid_type"
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value", "<= 2.0, but got 2.5"),
        ({"temperature": -0.5}, "temperature", "decimal_below_min_value", ">= 0.0"),
        ({"top_p": 2}, "top_p", "integer_above_max_value", "<= 1"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value", ">= 1, but got 0"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"),
        ({"seed": 2**63}, "seed", "integer_above_max_value", "<"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "decimal_below_min_value", "> 0"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "integer_above_max_value", "<= 100"),
        ({"router": {"threshold": 1.5}}, "router.threshold", "decimal_above_max_value", "<= 1"),
    ],
)
def test_out_of_range(fields: dict[str, Any], param: str, code: str, words: str) -> None:
    error = refused_with(**fields)
    assert (error.param, error.code) == (param, code)
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role", "'king'"),
        ({"router": {"mode": "cloud"}}, "router.mode", "'remote'"),
        ({"store": True}, "store", "False"),
        ({"reasoning_effort": "x" * 200}, "reasoning_effort", "..."),
        ({"messages": [{"role": "user"}]}, "messages[0]", "needs content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0]", "needs content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0]",
            "the field text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "messages[0].content[0]",
            "the field text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]},
            "messages[0].content[0].type",
            "'image_url'",
        ),
    ],
)
def test_a_value_that_is_not_among_the_allowed(
    fields: dict[str, Any], param: str, words: str
) -> None:
    error = refused_with(**fields)
    assert (error.code, error.param) == ("invalid_value", param)
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop[0]"),
        ({"user": "x" * 513}, "user"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata." + "k" * 65),
    ],
)
def test_too_long_or_too_short(fields: dict[str, Any], param: str) -> None:
    error = refused_with(**fields)
    assert error.param == param
    assert "too" in error.code


def test_the_hints_of_other_names_are_real_names() -> None:
    assert set(parse.OTHER_NAMES.values()) <= set(ChatRequest.model_fields)
    assert not set(parse.OTHER_NAMES) & set(ChatRequest.model_fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON, max_size=4))
def test_whatever_is_sent_is_either_understood_or_refused_with_400(fields: dict[str, Any]) -> None:
    data = json.dumps({**QUESTION, **fields}).encode()
    error = fault(data)
    if error is not None:
        assert error.status == 400
        assert error.message
        assert error.code
        json.dumps(dict(error.body()), allow_nan=False)


def fault(data: bytes) -> ApiError | None:
    try:
        parse_chat_request(data)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_only_json_is_taken(content_type: str) -> None:
    async with client_of() as client:
        response = await client.post(
            "/v1/chat/completions",
            content=json.dumps(QUESTION),
            headers={"Content-Type": content_type},
        )
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


async def test_a_charset_does_no_harm() -> None:
    async with client_of() as client:
        response = await client.post(
            "/v1/chat/completions",
            content=json.dumps(QUESTION),
            headers={"Content-Type": "application/json; charset=utf-8"},
        )
    assert response.status_code == 200


async def test_a_body_that_is_too_large() -> None:
    async with client_of() as client:
        response = await client.post(
            "/v1/chat/completions",
            content=b" " * (parse.MAX_BODY_BYTES + 1),
            headers={"Content-Type": "application/json"},
        )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
