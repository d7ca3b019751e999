"""What the spans of a query's stages are called, and what they tell.

Names that begin with ``gen_ai``, ``server`` and ``http`` are OpenTelemetry's own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx

from router.answer import Decision, Usage
from router.engine.engine import Engine
from router.engine.messages import Completion, GenerateRequest, StreamPart
from router.errors import UpstreamRejected
from router.remote_body import usage_of
from router.tracing import NOTHING, Span, Value, span


def generation(engine: Engine, request: GenerateRequest, n: int = 1) -> Span:
    """Begin the stage in which the device answers."""
    stage = span("chat local")
    if stage is not NOTHING:
        model = engine.info.model_name
        stage.rename(f"chat {model}")
        stage.tell(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "llama.cpp",
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": request.max_tokens,
                "gen_ai.request.temperature": request.sampler.temperature,
                "gen_ai.request.stream": request.stream,
                "gen_ai.request.choice.count": n if n > 1 else None,
            }
        )
    return stage


def generated(stage: Span, *completions: Completion) -> None:
    """Tell what the device's answers took, and how they ended."""
    if stage is NOTHING:
        return
    timings = completions[0].timings
    stage.tell(
        {
            **_tokens(Usage.of(*completions)),
            "gen_ai.response.finish_reasons": [each.trace.finish_reason for each in completions],
            "router.queue_ms": timings.queue,
            "router.prefill_ms": timings.prefill,
            "router.decode_ms": timings.decode,
        }
    )


def streamed(engine: Engine, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
    """The device's answer as it is made, in a stage of its own."""
    stage = generation(engine, request)
    parts = engine.stream(request)
    return parts if stage is NOTHING else _watched(stage, parts)


async def _watched(
    stage: Span, parts: AsyncGenerator[StreamPart, None]
) -> AsyncGenerator[StreamPart, None]:
    with stage:
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Completion):
                    generated(stage, part)
                    stage.end()  # who has this part hangs up
                yield part


def decided(stage: Span, decision: Decision) -> None:
    """Tell what scores and policy want; the request's own span has what came of it."""
    if stage is NOTHING:
        return
    stage.tell(
        {
            "router.route": decision.route,
            "router.reason": decision.reason,
            "router.p_correct": decision.p_correct,
            "router.threshold": decision.threshold,
        }
    )


class UpstreamCall:
    """The stage in which an upstream answers: one call, with its repeats."""

    def __init__(self, *, name: str, api: str, base_url: str, model: str, stream: bool) -> None:
        self._began = time.perf_counter()
        self._stage = span("chat upstream", client=True)
        self._waits = True
        if self._stage is NOTHING:
            return
        url = httpx.URL(base_url)
        self._stage.rename(f"chat {model}" if model else "chat")
        self._stage.tell(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": api,
                "gen_ai.request.model": model or None,
                "gen_ai.request.stream": stream,
                "server.address": url.host,
                "server.port": url.port,
                "router.upstream": name,
            }
        )

    @property
    def headers(self) -> dict[str, str]:
        """By which the upstream can continue the trace."""
        return self._stage.headers

    def began(self, status: int, attempts: int) -> None:
        """An answer begins to arrive."""
        self._stage.tell({"http.response.status_code": status, "router.attempts": attempts})

    def chunk(self, body: Mapping[str, Any]) -> None:
        """A chunk of a streamed answer has come, perhaps with what it took."""
        if self._stage is NOTHING:
            return
        if self._waits:
            self._waits = False
            waited = time.perf_counter() - self._began
            self._stage.tell({"gen_ai.response.time_to_first_chunk": waited})
        self.took(usage_of(body))

    def took(self, usage: Usage | None) -> None:
        if usage is not None:
            self._stage.tell(_tokens(usage))

    def failed(self, error: Exception) -> None:
        if isinstance(error, UpstreamRejected):
            self._stage.tell({"http.response.status_code": error.status})
        self._stage.failed(type(error).__name__)

    def end(self) -> None:
        self._stage.end()


def _tokens(usage: Usage) -> dict[str, Value]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
    }
