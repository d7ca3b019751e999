"""ChatRequest -> Query: what to ask the small model, and what it can't do of what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import uq
from router.account import ANONYMOUS, Account
from router.answer import Mode, Need, Query, StreamMode
from router.engine.messages import Message, Sampler
from router.json_grammar import json_grammar
from router.json_schema import SchemaError, UnsupportedSchemaError, schema_grammar
from service.errors import bad_request, forbidden, model_not_found
from service.openai import ChatMessage, ChatRequest, RouterOptions
from service.tools import NO_TOOLS, call_needs, calls_as_text, tool_use

MAX_LOCAL_CHOICES = 8
"""Answers to one request that the small model gives; more go to the upstream."""

MODES: tuple[Mode, ...] = get_args(Mode)

_ALWAYS = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_WHEN_DRAWN = ("temperature", "top_k", "top_p", "min_p", "seed")

_ENGINE_ROLE = {"developer": "system", "function": "user"}


def to_query(
    request: ChatRequest,
    raw: Mapping[str, Any],
    *,
    n_vocab: int,
    tenant: str = "",
    stream_mode: StreamMode = "hold",
    account: Account = ANONYMOUS,
    local_tools: bool = False,
) -> Query:
    """Return the query that `request` asks.

    `raw` is the body as received: the upstream gets it without what is not OpenAI's. `n_vocab` is
    the local vocabulary's size, `tenant` who asks without an account, `stream_mode` that of streams
    which set none. What was agreed with an `account` holds where the request says nothing else, and
    `local_only` in any case. With `local_tools` the local model may call tools. Raises ApiError
    when fields contradict each other, or the account.
    """
    options = request.router or RouterOptions()
    mode = _mode(request, options)
    _check_together(request, options, mode)
    if account.local_only and mode == "remote":
        raise forbidden("This API key is local only, so it can't be used with mode 'remote'.")
    own_rule = options.threshold is not None or options.max_risk is not None
    grammar, unenforced = _grammar(request)
    tools = tool_use(request) if local_tools else NO_TOOLS
    return Query(
        messages=(*tools.declared, *map(_message, request.messages)),
        body=_body(raw),
        mode=mode,
        sampler=_sampler(request, tools.grammar or grammar),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop=(*(request.stop or ()), *tools.stop),
        top_logprobs=request.top_logprobs or 0,
        threshold=options.threshold if own_rule else account.threshold,
        max_risk=options.max_risk if own_rule else account.max_risk,
        local_only=bool(options.local_only) or account.local_only,
        estimators=_estimators(options),
        needs=(*unenforced, *tools.needs, *_needs(request, n_vocab, local_tools)),
        n=request.n or 1,
        tenant=account.id or tenant,
        account=account,
        stream_mode=(options.stream_mode or stream_mode) if request.stream else "hold",
        tools=tools.names,
    )


def wants_logprobs(query: Query) -> bool:
    """Tell whether the answer shall show its log-probabilities."""
    return bool(query.body.get("logprobs"))


def _body(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an upstream is sent: some refuse a field that they don't know."""
    body = {key: value for key, value in raw.items() if key != "router"}
    if any("provider_specific_fields" in message for message in raw["messages"]):
        body["messages"] = [
            {key: value for key, value in message.items() if key != "provider_specific_fields"}
            for message in raw["messages"]
        ]
    return body


def _mode(request: ChatRequest, options: RouterOptions) -> Mode:
    model = next((mode for mode in MODES if mode == request.model), None)
    if model is None:
        raise model_not_found(request.model)
    if options.mode is None or options.mode == model:
        return model
    if model != "auto":
        raise bad_request(
            f"`model` is '{model}' but `router.mode` is '{options.mode}'; "
            "leave one out, or use the model 'auto'.",
            "router.mode",
        )
    return options.mode


def _check_together(request: ChatRequest, options: RouterOptions, mode: Mode) -> None:
    """Refuse fields that contradict each other, or that mean nothing without another."""
    if options.local_only and mode == "remote":
        raise bad_request(
            "`router.local_only` forbids what mode 'remote' asks for; drop one of them.",
            "router.local_only",
        )
    if options.threshold is not None and options.max_risk is not None:
        raise bad_request(
            "`router.max_risk` chooses the threshold, so it can't be set beside "
            "`router.threshold`; drop one of them.",
            "router.max_risk",
        )
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise bad_request(
            "'max_tokens' and 'max_completion_tokens' differ; send only one of them.", "max_tokens"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' needs 'stream': true.", "stream_options")
    if not request.tools:
        for param in ("tool_choice", "parallel_tool_calls"):
            if getattr(request, param) not in (None, "none"):
                raise bad_request(f"'{param}' needs 'tools'.", param)
    if request.response_format is not None:
        wants_schema = request.response_format.type == "json_schema"
        if wants_schema != (request.response_format.json_schema is not None):
            raise bad_request(
                "'json_schema' belongs with type 'json_schema', and that type needs it.",
                "response_format.json_schema",
            )


def _grammar(request: ChatRequest) -> tuple[str, tuple[Need, ...]]:
    """Return the grammar that `response_format` asks for, and what of it none can enforce."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return "", ()
    schema = None if wanted.json_schema is None else wanted.json_schema.schema_
    if schema is None:
        return json_grammar(), ()
    try:
        return schema_grammar(schema), ()
    except SchemaError as error:
        param = "response_format.json_schema.schema"
        raise bad_request(f"Invalid '{param}': {error}.", param) from None
    except UnsupportedSchemaError as error:
        return "", (Need("response_format", f"a JSON schema beyond grammars ({error})"),)


def _sampler(request: ChatRequest, grammar: str) -> Sampler:
    """Return the request's sampler; every field left out keeps the greedy default's value.

    Several answers are drawn, since greedy ones would be equal: at OpenAI's own temperature unless
    the request sets one.

    So do those that only shape a draw when nothing is drawn: a greedy request with a seed is still
    the greedy decoding that calibrations are made with. OpenAI's seeds are signed, random
    generators' are not: a negative one wraps around.
    """
    drawn = (request.n or 1) > 1 if request.temperature is None else request.temperature > 0
    names = _ALWAYS + (_WHEN_DRAWN if drawn else ())
    given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    if drawn:
        given.setdefault("temperature", 1.0)
    if "seed" in given:
        given["seed"] %= 2**64
    return Sampler(**given, logit_bias=_logit_bias(request), grammar=grammar)


def _logit_bias(request: ChatRequest) -> tuple[tuple[int, float], ...]:
    pairs = []
    for token, bias in (request.logit_bias or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise bad_request(
                f"Invalid key in 'logit_bias': {token[:20]!r} is not a token id.", "logit_bias"
            )
        pairs.append((int(token), bias))
    return tuple(sorted(pairs))


def _estimators(options: RouterOptions) -> tuple[str, ...] | None:
    if options.uq is None:
        return None
    known = uq.estimator_names()
    for index, name in enumerate(options.uq):
        if name not in known:
            raise bad_request(
                f"There is no uncertainty estimator {name[:50]!r}; there are {', '.join(known)}.",
                f"router.uq[{index}]",
            )
    return tuple(dict.fromkeys(options.uq))


def _message(message: ChatMessage) -> Message:
    """Return the turn as the local model sees it; a line break joins several text parts."""
    texts = [part.text or part.refusal or "" for part in message.content or ()]
    content = "\n".join(texts) if texts else message.refusal or ""
    if message.tool_calls:
        content = calls_as_text(content, message.tool_calls)
    return Message(_ENGINE_ROLE.get(message.role, message.role), content)


def _needs(request: ChatRequest, n_vocab: int, local_tools: bool) -> Iterator[Need]:
    """Yield what the local model lacks for this request."""
    for param, asked, what in (
        ("tools", request.tools and not local_tools, "tool calls"),
        ("functions", request.functions, "function calls"),
        ("function_call", request.function_call not in (None, "none"), "function calls"),
        ("audio", request.audio, "spoken output"),
        ("modalities", "audio" in (request.modalities or ()), "spoken output"),
        ("n", (request.n or 1) > MAX_LOCAL_CHOICES, f"{request.n} answers at once"),
        ("prediction", request.prediction, "predicted output"),
        ("reasoning_effort", request.reasoning_effort not in (None, "none"), "reasoning"),
        ("verbosity", request.verbosity not in (None, "medium"), "a set verbosity"),
        ("web_search_options", request.web_search_options is not None, "web search"),
        (
            "service_tier",
            request.service_tier not in (None, "auto", "default"),
            f"the service tier '{request.service_tier}'",
        ),
        ("moderation", request.moderation, "moderation"),
        (
            "logit_bias",
            any(int(token) >= n_vocab for token in request.logit_bias or {}),
            f"tokens beyond its vocabulary of {n_vocab}",
        ),
    ):
        if asked:
            yield Need(param, what)
    for index, message in enumerate(request.messages):
        yield from _message_needs(message, f"messages[{index}]", local_tools)


_PART_NEEDS = {"image_url": "image input", "input_audio": "audio input", "file": "file input"}


def _message_needs(message: ChatMessage, where: str, local_tools: bool) -> Iterator[Need]:
    if message.role == "function" or (message.role == "tool" and not local_tools):
        yield Need(f"{where}.role", f"messages of role '{message.role}'")
    if message.tool_calls:
        yield from call_needs(message.tool_calls, f"{where}.tool_calls", local_tools)
    for param, what in (
        ("function_call", "function calls"),
        ("audio", "spoken answers"),
        ("annotations", "annotations"),
    ):
        if getattr(message, param):
            yield Need(f"{where}.{param}", what)
    if message.name and message.role != "function":
        yield Need(f"{where}.name", "named participants")
    for index, part in enumerate(message.content or ()):
        if part.type in _PART_NEEDS:
            yield Need(f"{where}.content[{index}]", _PART_NEEDS[part.type])
