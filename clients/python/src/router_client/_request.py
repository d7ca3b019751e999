"""Requests, built without I/O: what both clients send, and their settings."""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from router_client._models import Message
from router_client._retry import RetryPolicy
from router_client._types import NOT_GIVEN, Mode, Prompt, StreamMode, TimeoutLike
from router_client._version import __version__

DEFAULT_BASE_URL = "http://127.0.0.1:8000"

# Nothing is sent back until the answer is decided, and on a small device that may take minutes.
DEFAULT_TIMEOUT = httpx.Timeout(180.0, connect=5.0)

_RESERVED = {
    "messages": "pass the messages as the first argument",
    "stream": "use stream()",
    "stream_options": "stream() always asks for the usage",
    "router": "use the arguments mode, threshold, max_risk, local_only and uq",
}


@dataclass(frozen=True, slots=True)
class Config:
    """A client's settings, checked. The key is a SecretStr: no repr and no traceback shows it."""

    base_url: str
    api_key: SecretStr | None
    timeout: httpx.Timeout
    retry: RetryPolicy

    @classmethod
    def create(
        cls,
        base_url: str,
        api_key: str | None,
        timeout: TimeoutLike,
        max_retries: int,
    ) -> Config:
        """Check what the user gave. Raises ValueError or TypeError that says what to change."""
        return cls(
            base_url=_checked_url(base_url),
            api_key=None if api_key is None else _checked_key(api_key),
            timeout=DEFAULT_TIMEOUT if timeout is NOT_GIVEN else checked_timeout(timeout),
            retry=RetryPolicy(max_retries),
        )

    def shown(self) -> str:
        """Return the settings for a client's repr."""
        key = "" if self.api_key is None else f", api_key={str(self.api_key)!r}"
        return f"base_url={self.base_url!r}{key}, max_retries={self.retry.max_retries}"

    def headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"seek-stronger-client/{__version__}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        return headers

    def direct_hosts(self) -> dict[str, None]:
        """Return httpx mounts that keep a gateway on this machine from being asked through a proxy.

        httpx takes HTTP_PROXY from the environment even for 127.0.0.1, where no proxy can reach it.
        """
        host = httpx.URL(self.base_url).host
        if not _is_loopback(host):
            return {}
        return {f"all://[{host}]" if ":" in host else f"all://{host}": None}


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the gateway. `also_fine` lists error statuses that are answers, not errors."""

    method: str
    path: str
    timeout: httpx.Timeout
    content: bytes | None = None
    stream: bool = False
    also_fine: frozenset[int] = frozenset()

    def headers(self) -> dict[str, str]:
        accept = "text/event-stream" if self.stream else "application/json"
        return {"Accept": accept} | ({"Content-Type": "application/json"} if self.content else {})


class Calls:
    """Makes the `Call` of each API method."""

    def __init__(self, config: Config) -> None:
        self._default_timeout = config.timeout

    def get(self, path: str) -> Call:
        return Call("GET", path, self._default_timeout)

    def probe(self, path: str) -> Call:
        return Call("GET", path, self._default_timeout, also_fine=frozenset({503}))

    def chat(self, body: Mapping[str, Any], timeout: TimeoutLike) -> Call:
        return self._post("/v1/chat/completions", body, timeout)

    def stream(self, body: Mapping[str, Any], timeout: TimeoutLike) -> Call:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        return self._post("/v1/chat/completions", body, timeout, stream=True)

    def route(self, body: Mapping[str, Any], timeout: TimeoutLike) -> Call:
        return self._post("/v1/route", body, timeout)

    def feedback(self, body: Mapping[str, Any], timeout: TimeoutLike) -> Call:
        return self._post("/v1/feedback", body, timeout)

    def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        timeout: TimeoutLike,
        *,
        stream: bool = False,
    ) -> Call:
        # Python's json would write NaN, which is not JSON, and escape every character past ASCII.
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        seconds = self._default_timeout if timeout is NOT_GIVEN else checked_timeout(timeout)
        return Call("POST", path, seconds, content, stream=stream)


def question_messages(question: str, system: str | None) -> list[Message]:
    """Return the messages for one question. Raises TypeError for anything but a string."""
    if not isinstance(question, str):
        raise TypeError(
            f"ask() takes one question as a string, not {type(question).__name__}; "
            "for a conversation use chat(messages)"
        )
    user = Message(role="user", content=question)
    return [user] if system is None else [Message(role="system", content=system), user]


def prompt_messages(prompt: Prompt, system: str | None) -> Sequence[Message | Mapping[str, Any]]:
    """Return the messages for a question or a conversation.

    Raises ValueError when `system` comes with a conversation, which has its own first message.
    """
    if isinstance(prompt, str):
        return question_messages(prompt, system)
    if system is not None:
        raise ValueError("system goes with a single question; put it first among the messages")
    return prompt


def chat_body(
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    mode: Mode,
    threshold: float | None,
    max_risk: float | None,
    local_only: bool | None,
    uq: Sequence[str] | None,
    stream_mode: StreamMode | None = None,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON body: OpenAI's fields, and the `router` object with what was asked of it.

    `params` are OpenAI's fields; those that are NOT_GIVEN are left out, and `model`, OpenAI's word
    for `mode`, replaces it. Raises TypeError for a field that has its own argument, and when
    `messages` is a string; ValueError when `mode` and `model` contradict each other.
    """
    model = params.get("model", NOT_GIVEN)
    if isinstance(messages, str):
        raise TypeError("chat() takes a list of messages; for one question use ask(question)")
    for name, instead in _RESERVED.items():
        if name in params:
            raise TypeError(f"{name!r} can't be given as a further field: {instead}")
    if model is not NOT_GIVEN and mode not in ("auto", model):
        raise ValueError(f"mode={mode!r} and model={model!r} contradict each other; give one")
    router = {
        "mode": mode if model is NOT_GIVEN else None,
        "threshold": threshold,
        "max_risk": max_risk,
        "local_only": local_only,
        "uq": None if uq is None else _names(uq),
        "stream_mode": stream_mode,
    }
    body: dict[str, Any] = {
        "model": mode if model is NOT_GIVEN else model,
        "messages": [_message(message) for message in messages],
        **{name: value for name, value in params.items() if value is not NOT_GIVEN},
    }
    if asked := {name: value for name, value in router.items() if value is not None}:
        body["router"] = asked
    return body


def feedback_body(id: str, correct: bool | None, answer: str | None) -> dict[str, Any]:
    """Return the JSON body of a feedback.

    Raises ValueError unless one of `correct` and `answer` is given, TypeError when `id` is no
    string.
    """
    if not isinstance(id, str):
        raise TypeError(f"id is an answer's id, a string, not {type(id).__name__}; pass answer.id")
    if (correct is None) == (answer is None):
        raise ValueError("give one of correct= (was it right?) and answer= (the right answer)")
    return {"id": id, "correct": correct} if answer is None else {"id": id, "answer": answer}


def checked_timeout(timeout: httpx.Timeout | float | None) -> httpx.Timeout:
    """Return the value object; None means no limit. Raises ValueError unless it is positive."""
    if isinstance(timeout, httpx.Timeout):
        return timeout
    if timeout is None:
        return httpx.Timeout(None)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be seconds, a Timeout or None, not {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout is {timeout!r} s; it must be above 0, or None for no limit")
    return httpx.Timeout(timeout)


def _message(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(message, Message):
        return message.model_dump(mode="json", exclude_unset=True)
    if isinstance(message, Mapping):
        return dict(message)
    raise TypeError(
        f"a message is a Message or a mapping with role and content, not {type(message).__name__}"
    )


def _names(uq: Sequence[str]) -> list[str]:
    if isinstance(uq, str):
        raise TypeError(f"uq takes a list of estimator names; did you mean [{uq!r}]?")
    return list(uq)


def _checked_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url is not a URL: {error}") from None
    if url.userinfo:  # checked first, so that no message below repeats a password
        raise ValueError("base_url must not hold a user or password; use api_key")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url must look like {DEFAULT_BASE_URL}, not {base_url!r}")
    if url.query or url.fragment:
        raise ValueError(f"base_url must not hold a query or a fragment: {base_url!r}")
    # OpenAI's clients are given the address with /v1; the same setting works here.
    return str(url).rstrip("/").removesuffix("/v1")


def _checked_key(api_key: str) -> SecretStr:
    # A line end read along with the key would fail in the transport, whose message shows it.
    if not api_key or not all("!" <= character <= "~" for character in api_key):
        raise ValueError(
            "api_key is empty or holds spaces, line ends or characters outside ASCII; "
            "leave it out when the gateway asks for none"
        )
    return SecretStr(api_key)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
