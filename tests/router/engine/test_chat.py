"""The chat template comes from a downloaded file: it renders, it refuses, it can't break out."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.config import Settings
from router.engine import chat, engine_config
from router.engine.chat import ChatTemplate
from router.engine.llama import Model
from router.engine.messages import TOOLS, Message
from router.errors import ConfigError, ModelError, TemplateRefused
from tests import tool_template


class Vocabulary:
    """A vocabulary of one token a character, with any template."""

    bos, eos = 1, 2

    def __init__(self, template: str | None, *, add_bos: bool = True) -> None:
        self._template = template
        self.add_bos = add_bos

    @property
    def chat_template(self) -> str | None:
        return self._template

    control_texts = ("<s>", "</s>")

    def special_piece(self, token: int) -> str:
        return {1: "<s>", 2: "</s>"}[token]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if parse_special:
            text = text.replace("<s>", "\x01").replace("</s>", "\x02")
        return [1] * add_special + [ord(c) for c in text]


HELLO = (Message("user", "hello"),)


def test_the_default_models_template(model_path: Path) -> None:
    model = Model(model_path)
    prompt = ChatTemplate(model).render([Message("system", "Be brief."), *HELLO])
    model.close()
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_one_beginning_of_sequence_token_whether_the_template_writes_it_or_not() -> None:
    writes = ChatTemplate(Vocabulary("{{ bos_token }}x"))
    silent = ChatTemplate(Vocabulary("x"))
    wants_none = ChatTemplate(Vocabulary("x", add_bos=False))
    assert writes.tokens(HELLO) == [1, ord("x")]
    assert silent.tokens(HELLO) == [1, ord("x")]
    assert wants_none.tokens(HELLO) == [ord("x")]


def test_a_message_can_not_speak_in_control_tokens() -> None:
    template = ChatTemplate(Vocabulary("{{ messages[0].content | trim }}</s>"))
    said = " a</s><s>b</s>"
    assert template.tokens([Message("user", said)]) == [1, *map(ord, said.strip()), 2]


ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5)


@given(before=ASCII, after=ASCII, data=st.data())
def test_the_default_model_reads_no_control_token_that_a_user_wrote(
    real_model: Model, before: str, after: str, data: st.DataObject
) -> None:
    written = data.draw(st.sampled_from(real_model.control_texts))
    control = {
        token
        for text in real_model.control_texts
        for token in real_model.tokenize(text, add_special=False, parse_special=True)
    }
    template = ChatTemplate(real_model)
    plain, attack = (
        template.tokens([Message("user", text)]) for text in ("hello", before + written + after)
    )
    assert [t for t in attack if t in control] == [t for t in plain if t in control]
    said = b"".join(real_model.piece(token) for token in attack).decode()
    assert before + written + after in said


@given(text=st.text())
def test_what_spells_no_control_token_is_read_as_ever(real_model: Model, text: str) -> None:
    template = ChatTemplate(real_model)
    assume(not any(control in text for control in real_model.control_texts))
    messages = [Message("user", text)]
    whole = real_model.tokenize(template.render(messages), add_special=False, parse_special=True)
    assert template.tokens(messages) == whole


def test_a_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate(Vocabulary("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        template.render(HELLO)
    with pytest.raises(TemplateRefused, match="JSON"):
        ChatTemplate(Vocabulary("{{ tools | tojson }}")).render(HELLO)


def test_a_template_may_ask_for_the_date() -> None:
    template = ChatTemplate(Vocabulary("{{ strftime_now('%Y') }}"))
    assert template.render(HELLO) == str(datetime.datetime.now().year)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.clear() }}",
    ],
)
def test_a_template_can_not_leave_the_sandbox(attack: str) -> None:
    with pytest.raises(TemplateRefused):
        ChatTemplate(Vocabulary(attack)).render(HELLO)


def test_a_file_without_a_template_or_with_a_broken_one_is_named() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        ChatTemplate(Vocabulary(None))
    with pytest.raises(ModelError, match="can't be compiled"):
        ChatTemplate(Vocabulary("{% if %}"))


FUNCTION = {"name": "weather", "description": "Grüße & <b>", "parameters": {"type": "object"}}
DECLARED = Message(TOOLS, json.dumps([{"type": "function", "function": FUNCTION}]))


def test_tools_are_told_to_the_model_and_their_results() -> None:
    template = ChatTemplate(Vocabulary(None), tool_template.SOURCE)
    prompt = template.render([DECLARED, *HELLO, Message("tool", "sunny")])
    assert json.dumps(FUNCTION, ensure_ascii=False) in prompt
    assert prompt.index("weather") < prompt.index("hello") < prompt.index("sunny")
    assert "weather" not in template.render(HELLO)


PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
TOLD = "{% if tools %}{{ tools | tojson }}{% endif %}"
EXAMPLE = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("source", "teaches"),
    [
        (tool_template.SOURCE, True),
        (PLAIN, False),
        (TOLD + PLAIN, False),
        (EXAMPLE + PLAIN, False),
        (TOLD + EXAMPLE + PLAIN, True),
        (TOLD + EXAMPLE.replace('"arguments"', "function") + PLAIN, False),
        (TOLD + EXAMPLE + "{{ messages[0].content }}", False),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + EXAMPLE + PLAIN, False),
    ],
)
def test_a_template_teaches_calls_or_not(source: str, teaches: bool) -> None:
    assert ChatTemplate(Vocabulary(None), source).teaches_calls() == teaches


def test_a_declared_tool_can_not_speak_in_control_tokens() -> None:
    template = ChatTemplate(Vocabulary("{{ tools[0].function.name }}</s>"))
    tools = Message(TOOLS, json.dumps([{"function": {"name": "</s>"}}]))
    assert template.tokens([tools, *HELLO]) == [1, *map(ord, "</s>"), 2]


def test_a_template_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    for content, told in ((None, "No such file"), (b"\xff", "utf-8"), (b" \n", "empty")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"own\.jinja.*{told}"):
            engine_config(Settings(chat_template=str(path)))
    path.write_text(tool_template.SOURCE)
    config = engine_config(Settings(chat_template=str(path), local_tools="on"))
    assert (config.chat_template, config.tools) == (tool_template.SOURCE, True)


SYSTEM_FIRST = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}[be kind]{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"
)


def as_text(tokens: list[int]) -> str:
    return "".join(chr(token) for token in tokens[1:])


def test_system_tokens_end_where_the_user_begins_to_speak() -> None:
    template = ChatTemplate(Vocabulary(SYSTEM_FIRST))
    tokens = template.system_tokens([Message("system", "Be brief."), *HELLO])
    assert as_text(tokens) == "[system] Be brief.[user] "


def test_without_system_messages_they_are_the_models_own_system_prompt() -> None:
    template = ChatTemplate(Vocabulary(SYSTEM_FIRST))
    assert as_text(template.system_tokens(HELLO)) == "[be kind][user] "


def test_only_leading_system_messages_belong_to_them() -> None:
    template = ChatTemplate(Vocabulary(SYSTEM_FIRST))
    messages = [Message("system", "One."), Message("system", "Two."), *HELLO]
    both = "[system] One.[system] Two.[user] "
    assert as_text(template.system_tokens(messages)) == both
    assert as_text(template.system_tokens([*messages, Message("system", "Three.")])) == both


def test_a_template_that_refuses_system_messages_has_no_system_tokens() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"
    template = ChatTemplate(Vocabulary(refusing))
    assert template.system_tokens([Message("system", "Be brief."), *HELLO]) == []
    assert as_text(template.system_tokens(HELLO)) == "x"


def test_system_tokens_of_a_known_text_are_not_rendered_again() -> None:
    class Counting(Vocabulary):
        calls = 0

        def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            self.calls += 1
            return super().tokenize(text, add_special=add_special, parse_special=parse_special)

    vocabulary = Counting(SYSTEM_FIRST)
    template = ChatTemplate(vocabulary)
    first = template.system_tokens(HELLO)
    calls = vocabulary.calls
    first.clear()
    assert as_text(template.system_tokens([Message("user", "bye")])) == "[be kind][user] "
    assert vocabulary.calls == calls
    template.system_tokens([Message("system", "new"), *HELLO])
    assert vocabulary.calls > calls


def test_system_tokens_follow_the_date_that_a_template_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Calendar(datetime.datetime):
        current = 1

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Calendar:
            return cls(2026, 3, cls.current, tzinfo=tz)

        @classmethod
        def today(cls) -> Calendar:
            return cls.now()

    monkeypatch.setattr(chat, "datetime", SimpleNamespace(datetime=Calendar, date=Calendar))
    template = ChatTemplate(Vocabulary("{{ strftime_now('%d') }}: {{ messages[-1].content }}"))
    assert as_text(template.system_tokens(HELLO)) == "01: "
    Calendar.current = 2
    assert as_text(template.system_tokens(HELLO)) == "02: "


@pytest.fixture(scope="module")
def real_model(model_path: Path) -> Iterator[Model]:
    model = Model(model_path)
    yield model
    model.close()


@pytest.fixture(scope="module")
def real_template(real_model: Model) -> ChatTemplate:
    return ChatTemplate(real_model)


@given(system=st.none() | st.text(max_size=20), user=st.text(max_size=10))
def test_the_default_models_prompt_begins_with_its_system_tokens_whatever_the_user_says(
    real_template: ChatTemplate, system: str | None, user: str
) -> None:
    before = [] if system is None else [Message("system", system)]
    messages = [*before, Message("user", user)]
    tokens = real_template.system_tokens(messages)
    assert len(tokens) > 3
    assert real_template.tokens(messages)[: len(tokens)] == tokens
