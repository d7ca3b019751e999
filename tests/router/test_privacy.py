"""Rules for what must not leave the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import ConfigError
from router.privacy import KNOWN, read_rules


def rules(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "rules.txt"
    file.write_text(text, encoding="utf-8")
    return read_rules(file)


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "write to ada.lovelace+x@mail.example.org, please"),
        ("iban", "pay to DE89 3704 0044 0532 0130 00 today"),
        ("iban", "GB82WEST12345698765432"),
        ("card", "my card is 4111 1111 1111 1111."),
        ("card", "378282246310005"),
        ("ip", "the host 192.168.17.3 is down"),
        ("phone", "call +49 (30) 901820 now"),
        ("phone", "0044 20 7946 0958"),
        ("ssn", "it is 078-05-1120"),
    ],
)
def test_known_rules_find_what_they_are_for(name: str, text: str) -> None:
    assert KNOWN[name](text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "meet me @ noon"),
        ("iban", "DE89 3704 0044 0532 0130 01"),
        ("card", "4111 1111 1111 1112"),
        ("card", "1234567890"),
        ("ip", "version 1.2.3"),
        ("ip", "299.1.1.1"),
        ("phone", "in 2024, 17 * 23 = 391"),
        ("phone", "3.14159265358979"),
        ("ssn", "000-12-3456"),
        ("ssn", "call 555-1234"),
    ],
)
def test_known_rules_leave_the_rest(name: str, text: str) -> None:
    assert not KNOWN[name](text)


@given(st.text())
def test_no_text_breaks_a_rule(text: str) -> None:
    for finds in KNOWN.values():
        finds(text)


def test_a_file_has_known_rules_and_its_own(tmp_path: Path) -> None:
    found = rules(tmp_path, "# ours\n\nemail\n  project = (?i)\\bbluebird\\b\nequal = a=b\n")
    assert len(found) == 3
    assert found.match(said("Is Bluebird late?")) == "project"
    assert found.match(said("when a=b")) == "equal"
    assert found.match(said("a@b.org on bluebird")) == "email", "the first in the file's order"
    assert found.match(said("Is it late?")) is None


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": "SECRET"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a SECRET"}]}]},
        {"messages": [], "tools": [{"function": {"description": "SECRET"}}]},
        {"messages": [], "metadata": {"x": "SECRET"}},
        {"messages": [], "user": "SECRET"},
        {"messages": [], "stop": ["SECRET"]},
    ],
)
def test_all_texts_of_a_request_are_searched(tmp_path: Path, body: dict[str, Any]) -> None:
    assert rules(tmp_path, "s = SECRET").match(body) == "s"


def test_images_are_not_searched(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,SECRET"}}
    body = {"messages": [{"role": "user", "content": [image]}]}
    assert rules(tmp_path, "s = SECRET").match(body) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nmail\n", r"line 2: there is no rule 'mail'; there are card, email,"),
        ("x = (", r"line 1: '\(' is no regular expression"),
        ("= x", r"line 1: a rule is NAME = REGULAR EXPRESSION"),
        ("x =", r"line 1: a rule is NAME = REGULAR EXPRESSION"),
    ],
)
def test_a_wrong_rule_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rules(tmp_path, text)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the rules for local_only in .*none"):
        read_rules(tmp_path / "none")
