"""JSON schema -> a grammar that only texts which satisfy the schema pass (llama.cpp's GBNF).

What a grammar can't say (a pattern, a remote reference, a multiple of 7) is refused by name, never
left out: whoever asked for it is better served by a model that can. The grammar may be narrower
than the schema: properties come in the schema's order, those that it doesn't name don't come at
all, and white space is short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_DEPTH = 32
MAX_RULES = 1000
MAX_CHARACTERS = 60_000
MAX_REPEATED = 1000
MAX_OPTIONS = 256
MAX_WAYS = 32
"""Bounds that keep a grammar's cost for each token small, for whoever else is answered."""


class SchemaError(ValueError):
    """A schema that contradicts itself, or is none."""


class UnsupportedSchemaError(ValueError):
    """A valid schema that asks for what a grammar can't enforce."""


def json_grammar() -> str:
    """The grammar of any JSON object."""
    return _text({"root": "object"})


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of the JSON texts that satisfy `schema`.

    Raises SchemaError when nothing could satisfy it, UnsupportedSchemaError when it asks for what
    can't be enforced.
    """
    writer = _Writer(schema)
    root = writer.rule(schema, _Place("the schema", refs=frozenset({"#"})))
    text = _text({"root": root, **writer.rules})
    if len(text) > MAX_CHARACTERS:
        raise UnsupportedSchemaError(f"it is larger than {MAX_CHARACTERS} characters of grammar")
    return text


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
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
}

_SAYS_NOTHING = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly"}
    | {"writeOnly", "$schema", "$id", "$comment", "$defs", "definitions", "discriminator"}
)
_OF_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "exclusiveMinimum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_KNOWN = (
    _SAYS_NOTHING
    | frozenset().union(*_OF_TYPE.values())
    | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
)


def _text(rules: Mapping[str, str]) -> str:
    return "".join(f"{name} ::= {rule}\n" for name, rule in {**rules, **_BASE}.items())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the schema we are; its name says so in messages.

    `ways` is in how many ways the text before may have been read; `refs` have led here without a
    character of text in between.
    """

    name: str
    depth: int = 0
    ways: int = 1
    refs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name

    def part(self, name: str) -> _Place:
        """A part of this, with text before it."""
        return replace(self, name=name[:200], depth=self.depth + 1, refs=frozenset())

    def option(self, ways: int = 1) -> _Place:
        """One of several options, so many of which may begin with the same text."""
        return replace(self, depth=self.depth + 1, ways=self.ways * max(1, ways))


class _Writer:
    """Collects the rules of one schema."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self.rules: dict[str, str] = {}
        self._n_repeated = 0
        self._whole = whole
        self._names: dict[tuple[str, int], str] = {}

    def rule(self, schema: Any, where: _Place) -> str:
        """The expression of `schema`."""
        if where.depth > MAX_DEPTH:
            raise UnsupportedSchemaError(f"it is nested deeper than {MAX_DEPTH} levels")
        if where.ways > MAX_WAYS:
            raise UnsupportedSchemaError(
                f"{where} is reached by more than {MAX_WAYS} unions of objects"
            )
        if schema is True:
            return "value"
        if schema is False:
            raise SchemaError(f"nothing can satisfy {where}: it is `false`")
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{where} is no schema: it must be an object or a boolean")
        unknown = sorted(name for name in schema if name not in _KNOWN)
        if unknown:
            raise UnsupportedSchemaError(f"`{unknown[0][:50]}` in {where} can't be enforced")
        for name, combine in (
            ("$ref", self._ref),
            ("anyOf", self._any_of),
            ("oneOf", self._one_of),
            ("allOf", self._all_of),
        ):
            if name in schema:
                _alone(schema, name, where)
                return combine(schema, where)
        if "enum" in schema or "const" in schema:
            return self._enumerated(schema, where)
        types = _types(schema, where)
        return self._choice([self._typed(schema, kind, where) for kind in types])

    def _add(self, body: str) -> str:
        """A rule of its own for an expression."""
        if len(self.rules) >= MAX_RULES:
            raise UnsupportedSchemaError(f"it needs more than {MAX_RULES} rules")
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _choice(self, options: Sequence[str]) -> str:
        options = list(dict.fromkeys(options))
        if len(options) > MAX_OPTIONS:
            raise UnsupportedSchemaError(f"it has more than {MAX_OPTIONS} values at one place")
        return options[0] if len(options) == 1 else self._add(" | ".join(options))

    def _repeated(self, item: str, fewest: int, most: int | None) -> str:
        self._n_repeated += fewest if most is None else most
        if self._n_repeated > MAX_REPEATED:
            raise UnsupportedSchemaError(f"its lengths come to more than {MAX_REPEATED}")
        return f"{item}{{{fewest},{'' if most is None else most}}}"

    def _ref(self, schema: Mapping[str, Any], where: _Place) -> str:
        ref = schema["$ref"]
        if not isinstance(ref, str):
            raise SchemaError(f"`$ref` in {where} is no string")
        if not ref.startswith("#"):
            raise UnsupportedSchemaError(f"`$ref` in {where} leads outside the schema")
        if ref in where.refs:
            raise SchemaError(f"`$ref` in {where} leads to itself")
        known = (ref, where.ways)  # a union that contains itself gets here in ever more ways
        if known not in self._names:
            name = self._names[known] = self._add("")
            target = _resolve(self._whole, ref, where)
            there = replace(
                where, name=f"`{ref[:100]}`", depth=where.depth + 1, refs=where.refs | {ref}
            )
            self.rules[name] = self.rule(target, there)
        return self._names[known]

    def _any_of(self, schema: Mapping[str, Any], where: _Place) -> str:
        return self._union(_schemas(schema, "anyOf", where), where)

    def _union(self, options: Sequence[Any], where: _Place) -> str:
        option = where.option(sum(_may_nest(option) for option in options))
        return self._choice([self.rule(each, option) for each in options])

    def _one_of(self, schema: Mapping[str, Any], where: _Place) -> str:
        if "discriminator" not in schema:
            raise UnsupportedSchemaError(
                f"`oneOf` in {where} can't be enforced without a `discriminator`; use `anyOf`"
            )
        return self._union(_schemas(schema, "oneOf", where), where)

    def _all_of(self, schema: Mapping[str, Any], where: _Place) -> str:
        options = _schemas(schema, "allOf", where)
        if len(options) > 1:
            raise UnsupportedSchemaError(f"`allOf` of several schemas in {where} can't be enforced")
        return self.rule(options[0], where.option())

    def _enumerated(self, schema: Mapping[str, Any], where: _Place) -> str:
        _alone(schema, "enum", where, beside={"const", "type"})
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not values:
            raise SchemaError(f"`enum` in {where} must be a list with values")
        if "const" in schema:
            values = [value for value in values if _same(value, schema["const"])]
        if "type" in schema:
            kinds = _types(schema, where)
            values = [value for value in values if any(_is_a(value, kind) for kind in kinds)]
        if not values:
            raise SchemaError(f"nothing can satisfy {where}: no value is of its type")
        return self._choice([_literal(_dumps(value)) for value in values])

    def _typed(self, schema: Mapping[str, Any], kind: str, where: _Place) -> str:
        make: Callable[[Mapping[str, Any], _Place], str]
        match kind:
            case "object":
                make = self._object
            case "array":
                make = self._array
            case "string":
                make = self._string
            case "integer":
                make = self._integer
            case "number":
                make = self._number
            case _:
                return kind
        return make(schema, where)

    def _object(self, schema: Mapping[str, Any], where: _Place) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            raise SchemaError(f"`properties` in {where} must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaError(f"`required` in {where} must be a list of names")
        unnamed = [name for name in dict.fromkeys(required) if name not in properties]
        if unnamed and more is False:
            raise SchemaError(
                f"{where} requires `{unnamed[0][:50]}`, which it neither has nor allows"
            )
        if not properties and not unnamed:
            return self._map(more, where)
        members = {**properties, **dict.fromkeys(unnamed, more)}
        return self._members(members, frozenset(required), where)

    def _map(self, values: Any, where: _Place) -> str:
        """An object of any names."""
        if values is True:
            return "object"
        if values is False:
            return '"{" ws "}"'
        value = self.rule(values, where.part(f"the values of {where}"))
        member = self._add(f'string ":" ws {value}')
        return self._add(f'"{{" ws ({member} ("," ws {member})*)? ws "}}"')

    def _members(self, members: Mapping[str, Any], required: frozenset[str], where: _Place) -> str:
        """An object of these members in their order; those not required may be left out."""
        parts: list[tuple[str, bool]] = []
        for name, schema in members.items():
            place = f"`{name[:50]}`" if str(where) == "the schema" else f"`{name[:50]}` of {where}"
            if schema is False and name not in required:
                continue
            value = self.rule(schema, where.part(place))
            parts.append(
                (self._add(f"{_literal(_dumps(name) + ':')} ws {value}"), name in required)
            )
        # From the last to the first: what follows a member, and what may come instead of it.
        rest, first = "", ""
        for member, is_required in reversed(parts):
            begun = f"{member} {rest}".rstrip()
            first = self._add(
                begun if is_required else f"{begun} | {first}" if first else f"({begun})?"
            )
            follows = f'"," ws {member}'
            rest = self._add(f"{follows if is_required else f'({follows})?'} {rest}")
        return self._add(f'"{{" ws {first} ws "}}"')

    def _array(self, schema: Mapping[str, Any], where: _Place) -> str:
        fewest, most = _bounds(schema, "minItems", "maxItems", where)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise SchemaError(f"`prefixItems` in {where} must be a list")
        inner = where.part(f"the items of {where}")
        heads = [self.rule(item, inner) for item in first]
        items = schema.get("items", True)
        if heads:
            if items is not False and most != len(heads):
                raise UnsupportedSchemaError(f"`prefixItems` in {where} need `items`: false")
            if fewest > len(heads):
                raise SchemaError(f"nothing can satisfy {where}: it has too few `prefixItems`")
            inside = ' "," ws '.join(heads)
            return self._add(f'"[" ws {inside} ws "]"')
        if most == 0 or items is False:
            if fewest:
                raise SchemaError(f"nothing can satisfy {where}: no items are allowed")
            return '"[" ws "]"'
        item = self.rule(items, inner)
        upper = None if most is None else most - 1
        more = self._repeated(f'("," ws {item})', max(fewest - 1, 0), upper)
        inside = f"{item} {more}" if fewest else f"({item} {more})?"
        return self._add(f'"[" ws {inside} ws "]"')

    def _string(self, schema: Mapping[str, Any], where: _Place) -> str:
        fewest, most = _bounds(schema, "minLength", "maxLength", where)
        if "format" in schema:
            known = _FORMATS.get(str(schema["format"]))
            if known is None or "minLength" in schema or "maxLength" in schema:
                name = str(schema["format"])[:50]
                raise UnsupportedSchemaError(f"the format `{name}` in {where} can't be enforced")
            return self._add(rf'"\"" {known} "\""')
        if fewest == 0 and most is None:
            return "string"
        return self._add(rf'"\"" {self._repeated("char", fewest, most)} "\""')

    def _integer(self, schema: Mapping[str, Any], where: _Place) -> str:
        low = _limit(schema, "minimum", "exclusiveMinimum", where, +1)
        high = _limit(schema, "maximum", "exclusiveMaximum", where, -1)
        if low is not None and high is not None:
            if low > high:
                raise SchemaError(f"nothing can satisfy {where}: its bounds leave no number")
            if high - low < MAX_OPTIONS:
                return self._choice([_literal(str(n)) for n in range(low, high + 1)])
        by_low = {None: "integer", 0: "natural", 1: "positive"}
        if high is not None or low not in by_low:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        return by_low[low]

    def _number(self, schema: Mapping[str, Any], where: _Place) -> str:
        if schema.keys() & {"exclusiveMinimum", "maximum", "exclusiveMaximum"}:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        if "minimum" not in schema:
            return "number"
        if _number_at(schema, "minimum", where) != 0:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        return self._add("natural fraction")


def _types(schema: Mapping[str, Any], where: _Place) -> list[str]:
    """The types that `schema` allows: those it states, else the one that its keywords speak of."""
    stated = schema.get("type")
    if stated is None:
        about = [kind for kind, words in _OF_TYPE.items() if words & schema.keys()]
        return about[:1] or ["value"]
    types = stated if isinstance(stated, list) else [stated]
    if not types:
        raise SchemaError(f"`type` in {where} is empty")
    for kind in types:
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            raise SchemaError(f"there is no type {str(kind)[:50]!r}, as {where} has it")
    return list(dict.fromkeys(types))


def _alone(
    schema: Mapping[str, Any],
    name: str,
    where: _Place,
    beside: frozenset[str] | set[str] = frozenset(),
) -> None:
    other = sorted(schema.keys() - _SAYS_NOTHING - {name} - beside)
    if other:
        raise UnsupportedSchemaError(f"`{other[0]}` beside `{name}` in {where} can't be enforced")


def _schemas(schema: Mapping[str, Any], name: str, where: _Place) -> list[Any]:
    options = schema[name]
    if not isinstance(options, list) or not options:
        raise SchemaError(f"`{name}` in {where} must be a list of schemas")
    return options


def _may_nest(schema: Any) -> bool:
    """Whether a value may hold others; what holds none is soon told from the other options."""
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return schema is True
    return schema.get("type") not in ("string", "integer", "number", "boolean", "null")


def _resolve(whole: Any, ref: str, where: _Place) -> Any:
    """What a reference inside the schema points to."""
    found = whole
    for part in ref[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise SchemaError(f"`$ref` in {where} points to nothing: {ref[:100]}")
    if not ref[1:].startswith("/") and ref != "#":
        raise UnsupportedSchemaError(f"`$ref` in {where} names an anchor")
    return found


def _bounds(
    schema: Mapping[str, Any], least: str, greatest: str, where: _Place
) -> tuple[int, int | None]:
    """A length's bounds."""
    found = {name: schema[name] for name in (least, greatest) if name in schema}
    for name, value in found.items():
        if not _is_a(value, "integer") or value < 0:
            raise SchemaError(f"`{name}` in {where} must be a whole number from 0 on")
    low, high = int(found.get(least, 0)), found.get(greatest)
    if high is not None and low > high:
        raise SchemaError(f"nothing can satisfy {where}: `{least}` is above `{greatest}`")
    return low, None if high is None else int(high)


def _limit(
    schema: Mapping[str, Any], inclusive: str, exclusive: str, where: _Place, step: int
) -> int | None:
    """The last whole number that these two keywords allow on one side."""
    limits = []
    for name, off in ((inclusive, 0), (exclusive, step)):
        if name in schema:
            value = _number_at(schema, name, where)
            if value != int(value):
                raise UnsupportedSchemaError(f"`{name}` in {where} is no whole number")
            limits.append(int(value) + off)
    return (max(limits) if step > 0 else min(limits)) if limits else None


def _number_at(schema: Mapping[str, Any], name: str, where: _Place) -> float:
    value = schema[name]
    if not _is_a(value, "number"):
        raise SchemaError(f"`{name}` in {where} must be a number")
    return float(value) if isinstance(value, float) else int(value)


def _is_a(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a schema's type."""
    if isinstance(value, bool):
        return kind == "boolean"
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": Mapping,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
        "boolean": bool,
    }
    whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, kinds[kind])


def _same(one: Any, other: Any) -> bool:
    return _dumps(one) == _dumps(other)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
