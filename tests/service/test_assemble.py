"""A stream put together is what the upstream would have sent in one piece."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.assemble import assemble


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m"} | {
        "choices": [choice]
    }


def test_text_usage_and_shared_fields() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    body = assemble(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Hel"}),
            chunk({"content": "lo", "role": "assistant"}),
            chunk({"content": None}, "stop"),
            {**chunk({}), "choices": [], "usage": usage, "system_fingerprint": "fp"},
        ]
    )
    assert body == {
        "id": "c",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": usage,
    }


def test_several_tool_calls_come_in_pieces() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": function}]}

    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "b", "type": "function", "function": {"name": "g"}}
    body = assemble(
        [
            chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
            chunk(call(0, arguments='{"x"')),
            chunk({"tool_calls": [second]}),
            chunk(call(1, arguments="{}")),
            chunk(call(0, arguments=":1}")),
            chunk({}, "tool_calls"),
        ]
    )
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_and_several_choices() -> None:
    parts = [chunk({"content": text}, index=i) for i, text in ((1, "b"), (0, "a"), (1, "B"))]
    for i, part in enumerate(parts):
        part["choices"][0]["logprobs"] = {"content": [{"token": str(i)}], "refusal": None}
    body = assemble([*parts, chunk({}, "stop", 1), chunk({}, "length", 0)])
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "bB"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "stop"]
    assert body["choices"][1]["logprobs"]["content"] == [{"token": "0"}, {"token": "2"}]


def test_fields_it_does_not_know_are_kept() -> None:
    body = assemble([chunk({"reasoning_content": "hm", "score": 1}), chunk({"score": 2}, "stop")])
    assert body["choices"][0]["message"]["reasoning_content"] == "hm"
    assert body["choices"][0]["message"]["score"] == 2


@given(text=st.text(max_size=50), cuts=st.lists(st.integers(0, 50), max_size=6))
def test_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    body = assemble([*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop")])
    assert body["choices"][0]["message"]["content"] == text
