"""The GGUF's own chat template: messages -> prompt -> tokens."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.engine.messages import TOOLS, Message
from router.errors import ModelError, TemplateRefused

_ANY_USER_TEXTS = ("a", "\n\n1", "  B")
"""Different to a tokenizer from their first character on, so that none joins what is before."""

_SYSTEM_TEXTS_KEPT = 64


_PROBE = "probe_7f3a"
"""Nothing that a template says by itself."""

_TEACHES = re.compile(r"<tool_call>\s*\{+[^}]*\"arguments\"")
"""The format of calls, shown by example; Qwen3-Coder, say, has another in the same tags."""


class Vocabulary(Protocol):
    """What rendering needs to know of a model."""

    bos: int
    eos: int
    add_bos: bool

    @property
    def chat_template(self) -> str | None:
        """The template's source."""

    @property
    def control_texts(self) -> Sequence[str]:
        """How all control tokens are written."""

    def special_piece(self, token: int) -> str:
        """How a control token is written."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokens of a text."""


class ChatTemplate:
    """Renders a conversation as the model was trained to read it.

    The template is the GGUF's own unless `source` is given. It comes out of a downloaded file, so
    it runs in jinja2's immutable sandbox. Raises ModelError when there is none or it can't be
    compiled.
    """

    def __init__(self, vocabulary: Vocabulary, source: str = "") -> None:
        source = source or vocabulary.chat_template or ""
        if not source:
            raise ModelError(
                "the model file holds no chat template, so it can't answer questions; "
                "use an instruction-tuned GGUF"
            )
        self._vocabulary = vocabulary
        self._quotes = _Quotes(vocabulary.control_texts)
        self._bos = vocabulary.special_piece(vocabulary.bos)
        self._eos = vocabulary.special_piece(vocabulary.eos)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"the model's chat template can't be compiled: {error}") from error
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self._system_tokens = functools.lru_cache(_SYSTEM_TEXTS_KEPT)(self._read_system_tokens)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant's answer begins.

        Raises TemplateRefused for what it does not accept (a wrong order of roles, say).
        """
        declared = [tool for m in messages if m.role == TOOLS for tool in json.loads(m.content)]
        turns = [{"role": m.role, "content": m.content} for m in messages if m.role != TOOLS]
        known: dict[str, Any] = {"tools": declared} if declared else {}
        try:
            return self._template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
                **known,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise TemplateRefused(f"the model's chat template refuses this: {error}") from error

    def teaches_calls(self) -> bool:
        """Whether it tells the model of tools, of calls in `router.tools`' format, and of results.

        Many templates leave out the tools that they are given, without a word.
        """
        parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        function = {"name": _PROBE, "description": "?", "parameters": parameters}
        tools = Message(TOOLS, json.dumps([{"type": "function", "function": function}]))
        question = Message("user", "?")
        result = [Message("assistant", "!"), Message("tool", _PROBE)]
        try:
            taught = self.render([tools, question])
            answered = self.render([question, *result])
        except TemplateRefused:
            return False
        return _PROBE in taught and bool(_TEACHES.search(taught)) and _PROBE in answered

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The rendered prompt as tokens, with exactly one beginning-of-sequence token if any.

        Control tokens are the template's alone: one that a message spells out is text as any other,
        so that nobody can end a turn, or begin another's, from within.
        """
        prompt = self.render([self._quotes.mark(message) for message in messages])
        has_bos = bool(self._bos) and prompt.startswith(self._bos)
        add_special = self._vocabulary.add_bos and not has_bos
        tokens: list[int] = []
        for text, is_quoted in self._quotes.parts(prompt):
            tokens += self._vocabulary.tokenize(
                text, add_special=add_special, parse_special=not is_quoted
            )
            add_special = False
        return tokens

    def system_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The tokens with which a prompt of these leading system messages begins, whatever follows.

        Without system messages they are those of the model's own system prompt, if it has one.
        Nothing when the template refuses system messages. A template may still write a longer
        conversation in another way: check that the prompt at hand does begin with these tokens.
        """
        system = takewhile(lambda message: message.role == "system", messages)
        # Some templates state the date.
        today = datetime.date.today()
        return list(self._system_tokens(tuple(message.content for message in system), today))

    def _read_system_tokens(self, system: tuple[str, ...], _: datetime.date) -> tuple[int, ...]:
        before = [Message("system", text) for text in system]
        try:
            prompts = [self.tokens([*before, Message("user", text)]) for text in _ANY_USER_TEXTS]
        except TemplateRefused:
            return ()
        columns = zip(*prompts, strict=False)
        return tuple(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))


class _Quotes:
    """Tells what messages say from what the template does, where both read as control tokens.

    Marks that nobody can guess stand in for the former while the template is rendered.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        self._texts = longest_first
        self._number = {text: i for i, text in enumerate(longest_first)}
        self._spelled_out = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._secret = f"quoted{secrets.token_hex(16)}x"
        self._mark = re.compile(rf"{self._secret}(\d+)x")

    def mark(self, message: Message) -> Message:
        """The message, its control tokens replaced by marks."""
        if self._spelled_out.search(message.content) is None:
            return message
        content = self._spelled_out.sub(
            lambda found: f"{self._secret}{self._number[found[0]]}x", message.content
        )
        return replace(message, content=content)

    def parts(self, prompt: str) -> Iterator[tuple[str, bool]]:
        """The prompt in pieces: its text, and whether that is what was marked."""
        end = 0
        for found in self._mark.finditer(prompt):
            yield prompt[end : found.start()], False
            yield self._texts[int(found[1])], True
            end = found.end()
        yield prompt[end:], False


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """What templates expect of ``tojson``: Jinja's own writes it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
