"""What a JSON schema's keywords say, one at a time, and where in the schema they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from router.json_grammar import dumps


class SchemaError(ValueError):
    """A schema that contradicts itself, or is none."""


class UnsupportedSchemaError(ValueError):
    """A valid schema that asks for what a grammar can't enforce."""


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
KNOWN = (
    _SAYS_NOTHING
    | frozenset().union(*_OF_TYPE.values())
    | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
)


@dataclass(frozen=True, slots=True)
class Place:
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

    def part(self, name: str) -> Place:
        """A part of this, with text before it."""
        return replace(self, name=name[:200], depth=self.depth + 1, refs=frozenset())

    def at(self, ref: str) -> Place:
        """What the reference `ref` leads to from here."""
        return replace(self, name=f"`{ref[:100]}`", depth=self.depth + 1, refs=self.refs | {ref})

    def option(self, ways: int = 1) -> Place:
        """One of several options, so many of which may begin with the same text."""
        return replace(self, depth=self.depth + 1, ways=self.ways * max(1, ways))


def types_of(schema: Mapping[str, Any], where: Place) -> list[str]:
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


def must_stand_alone(
    schema: Mapping[str, Any],
    name: str,
    where: Place,
    beside: frozenset[str] | set[str] = frozenset(),
) -> None:
    other = sorted(schema.keys() - _SAYS_NOTHING - {name} - beside)
    if other:
        raise UnsupportedSchemaError(f"`{other[0]}` beside `{name}` in {where} can't be enforced")


def schemas_of(schema: Mapping[str, Any], name: str, where: Place) -> list[Any]:
    options = schema[name]
    if not isinstance(options, list) or not options:
        raise SchemaError(f"`{name}` in {where} must be a list of schemas")
    return options


def may_nest(schema: Any) -> bool:
    """Whether a value may hold others; what holds none is soon told from the other options."""
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return schema is True
    return schema.get("type") not in ("string", "integer", "number", "boolean", "null")


def resolve(whole: Any, ref: str, where: Place) -> Any:
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


def length_bounds(
    schema: Mapping[str, Any], least: str, greatest: str, where: Place
) -> tuple[int, int | None]:
    """A length's bounds."""
    found = {name: schema[name] for name in (least, greatest) if name in schema}
    for name, value in found.items():
        if not is_a(value, "integer") or value < 0:
            raise SchemaError(f"`{name}` in {where} must be a whole number from 0 on")
    low, high = int(found.get(least, 0)), found.get(greatest)
    if high is not None and low > high:
        raise SchemaError(f"nothing can satisfy {where}: `{least}` is above `{greatest}`")
    return low, None if high is None else int(high)


def whole_limit(
    schema: Mapping[str, Any], inclusive: str, exclusive: str, where: Place, step: int
) -> int | None:
    """The last whole number that these two keywords allow on one side."""
    limits = []
    for name, off in ((inclusive, 0), (exclusive, step)):
        if name in schema:
            value = number_at(schema, name, where)
            if value != int(value):
                raise UnsupportedSchemaError(f"`{name}` in {where} is no whole number")
            limits.append(int(value) + off)
    return (max(limits) if step > 0 else min(limits)) if limits else None


def number_at(schema: Mapping[str, Any], name: str, where: Place) -> float:
    value = schema[name]
    if not is_a(value, "number"):
        raise SchemaError(f"`{name}` in {where} must be a number")
    return float(value) if isinstance(value, float) else int(value)


def is_a(value: Any, kind: str) -> bool:
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


def is_same(one: Any, other: Any) -> bool:
    return dumps(one) == dumps(other)
