"""Schemas that no grammar is made of: nonsense, and what a grammar can't say."""

from __future__ import annotations

from typing import Any

import pytest

from router.json_schema import SchemaError, UnsupportedSchemaError, schema_grammar


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "strnig"}, "strnig"),
        ({"type": []}, "empty"),
        ({"properties": []}, "properties"),
        ({"properties": {"a": 1}}, "`a`"),
        ({"properties": {"a": {"properties": {"b": False}, "required": ["b"]}}}, "`b` of `a`"),
        ({"required": "a"}, "required"),
        ({"required": ["a"], "additionalProperties": False}, "requires `a`"),
        ({"anyOf": []}, "anyOf"),
        ({"enum": []}, "enum"),
        ({"enum": ["a"], "type": "integer"}, "of its type"),
        ({"$ref": "#"}, "itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "itself"),
        ({"$ref": "#/$defs/missing"}, "points to nothing"),
        ({"$ref": 1}, "no string"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "above"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "array", "minItems": 1, "items": False}, "no items"),
        ({"prefixItems": 1}, "prefixItems"),
        ({"prefixItems": [{}], "items": False, "minItems": 2}, "too few"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no number"),
        ({"type": "number", "minimum": "0"}, "minimum"),
    ],
)
def test_nonsense_is_an_error_that_says_where(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(SchemaError, match=named):
        schema_grammar(schema)


AMBIGUOUS = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"anyOf": [{"items": {"$ref": "#/$defs/a"}}, {"items": {"type": "null"}}]}},
}
"""After ten brackets there would be a thousand ways to go on."""


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (AMBIGUOUS, "unions"),
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "string", "format": "email"}, "email"),
        ({"type": "string", "format": "date", "minLength": 3}, "date"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "multipleOf": 2}, "multipleOf"),
        ({"type": "integer", "minimum": 18}, "bounds"),
        ({"type": "integer", "minimum": 0.5}, "whole"),
        ({"type": "number", "minimum": 1}, "bounds"),
        ({"type": "number", "maximum": 1}, "bounds"),
        ({"not": {}}, "not"),
        ({"allOf": [{}, {}]}, "allOf"),
        ({"oneOf": [{}, {}]}, "oneOf"),
        ({"anyOf": [{}], "type": "string"}, "beside"),
        ({"$ref": "https://example.org/schema"}, "outside"),
        ({"$ref": "#anchor"}, "anchor"),
        ({"prefixItems": [{}]}, "prefixItems"),
        (nested(100), "deeper"),
        ({"enum": list(range(1000))}, "256 values"),
        ({"items": {"maxLength": 5000}}, "5000|1000"),
        ({"properties": {f"p{i}": {} for i in range(1000)}}, "1000 rules"),
        ({"enum": ["x" * 1000 + str(i) for i in range(100)]}, "60000 characters"),
    ],
)
def test_what_a_grammar_cannot_say_is_named(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedSchemaError, match=named):
        schema_grammar(schema)


def test_one_of_with_a_discriminator_is_a_choice() -> None:
    kinds = [{"const": "a"}, {"const": "b"}]
    assert schema_grammar({"oneOf": kinds, "discriminator": {}}) == schema_grammar({"anyOf": kinds})


def test_a_single_all_of_is_what_it_holds() -> None:
    assert schema_grammar({"allOf": [{"type": "null"}]}) == schema_grammar({"type": "null"})
