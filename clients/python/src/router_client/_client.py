"""The client. What it knows is in the I/O-free modules, which `AsyncRouterClient` shares."""

from __future__ import annotations

import time
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
from router_client._stream import Stream
from router_client._types import (
    NOT_GIVEN,
    MessageLike,
    Mode,
    NotGiven,
    Prompt,
    StreamMode,
    TimeoutLike,
)


class RouterClient:
    """A client of a seek-stronger gateway. Safe to share between threads; close it when done.

    Parameters
    ----------
    base_url : where the gateway listens, with or without ``/v1``.
    api_key : sent as a bearer token; leave it out when the gateway asks for none.
    timeout : seconds, or a `Timeout`, for each of connecting, reading and writing; None waits for
        ever. By default 5 s to connect and 180 s for each read.
    max_retries : further tries after a connection error or a 429, 502, 503 or 504.
    transport : what carries the requests, as an `httpx.MockTransport` in your tests.

    Every method raises APIConnectionError, APITimeoutError, InvalidResponse or one of
    APIStatusError's classes; ValueError or TypeError for arguments that can't be sent.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_key: str | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._config = Config.create(base_url, api_key, timeout, max_retries)
        self._calls = Calls(self._config)
        self._http = httpx.Client(
            headers=self._config.headers(),
            transport=transport,
            mounts=self._config.direct_hosts(),
        )

    def ask(
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
        """Ask one question.

        Parameters
        ----------
        system : the system message.
        mode : ``auto`` lets the gateway decide; ``local`` and ``remote`` decide for it.
        threshold : keep the local answer when its `p_correct` is at least this, in [0, 1].
        max_risk : in place of a threshold, the error that kept answers may have, in [0, 1].
        local_only : the question must not leave the gateway's machine.
        uq : names of further uncertainty scores to report.
        timeout : for this request; None waits for ever.
        **params : further fields of OpenAI's chat completions, such as ``max_tokens=64``.
        """
        body = chat_body(
            question_messages(question, system),
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            params=params,
        )
        return parse.answer_from(self._send(self._calls.chat(body, timeout)))

    def chat(
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
        """Answer a conversation. Options as in `ask`; the sampling fields have OpenAI's meaning.

        `model` is OpenAI's word for `mode`; give one of the two.
        """
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
        return parse.answer_from(self._send(self._calls.chat(body, timeout)))

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
    ) -> Stream:
        """Return a question's or a conversation's answer as a stream. Options as in `ask`.

        With the `stream_mode` ``commit`` a local answer comes after its first tokens, with ``hold``
        when it is whole; without one, as the gateway is set.
        Nothing is sent before the stream is entered or iterated. Retries end where it begins.
        """
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
        return Stream(lambda: self._send(call))

    def route(
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
        """Tell what would happen to a question or a conversation, without escalating it.

        Options as in `ask`.
        """
        body = chat_body(
            prompt_messages(prompt, system),
            mode=mode,
            threshold=threshold,
            max_risk=max_risk,
            local_only=local_only,
            uq=uq,
            params=params,
        )
        return parse.decision_from(self._send(self._calls.route(body, timeout)))

    def feedback(
        self,
        id: str,
        *,
        correct: bool | None = None,
        answer: str | None = None,
        timeout: TimeoutLike = NOT_GIVEN,
    ) -> Feedback:
        """Tell whether a local answer was right; the gateway learns from it.

        Parameters
        ----------
        id : the answer's `id` (not its `request_id`).
        correct : whether it was right; for local answers.
        answer : or the right answer, in short: a letter, a number, a few words. Also for escalated
            answers, whose local one it is compared with.

        Saying the same twice counts once; the last word holds. NotFound when the gateway does not
        know the id (any more); an APIStatusError with status 409 when it has no local answer.
        """
        body = feedback_body(id, correct, answer)
        return parse.feedback_from(self._send(self._calls.feedback(body, timeout)))

    def calibration(self) -> dict[str, Any]:
        """Return the summary of the calibration in use, as the gateway tells it."""
        return parse.json_object(self._send(self._calls.get("/v1/calibration")))

    def models(self) -> tuple[ModelInfo, ...]:
        """Return what the gateway can be asked for: auto, local, remote."""
        return parse.models_from(self._send(self._calls.get("/v1/models")))

    def health(self) -> Health:
        """Tell whether the gateway's process is well."""
        return parse.health_from(self._send(self._calls.probe("/healthz")))

    def ready(self) -> Health:
        """Tell whether the gateway can answer now; not ok (503) is a result, not an error."""
        return parse.health_from(self._send(self._calls.probe("/readyz")))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RouterClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config.shown()})"

    def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._config.retry)
        while True:
            try:
                response = self._exchange(call)
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
            time.sleep(delay)

    def _exchange(self, call: Call) -> httpx.Response:
        request = self._http.build_request(
            call.method,
            self._config.base_url + call.path,
            content=call.content,
            headers=call.headers(),
            timeout=call.timeout,
        )
        response = self._http.send(request, stream=call.stream)
        if call.stream and not response.is_success:
            try:
                response.read()
            finally:
                response.close()
        return response
