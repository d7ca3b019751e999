"""What a gateway sends, written out by hand after the documented wire format."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Json = dict[str, Any]
Handler = Callable[[httpx.Request], httpx.Response]

ROUTER: Json = {
    "route": "local",
    "reason": "confident",
    "p_correct": 0.83,
    "threshold": 0.71,
    "uncertainty": {"perplexity": 0.12, "margin": None},
    "calibration": "sha256:abc",
    "calibrated_sampler": True,
    "certificate": None,
    "degraded": False,
    "cache": "miss",
    "usage": {"local": {"prompt_tokens": 7, "completion_tokens": 3}, "remote": None},
    "cost_usd": 0.0,
    "saved_usd": 0.002,
    "timings_ms": {"queue": 0.1, "prefill": 9.0, "decode": 30.5, "uq": 0.6, "total": 41.0},
}
USAGE: Json = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
TOOL_CALL: Json = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Lima"}'},
}


def completion(text: str | None = "Paris", **changes: Any) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "local",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "router": ROUTER,
        **changes,
    }


def decision(**changes: Any) -> Json:
    return {
        "id": "route-1",
        "object": "router.decision",
        "router": {**ROUTER, "route": "remote", "reason": "uncertain", "p_correct": 0.4},
        "answer": {"text": "Lyon", "finish_reason": "stop"},
        **changes,
    }


def feedback(id: str = "chatcmpl-1", **changes: Any) -> Json:
    return {"object": "feedback", "id": id, "correct": True, "counted": True, **changes}


def error(message: str = "no", **fields: Any) -> Json:
    return {"error": {"message": message, "type": "t", "param": None, "code": None, **fields}}


def chunk(**changes: Any) -> Json:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "local", **changes}


def delta(finish_reason: str | None = None, index: int = 0, **fields: Any) -> Json:
    choice = {"index": index, "delta": fields, "finish_reason": finish_reason}
    return chunk(choices=[choice])


def pieces(*texts: str) -> list[Json]:
    """Return the chunks of a whole streamed answer."""
    return [
        delta(role="assistant", content=""),
        *(delta(content=text) for text in texts),
        delta("stop"),
        chunk(choices=[], usage=USAGE, router=ROUTER),
    ]


def sse(chunks: list[Json], *, done: bool = True, newline: str = "\n") -> bytes:
    # Unescaped, so that U+2028 and the like reach the parser as the gateway's JSON may send them.
    events = [json.dumps(body, ensure_ascii=False) for body in chunks] + ["[DONE]"] * done
    return "".join(f"data: {event}{newline}{newline}" for event in events).encode()


def answering(body: Any, status: int = 200, **headers: str) -> Handler:
    """Return a handler that always answers with this."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, json=body, headers=named)


def streaming(content: bytes, content_type: str = "text/event-stream; charset=utf-8") -> Handler:
    headers = {"content-type": content_type, "x-request-id": "req-7"}
    return lambda _: httpx.Response(200, content=content, headers=headers)


def in_turn(*responses: httpx.Response | Exception) -> Handler:
    """Return a handler that gives each response, or raises each error, once and in this order."""
    left = iter(responses)

    def handler(_: httpx.Request) -> httpx.Response:
        response = next(left)
        if isinstance(response, Exception):
            raise response
        return response

    return handler


def recording(handler: Handler) -> tuple[Handler, list[httpx.Request]]:
    """Return the handler with the list that its requests go to."""
    seen: list[httpx.Request] = []

    def record(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return handler(request)

    return record, seen


def sent(request: httpx.Request) -> Json:
    body: Json = json.loads(request.content)
    return body
