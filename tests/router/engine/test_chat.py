"""The chat template comes from a downloaded file: it renders, it refuses, it can't break out."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from router.engine.chat import ChatTemplate
from router.engine.llama import Model
from router.engine.messages import Message
from router.errors import ModelError, TemplateRefused


class Vocabulary:
    """A vocabulary of one token a character, with any template."""

    bos, eos = 1, 2

    def __init__(self, template: str | None, *, add_bos: bool = True) -> None:
        self._template = template
        self.add_bos = add_bos

    @property
    def chat_template(self) -> str | None:
        return self._template

    def special_piece(self, token: int) -> str:
        return {1: "<s>", 2: "</s>"}[token]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert parse_special
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
    assert writes.tokens(HELLO) == [ord(c) for c in "<s>x"]
    assert silent.tokens(HELLO) == [1, ord("x")]
    assert wants_none.tokens(HELLO) == [ord("x")]


def test_a_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate(Vocabulary("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        template.render(HELLO)


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
