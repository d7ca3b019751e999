from __future__ import annotations

import copy
import math
import pickle
import types
from typing import Any

import httpx
import pytest
from router_client import (
    NOT_GIVEN,
    FunctionCall,
    Message,
    NotGiven,
    RouterClient,
    Timeout,
    ToolCall,
)
from router_client._request import DEFAULT_TIMEOUT, Config

from . import wire
from .faces import Face
from .wire import Json

MESSAGES = [{"role": "user", "content": "Hi"}]
KEY = "sk-very-secret"


def request_of(face: Face, method: str, *args: Any, **options: Any) -> httpx.Request:
    body = wire.decision() if method == "route" else wire.completion()
    handler, seen = wire.recording(wire.answering(body))
    face.call(handler, method, *args, **options)
    return seen[0]


def body_of(face: Face, method: str, *args: Any, **options: Any) -> Json:
    return wire.sent(request_of(face, method, *args, **options))


def test_ask_sends_one_question_and_the_mode(face: Face) -> None:
    request = request_of(face, "ask", "Hi")
    assert (request.method, str(request.url)) == (
        "POST",
        "http://127.0.0.1:8000/v1/chat/completions",
    )
    assert request.headers["content-type"] == "application/json"
    assert wire.sent(request) == {
        "model": "auto",
        "messages": MESSAGES,
        "router": {"mode": "auto"},
    }


def test_ask_with_everything(face: Face) -> None:
    body = body_of(
        face,
        "ask",
        "Hi",
        system="Be short.",
        mode="local",
        threshold=0.0,
        max_risk=0.1,
        local_only=False,
        uq=("margin",),
        max_tokens=5,
        top_k=3,
    )
    assert body == {
        "model": "local",
        "messages": [{"role": "system", "content": "Be short."}, *MESSAGES],
        "router": {
            "mode": "local",
            "threshold": 0.0,
            "max_risk": 0.1,
            "local_only": False,
            "uq": ["margin"],
        },
        "max_tokens": 5,
        "top_k": 3,
    }


def test_chat_sends_openai_s_fields(face: Face) -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    given: Json = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 5,
        "stop": ["."],
        "seed": 7,
        "tools": [tool],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "min_p": 0.1,
    }
    body = body_of(face, "chat", MESSAGES, **given)
    assert body == {
        "model": "auto",
        "messages": MESSAGES,
        "router": {"mode": "auto"},
        **given,
    }


def test_none_is_sent_and_not_given_is_not(face: Face) -> None:
    body = body_of(face, "chat", MESSAGES, temperature=None, seed=NOT_GIVEN, user=NOT_GIVEN)
    assert body["temperature"] is None
    assert not {"seed", "user", "stop"} & set(body)


@pytest.mark.parametrize("options", [{"model": "remote"}, {"model": "remote", "mode": "remote"}])
def test_model_is_openai_s_word_for_mode(face: Face, options: Json) -> None:
    body = body_of(face, "chat", MESSAGES, **options)
    assert body == {"model": "remote", "messages": MESSAGES}
    assert body_of(face, "ask", "Hi", **options) == body


def test_mode_and_model_may_not_contradict(face: Face) -> None:
    with pytest.raises(ValueError, match="mode='local' and model='remote' contradict"):
        body_of(face, "chat", MESSAGES, mode="local", model="remote")


def test_messages_as_values(face: Face) -> None:
    asked = Message(
        role="assistant",
        content=None,
        tool_calls=(ToolCall(id="1", function=FunctionCall(name="f", arguments="{}")),),
    )
    answer = Message(role="tool", content="sunny", tool_call_id="1")
    frozen = types.MappingProxyType(MESSAGES[0])
    assert body_of(face, "chat", [frozen, asked, answer])["messages"] == [
        MESSAGES[0],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]


def test_fields_of_a_message_that_this_client_does_not_know_are_sent(face: Face) -> None:
    message = Message.model_validate({**MESSAGES[0], "weight": 2})
    assert body_of(face, "chat", [message])["messages"] == [{**MESSAGES[0], "weight": 2}]


@pytest.mark.parametrize("prompt", ["Hi", MESSAGES])
def test_route_takes_both_kinds_of_prompt(face: Face, prompt: Any) -> None:
    request = request_of(face, "route", prompt, threshold=0.5, seed=1)
    assert request.url.path == "/v1/route"
    assert wire.sent(request) == {
        "model": "auto",
        "messages": MESSAGES,
        "router": {"mode": "auto", "threshold": 0.5},
        "seed": 1,
    }


def test_a_stream_may_say_when_it_is_decided_on(face: Face) -> None:
    handler, seen = wire.recording(wire.streaming(wire.sse(wire.pieces("a"))))
    assert face.stream(handler, prompt="Hi", stream_mode="commit").error is None
    assert wire.sent(seen[0])["router"] == {"mode": "auto", "stream_mode": "commit"}


@pytest.mark.parametrize("prompt", ["Hi", MESSAGES])
def test_stream_asks_for_a_stream_with_usage(face: Face, prompt: Any) -> None:
    handler, seen = wire.recording(wire.streaming(wire.sse(wire.pieces("a"))))
    assert face.stream(handler, prompt=prompt, max_tokens=5).error is None
    assert seen[0].headers["accept"] == "text/event-stream"
    assert wire.sent(seen[0]) == {
        "model": "auto",
        "messages": MESSAGES,
        "router": {"mode": "auto"},
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("models", "/v1/models", {"data": []}),
        ("calibration", "/v1/calibration", {}),
        ("health", "/healthz", {}),
        ("ready", "/readyz", {}),
    ],
)
def test_what_is_only_read(face: Face, method: str, path: str, body: Json) -> None:
    handler, seen = wire.recording(wire.answering(body))
    face.call(handler, method)
    assert (seen[0].method, seen[0].url.path, seen[0].content) == ("GET", path, b"")


@pytest.mark.parametrize("field", ["stream", "stream_options", "router", "messages"])
def test_fields_that_have_their_own_argument(face: Face, field: str) -> None:
    with pytest.raises(TypeError, match=f"'{field}'|multiple values"):
        body_of(face, "ask", "Hi", **{field: True})


@pytest.mark.parametrize(
    ("method", "argument", "options", "message"),
    [
        ("ask", MESSAGES, {}, r"for a conversation use chat\(messages\)"),
        ("chat", "Hi", {}, r"for one question use ask\(question\)"),
        ("chat", ["Hi"], {}, "a mapping with role and content, not str"),
        ("ask", "Hi", {"uq": "margin"}, r"did you mean \['margin'\]"),
    ],
)
def test_mistakes_that_types_would_catch(
    face: Face, method: str, argument: Any, options: Json, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        body_of(face, method, argument, **options)


def test_system_belongs_to_a_single_question(face: Face) -> None:
    with pytest.raises(ValueError, match="put it first among the messages"):
        body_of(face, "route", MESSAGES, system="Be short.")


def test_nan_is_not_sent(face: Face) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        body_of(face, "ask", "Hi", threshold=math.nan)


def test_text_travels_as_utf_8(face: Face) -> None:
    assert "Größe".encode() in request_of(face, "ask", "Größe").content


def timeouts_of(request: httpx.Request) -> Json:
    timeouts: Json = request.extensions["timeout"]
    return timeouts


def test_the_timeout_of_the_client_and_of_one_request(face: Face) -> None:
    client: Json = {"timeout": Timeout(9.0, connect=1.0)}
    assert timeouts_of(request_of(face, "ask", "Hi")) == DEFAULT_TIMEOUT.as_dict()
    own = timeouts_of(request_of(face, "ask", "Hi", client=dict(client)))
    assert own == {"connect": 1.0, "read": 9.0, "write": 9.0, "pool": 9.0}
    one = timeouts_of(request_of(face, "ask", "Hi", client=dict(client), timeout=3))
    assert set(one.values()) == {3}
    none = timeouts_of(request_of(face, "ask", "Hi", client=dict(client), timeout=None))
    assert set(none.values()) == {None}


@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan, True, "5", (1, 2)])
def test_timeouts_are_checked(bad: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="timeout"):
        RouterClient(timeout=bad)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://host:1/prefix",
        "http://host:1/prefix/",
        "http://host:1/prefix/v1",
        "http://host:1/prefix/v1/",
    ],
)
def test_base_url_with_a_prefix(face: Face, base_url: str) -> None:
    request = request_of(face, "ask", "Hi", client={"base_url": base_url})
    assert str(request.url) == "http://host:1/prefix/v1/chat/completions"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://h?a=1",
        "http://h#a",
        "http://host:port",
    ],
)
def test_base_url_is_checked(bad: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        RouterClient(bad)


def test_a_password_in_base_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="use api_key") as caught:
        RouterClient("http://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_the_key_is_a_bearer_token(face: Face) -> None:
    request = request_of(face, "ask", "Hi", client={"api_key": KEY})
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in request_of(face, "ask", "Hi").headers
    assert request.headers["user-agent"].startswith("seek-stronger-client/")


@pytest.mark.parametrize("bad", ["", "sk-secret\n", "sk secret", "sk-sécret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        RouterClient(api_key=bad)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_this_machine_is_never_asked_through_a_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    mounts = Config.create(f"http://{host}:8000", None, NOT_GIVEN, 0).direct_hosts()
    assert len(mounts) == 1
    httpx.Client(mounts=mounts).close()


def test_other_machines_keep_their_proxy() -> None:
    assert Config.create("http://gateway.example", None, NOT_GIVEN, 0).direct_hosts() == {}


def test_not_given_is_one_value() -> None:
    assert repr(NOT_GIVEN) == "NOT_GIVEN"
    assert not NOT_GIVEN
    assert isinstance(NOT_GIVEN, NotGiven)
    assert copy.deepcopy(NOT_GIVEN) is NOT_GIVEN
    assert pickle.loads(pickle.dumps(NOT_GIVEN)) is NOT_GIVEN
