"""The grammar of JSON texts (llama.cpp's GBNF): the rules that all of our grammars share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HEX = "[0-9a-fA-F]"
_BASE = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    # No half of a surrogate pair: JSON parsers differ about them.
    "escape": rf'"\\" (["\\/bfnrt] | "u" ([0-9a-cefA-CEF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}}))',
    "char": r'[^"\\\x7F\x00-\x1F] | escape',
    "string": r'"\"" char* "\""',
    "natural": '"0" | [1-9] [0-9]{0,14}',
    "positive": "[1-9] [0-9]{0,14}",
    "integer": '"-"? natural',
    "fraction": '("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "number": "integer fraction",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ":" ws value',
    "object": '"{" ws (member ("," ws member)*)? ws "}"',
    "array": '"[" ws (value ("," ws value)*)? ws "]"',
}

_DAY_28 = '("0" [1-9] | "1" [0-9] | "2" [0-8])'
_DATE = (
    '[1-9] [0-9]{3} "-" ('
    f'"02-" {_DAY_28} | '
    '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | '
    '("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]))'
)
_MINUTES = '("0"  [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_MINUTES} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_MINUTES})'
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
}


def grammar_text(root: str, rules: Mapping[str, str]) -> str:
    """Return the grammar that begins with the expression `root`, with these and JSON's own rules.

    JSON's are ``value``, ``object``, ``array``, ``string``, ``number``, ``integer``, ``natural``,
    ``positive``, ``boolean``, ``null``, and the parts these are made of.
    """
    named = {"root": root, **rules, **_BASE}
    return "".join(f"{name} ::= {rule}\n" for name, rule in named.items())


def json_grammar() -> str:
    """Return the grammar of any JSON object."""
    return grammar_text("object", {})


def dumps(value: Any) -> str:
    """Return the one way in which a grammar writes a fixed value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def literal(text: str) -> str:
    """Return the expression of exactly this text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
