"""JSON schema -> a grammar that only texts which satisfy the schema pass (llama.cpp's GBNF).

What a grammar can't say (a pattern, a remote reference, a multiple of 7) is refused by name, never
left out: whoever asked for it is better served by a model that can. The grammar may be narrower
than the schema: properties come in the schema's order, those that it doesn't name don't come at
all, and white space is short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.json_grammar import FORMATS, dumps, grammar_text, literal
from router.schema_words import (
    KNOWN,
    Place,
    SchemaError,
    UnsupportedSchemaError,
    is_a,
    is_same,
    length_bounds,
    may_nest,
    must_stand_alone,
    number_at,
    resolve,
    schemas_of,
    types_of,
    whole_limit,
)

__all__ = [
    "SchemaError",
    "UnsupportedSchemaError",
    "add_schema",
    "bounded",
    "schema_grammar",
]

MAX_DEPTH = 32
MAX_RULES = 1000
MAX_CHARACTERS = 60_000
MAX_REPEATED = 1000
MAX_OPTIONS = 256
MAX_WAYS = 32
"""Bounds that keep a grammar's cost for each token small, for whoever else is answered."""


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of the JSON texts that satisfy `schema`.

    Raises SchemaError when nothing could satisfy it, UnsupportedSchemaError when it asks for what
    can't be enforced.
    """
    rules: dict[str, str] = {}
    return bounded(grammar_text(add_schema(schema, rules), rules))


def add_schema(schema: Mapping[str, Any], rules: dict[str, str]) -> str:
    """Return the expression of the JSON texts that satisfy `schema`, its rules put into `rules`.

    Raises as `schema_grammar`.
    """
    return _Writer(schema, rules).rule(schema, Place("the schema", refs=frozenset({"#"})))


def bounded(grammar: str) -> str:
    """Return `grammar`. Raises UnsupportedSchemaError when it is too large to be followed."""
    if len(grammar) > MAX_CHARACTERS:
        raise UnsupportedSchemaError(f"it is larger than {MAX_CHARACTERS} characters of grammar")
    return grammar


class _Writer:
    """Collects the rules of one schema."""

    def __init__(self, whole: Mapping[str, Any], rules: dict[str, str]) -> None:
        self.rules = rules
        self._n_repeated = 0
        self._whole = whole
        self._names: dict[tuple[str, int], str] = {}

    def rule(self, schema: Any, where: Place) -> str:
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
        unknown = sorted(name for name in schema if name not in KNOWN)
        if unknown:
            raise UnsupportedSchemaError(f"`{unknown[0][:50]}` in {where} can't be enforced")
        for name, combine in (
            ("$ref", self._ref),
            ("anyOf", self._any_of),
            ("oneOf", self._one_of),
            ("allOf", self._all_of),
        ):
            if name in schema:
                must_stand_alone(schema, name, where)
                return combine(schema, where)
        if "enum" in schema or "const" in schema:
            return self._enumerated(schema, where)
        types = types_of(schema, where)
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

    def _ref(self, schema: Mapping[str, Any], where: Place) -> str:
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
            target = resolve(self._whole, ref, where)
            self.rules[name] = self.rule(target, where.at(ref))
        return self._names[known]

    def _any_of(self, schema: Mapping[str, Any], where: Place) -> str:
        return self._union(schemas_of(schema, "anyOf", where), where)

    def _union(self, options: Sequence[Any], where: Place) -> str:
        option = where.option(sum(may_nest(option) for option in options))
        return self._choice([self.rule(each, option) for each in options])

    def _one_of(self, schema: Mapping[str, Any], where: Place) -> str:
        if "discriminator" not in schema:
            raise UnsupportedSchemaError(
                f"`oneOf` in {where} can't be enforced without a `discriminator`; use `anyOf`"
            )
        return self._union(schemas_of(schema, "oneOf", where), where)

    def _all_of(self, schema: Mapping[str, Any], where: Place) -> str:
        options = schemas_of(schema, "allOf", where)
        if len(options) > 1:
            raise UnsupportedSchemaError(f"`allOf` of several schemas in {where} can't be enforced")
        return self.rule(options[0], where.option())

    def _enumerated(self, schema: Mapping[str, Any], where: Place) -> str:
        must_stand_alone(schema, "enum", where, beside={"const", "type"})
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not values:
            raise SchemaError(f"`enum` in {where} must be a list with values")
        if "const" in schema:
            values = [value for value in values if is_same(value, schema["const"])]
        if "type" in schema:
            kinds = types_of(schema, where)
            values = [value for value in values if any(is_a(value, kind) for kind in kinds)]
        if not values:
            raise SchemaError(f"nothing can satisfy {where}: no value is of its type")
        return self._choice([literal(dumps(value)) for value in values])

    def _typed(self, schema: Mapping[str, Any], kind: str, where: Place) -> str:
        make: Callable[[Mapping[str, Any], Place], str]
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

    def _object(self, schema: Mapping[str, Any], where: Place) -> str:
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

    def _map(self, values: Any, where: Place) -> str:
        """An object of any names."""
        if values is True:
            return "object"
        if values is False:
            return '"{" ws "}"'
        value = self.rule(values, where.part(f"the values of {where}"))
        member = self._add(f'string ":" ws {value}')
        return self._add(f'"{{" ws ({member} ("," ws {member})*)? ws "}}"')

    def _members(self, members: Mapping[str, Any], required: frozenset[str], where: Place) -> str:
        """An object of these members in their order; those not required may be left out."""
        parts: list[tuple[str, bool]] = []
        for name, schema in members.items():
            place = f"`{name[:50]}`" if str(where) == "the schema" else f"`{name[:50]}` of {where}"
            if schema is False and name not in required:
                continue
            value = self.rule(schema, where.part(place))
            parts.append((self._add(f"{literal(dumps(name) + ':')} ws {value}"), name in required))
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

    def _array(self, schema: Mapping[str, Any], where: Place) -> str:
        fewest, most = length_bounds(schema, "minItems", "maxItems", where)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise SchemaError(f"`prefixItems` in {where} must be a list")
        inner = where.part(f"the items of {where}")
        heads = [self.rule(item, inner) for item in first]
        items = schema.get("items", True)
        if heads:
            if items is not False and (most is None or most > len(heads)):
                raise UnsupportedSchemaError(f"`prefixItems` in {where} need `items`: false")
            if fewest > len(heads):
                raise SchemaError(f"nothing can satisfy {where}: it has too few `prefixItems`")
            inside = ' "," ws '.join(heads[:most])
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

    def _string(self, schema: Mapping[str, Any], where: Place) -> str:
        fewest, most = length_bounds(schema, "minLength", "maxLength", where)
        if "format" in schema:
            known = FORMATS.get(str(schema["format"]))
            if known is None or "minLength" in schema or "maxLength" in schema:
                name = str(schema["format"])[:50]
                raise UnsupportedSchemaError(f"the format `{name}` in {where} can't be enforced")
            return self._add(rf'"\"" {known} "\""')
        if fewest == 0 and most is None:
            return "string"
        return self._add(rf'"\"" {self._repeated("char", fewest, most)} "\""')

    def _integer(self, schema: Mapping[str, Any], where: Place) -> str:
        low = whole_limit(schema, "minimum", "exclusiveMinimum", where, +1)
        high = whole_limit(schema, "maximum", "exclusiveMaximum", where, -1)
        if low is not None and high is not None:
            if low > high:
                raise SchemaError(f"nothing can satisfy {where}: its bounds leave no number")
            if high - low < MAX_OPTIONS:
                return self._choice([literal(str(n)) for n in range(low, high + 1)])
        by_low = {None: "integer", 0: "natural", 1: "positive"}
        if high is not None or low not in by_low:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        return by_low[low]

    def _number(self, schema: Mapping[str, Any], where: Place) -> str:
        if schema.keys() & {"exclusiveMinimum", "maximum", "exclusiveMaximum"}:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        if "minimum" not in schema:
            return "number"
        if number_at(schema, "minimum", where) != 0:
            raise UnsupportedSchemaError(f"the bounds of {where} can't be enforced")
        return self._add("natural fraction")
