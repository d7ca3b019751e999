"""The legacy ``/v1/completions``: a prompt becomes one user message, its answer the text."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from service.errors import bad_request
from service.gateway import StreamItem
from service.openai import LogitBias, ModelName, RouterOptions, Stops, StreamOptions, Wire
from service.sse import ChunkWriter, chat_events

KIND = "text_completion"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own for this endpoint."""

MAX_LOGPROBS = 5


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class CompletionRequest(Wire):
    """The body of `POST /v1/completions`: one prompt."""

    model: ModelName
    prompt: Annotated[list[Any], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
    router: RouterOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


_THE_SAME = (
    *("model", "router", "stream", "stream_options", "temperature", "top_p", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "seed", "stop", "n", "user"),
)


def chat_body(request: CompletionRequest, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat request that asks the same. Raises ApiError for what can't be asked."""
    prompts = request.prompt
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise bad_request(
            "'prompt' must be a string, or a list of one: several prompts need several requests, "
            "and token ids differ between the models that may answer.",
            "prompt",
        )
    for param, asked, instead in (
        ("echo", request.echo, "put the prompt before the answer yourself"),
        ("suffix", request.suffix, "describe in the prompt what is to be filled in"),
        (
            "best_of",
            request.best_of not in (None, request.n or 1),
            "use 'n' and choose among the answers",
        ),
    ):
        if asked:
            raise bad_request(
                f"'{param}' is not supported; {instead}.", param, "unsupported_parameter"
            )
    body = {name: raw[name] for name in _THE_SAME if raw.get(name) is not None}
    body["messages"] = [{"role": "user", "content": prompts[0]}]
    body["max_tokens"] = request.max_tokens or DEFAULT_MAX_TOKENS
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return body


@dataclass(frozen=True, slots=True)
class TextForm:
    """``/v1/completions``."""

    include_usage: bool

    def new_id(self) -> str:
        return f"cmpl-{token_hex(16)}"

    def whole(self, completion: dict[str, Any]) -> Mapping[str, Any]:
        offsets: dict[int, int] = {}
        choices = [
            _choice(choice, choice.get("message") or {}, offsets)
            for choice in completion.get("choices", ())
        ]
        return {**completion, "object": KIND, "choices": choices}

    def events(
        self, items: AsyncIterator[StreamItem], writer: ChunkWriter, log: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        return chat_events(items, _TextWriter(writer), log)


class _TextWriter:
    """Turns chat chunks into chunks of text; one that only opens an answer says nothing here."""

    def __init__(self, writer: ChunkWriter) -> None:
        self._writer = writer
        self._offsets: dict[int, int] = {}

    def chunks(self, item: StreamItem) -> Iterator[dict[str, Any]]:
        for chunk in self._writer.chunks(item):
            choices = [
                _choice(choice, choice.get("delta") or {}, self._offsets)
                for choice in chunk["choices"]
            ]
            is_opening = choices and not any(
                choice["text"] or choice["logprobs"] or choice["finish_reason"]
                for choice in choices
            )
            if not is_opening or "router" in chunk:
                yield {**chunk, "object": KIND, "choices": choices}


def _choice(
    choice: Mapping[str, Any], said: Mapping[str, Any], offsets: dict[int, int]
) -> dict[str, Any]:
    """Return a choice whose text goes on at its index's place in `offsets`, which is moved on."""
    index = choice.get("index", 0)
    text = said.get("content") or said.get("refusal") or ""
    logprobs = choice.get("logprobs") or {}
    told = {
        "index": index,
        "text": text,
        "logprobs": _logprobs(logprobs.get("content"), offsets.get(index, 0)),
        "finish_reason": choice.get("finish_reason"),
    }
    offsets[index] = offsets.get(index, 0) + len(text)
    return told


def _logprobs(entries: list[dict[str, Any]] | None, offset: int) -> dict[str, Any] | None:
    """Return chat's log-probabilities as this endpoint's four lists."""
    if entries is None:
        return None
    offsets = []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for entry in entries:
        offsets.append(offset)
        raw = entry.get("bytes")  # a token may end within a character
        offset += len(entry["token"] if raw is None else decode(bytes(raw)))
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in entry.get("top_logprobs") or ()}
            for entry in entries
        ],
        "text_offset": offsets,
    }
