"""The client for asyncio: `RouterClient` again, but for how it waits. A test compares the two."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

from router_client import _response as parse
from router_client._models import Answer, Decision, Feedback, Health, ModelInfo
from router_client._request import (
    DEFAULT_BASE_URL,
    Call,
    Calls,
    Config,
    chat_body,
    feedback_body,
    prompt_messages,
    question_messages,
)
from router_client._retry import Attempts
from router_client._stream import AsyncStream
from router_client._types import (
    NOT_GIVEN,
    MessageLike,
    Mode,
    NotGiven,
    Prompt,
    StreamMode,
    TimeoutLike,
)


class AsyncRouterClient:
    """`RouterClient` for asyncio: the same methods and arguments, awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_key: str | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._config = Config.create(base_url, api_key, timeout, max_retries)
        self._calls = Calls(self._config)
        self._http = httpx.AsyncClient(
            headers=self._config.headers(),
            transport=transport,
            mounts=self._config.direct_hosts(),
        )

    async def ask(
        self,
        question: str,
        *,
        system: str | None = None,
        mode: Mode = "auto",
        threshold: float | None = None,
        max_risk: float | None = None,
        local_only: bool | None = None,
        uq: Sequence[str] | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        **params: Any,
    ) -> Answer:
        """Ask one question, as `RouterClient.ask`."""
        body = chat_body(
            question_messages(question, system),
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            params=params,
        )
        return parse.answer_from(await self._send(self._calls.chat(body, timeout)))

    async def chat(
        self,
        messages: Sequence[MessageLike],
        *,
        mode: Mode = "auto",
        model: str | NotGiven = NOT_GIVEN,
        threshold: float | None = None,
        max_risk: float | None = None,
        local_only: bool | None = None,
        uq: Sequence[str] | None = None,
        temperature: float | NotGiven | None = NOT_GIVEN,
        top_p: float | NotGiven | None = NOT_GIVEN,
        max_tokens: int | NotGiven | None = NOT_GIVEN,
        stop: str | Sequence[str] | NotGiven | None = NOT_GIVEN,
        seed: int | NotGiven | None = NOT_GIVEN,
        tools: Sequence[Mapping[str, Any]] | NotGiven = NOT_GIVEN,
        tool_choice: str | Mapping[str, Any] | NotGiven = NOT_GIVEN,
        response_format: Mapping[str, Any] | NotGiven = NOT_GIVEN,
        timeout: TimeoutLike = NOT_GIVEN,
        **params: Any,
    ) -> Answer:
        """Answer a conversation, as `RouterClient.chat`."""
        sampling = {
            "model": model,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "stop": stop,
            "seed": seed,
            "tools": tools,
            "tool_choice": tool_choice,
            "response_format": response_format,
        }
        body = chat_body(
            messages,
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            params=sampling | params,
        )
        return parse.answer_from(await self._send(self._calls.chat(body, timeout)))

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        mode: Mode = "auto",
        threshold: float | None = None,
        max_risk: float | None = None,
        local_only: bool | None = None,
        uq: Sequence[str] | None = None,
        stream_mode: StreamMode | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        **params: Any,
    ) -> AsyncStream:
        """Return an answer as a stream, as `RouterClient.stream`; not itself awaited."""
        body = chat_body(
            prompt_messages(prompt, system),
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            stream_mode=stream_mode,
            params=params,
        )
        call = self._calls.stream(body, timeout)
        return AsyncStream(lambda: self._send(call))

    async def route(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        mode: Mode = "auto",
        threshold: float | None = None,
        max_risk: float | None = None,
        local_only: bool | None = None,
        uq: Sequence[str] | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        **params: Any,
    ) -> Decision:
        """Tell what would happen without escalating, as `RouterClient.route`."""
        body = chat_body(
            prompt_messages(prompt, system),
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            params=params,
        )
        return parse.decision_from(await self._send(self._calls.route(body, timeout)))

    async def feedback(
        self,
        id: str,
        *,
        correct: bool | None = None,
        answer: str | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
    ) -> Feedback:
        """Tell whether a local answer was right, as `RouterClient.feedback`."""
        body = feedback_body(id, correct, answer)
        return parse.feedback_from(await self._send(self._calls.feedback(body, timeout)))

    async def calibration(self) -> dict[str, Any]:
        """Return the summary of the calibration in use, as the gateway tells it."""
        return parse.json_object(await self._send(self._calls.get("/v1/calibration")))

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return what the gateway can be asked for: auto, local, remote."""
        return parse.models_from(await self._send(self._calls.get("/v1/models")))

    async def health(self) -> Health:
        """Tell whether the gateway's process is well."""
        return parse.health_from(await self._send(self._calls.probe("/healthz")))

    async def ready(self) -> Health:
        """Tell whether the gateway can answer now; not ok (503) is a result, not an error."""
        return parse.health_from(await self._send(self._calls.probe("/readyz")))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncRouterClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config.shown()})"

    async def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._config.retry)
        while True:
            try:
                response = await self._exchange(call)
            except httpx.RequestError as error:
                delay = attempts.after_error(error)
                if delay is None:
                    raise parse.connection_error(error, self._config.base_url) from error
            else:
                if response.is_success or response.status_code in call.also_fine:
                    return response
                delay = attempts.after_status(response.status_code, response.headers)
                if delay is None:
                    raise parse.status_error(response)
            await asyncio.sleep(delay)

    async def _exchange(self, call: Call) -> httpx.Response:
        request = self._http.build_request(
            call.method,
            self._config.base_url + call.path,
            content=call.content,
            headers=call.headers(),
            timeout=call.timeout,
        )
        response = await self._http.send(request, stream=call.stream)
        if call.stream and not response.is_success:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response
