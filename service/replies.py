"""Answer -> OpenAI's response objects, with the `router` object that says how it came about."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from secrets import token_hex
from typing import Any, Literal

from router.answer import Answer, Choice, Decision, Usage
from router.engine.messages import EngineInfo
from service.strict_json import finite
from service.tools import message_of

CacheStatus = Literal["hit", "miss", "bypass"]

STAGES = ("queue", "prefill", "decode", "uq", "remote", "total")

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token of probability zero; JSON has no minus infinity."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all objects of one response share."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, info: EngineInfo, id: str = "") -> Envelope:
        """Return a fresh envelope for an answer of the local model, with a new id or this one."""
        return cls(
            id=id or f"chatcmpl-{token_hex(16)}",
            created=int(time.time()),
            model=f"local:{info.model_name}",
            fingerprint=_fingerprint(info.model_sha256, info.build),
        )

    def fields(self, kind: str) -> dict[str, Any]:
        """Return the shared fields, for an object of type `kind`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def completion(
    answer: Answer, cache: CacheStatus, envelope: Envelope, *, logprobs: bool, n_top: int
) -> dict[str, Any]:
    """Return the `chat.completion` object.

    A remote answer is the upstream's own object with our `id`, under which its decision is recorded
    (upstreams may repeat theirs), and with `router` added. `usage` counts the tokens of the leg
    that answered; `router.usage` has both.
    """
    router = router_object(answer, cache)
    if answer.decision.route == "remote" and answer.remote_body is not None:
        return {**answer.remote_body, "id": envelope.id, "router": router}
    logprobs = logprobs and answer.decision.route == "local"
    choices = []
    for index, choice in enumerate(answer.choices):
        shown = {"content": token_logprobs(choice, n_top), "refusal": None} if logprobs else None
        choices.append(
            {
                "index": index,
                "message": message_of(choice, index, envelope.id),
                "logprobs": shown,
                "finish_reason": choice.finish_reason,
            }
        )
    return {
        **envelope.fields("chat.completion"),
        "choices": choices,
        "usage": answer_usage(answer),
        "router": router,
    }


def route_decision(answer: Answer, envelope: Envelope, cache: CacheStatus) -> dict[str, Any]:
    """Return the body of `POST /v1/route`: the decision, and the local answer if there is one."""
    local = answer.usage_local is not None
    return {
        **envelope.fields("route.decision"),
        "router": router_object(answer, cache),
        "answer": {"text": answer.text, "finish_reason": answer.finish_reason} if local else None,
    }


def router_object(answer: Answer, cache: CacheStatus) -> dict[str, Any]:
    """Return the `router` object of a response. Unknown numbers are null."""
    decision = answer.decision
    return {
        "route": decision.route,
        "reason": decision.reason,
        "p_correct": finite(decision.p_correct),
        "threshold": finite(decision.threshold),
        "uncertainty": {name: finite(u) for name, u in decision.uncertainty.items()},
        "calibration": decision.calibration,
        "calibrated_sampler": decision.calibrated_sampler,
        "certificate": None if decision.certificate is None else dict(decision.certificate),
        "degraded": decision.degraded,
        "budget": None if decision.budget is None else asdict(decision.budget),
        "cache": cache,
        "upstream": answer.upstream or None,
        "upstream_id": (answer.remote_body or {}).get("id"),
        "usage": {
            "local": usage_object(answer.usage_local),
            "remote": usage_object(answer.usage_remote),
        },
        "cost_usd": answer.cost_usd,
        "saved_usd": answer.saved_usd,
        "timings_ms": {stage: round(answer.timings_ms.get(stage, 0.0), 3) for stage in STAGES},
    }


def router_headers(
    decision: Decision, cache: CacheStatus, age: float | None = None
) -> dict[str, str]:
    """Return the short form of the `router` object; a header that has no value is left out.

    `age` is that of an answer from the cache, in seconds.
    """
    headers = {
        "X-Router-Route": decision.route,
        "X-Router-Reason": decision.reason,
        "X-Router-Cache": cache,
        "X-Router-Degraded": "true" if decision.degraded else "false",
    }
    if age is not None:
        headers["Age"] = f"{age:.0f}"
    for name, value in (("P-Correct", decision.p_correct), ("Threshold", decision.threshold)):
        if (known := finite(value)) is not None:
            headers[f"X-Router-{name}"] = f"{known:.4f}"
    return headers


def answer_usage(answer: Answer) -> dict[str, Any]:
    """Return OpenAI's `usage`: the tokens of the leg that answered."""
    local = answer.decision.route == "local"
    usage = answer.usage_local if local else answer.usage_remote
    return usage_object(usage) or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    """Return one leg's tokens; None for a leg that did not run.

    OpenAI's details are there where they say something: prompt tokens found in a cache, and guesses
    of speculative decoding.
    """
    if usage is None:
        return None
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.accepted_tokens or usage.rejected_tokens:
        told["completion_tokens_details"] = {
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.rejected_tokens,
        }
    return told


def token_logprobs(choice: Choice, n_top: int) -> list[dict[str, Any]]:
    """Return OpenAI's list of token log-probabilities, with the `n_top` likeliest of each step."""
    trace = choice.trace
    if trace is None:
        return []
    out = []
    for i, piece in enumerate(choice.pieces):
        entry = _token(piece, float(trace.logprobs[i]))
        alternatives = choice.top_pieces[i][:n_top] if n_top and choice.top_pieces else ()
        entry["top_logprobs"] = [
            _token(other, float(trace.top_logprobs[i, j])) for j, other in enumerate(alternatives)
        ]
        out.append(entry)
    return out


def token_texts(choice: Choice) -> Iterator[str]:
    """Yield the part of the choice's text that each of its tokens contributes."""
    if choice.trace is None:
        return
    starts = [int(offset) for offset in choice.trace.offsets]
    ends = [*starts[1:], len(choice.text)]
    if starts:
        starts[0] = 0
    for start, end in zip(starts, ends, strict=True):
        yield choice.text[start:end]


def deltas(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a complete upstream answer as choices of one stream chunk.

    Their finish reasons are left out: the stream's last chunk has them.
    """
    out = []
    for choice in body.get("choices", ()):
        delta = message_delta(choice.get("message") or {})
        out.append(
            {
                "index": choice.get("index", 0),
                "delta": delta,
                "logprobs": choice.get("logprobs"),
                "finish_reason": None,
            }
        )
    return out


def message_delta(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the delta that is a whole message; fields that are null are left out."""
    delta = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
    return delta


def finishes(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a stream's finish chunk for a complete upstream answer."""
    return [
        finish_choice(choice.get("finish_reason") or "stop", choice.get("index", 0))
        for choice in body.get("choices", ())
    ]


def finish_choice(reason: str, index: int = 0) -> dict[str, Any]:
    """Return the choice that ends a stream."""
    return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}


@lru_cache(maxsize=4)  # asked of every answer
def _fingerprint(model_sha256: str, build: str) -> str:
    digest = hashlib.sha256(f"{model_sha256}\n{build}".encode()).hexdigest()
    return f"fp_{digest[:12]}"


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    known = finite(logprob)
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": LEAST_LOGPROB if known is None else known,
        "bytes": list(piece),
    }
