"""Requests made from the API's own description: no 500, and no answer that it doesn't describe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import BaseSchema, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.scripted import ScriptedPipeline, make_app, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api() -> Iterator[BaseSchema]:
    with serving(make_app(ScriptedPipeline())) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


VALID, INVALID = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OPERATIONS = [
    (path, method, mode)
    for path, methods in make_app().openapi()["paths"].items()
    for method, told in sorted(methods.items())
    for mode in ((VALID, INVALID) if "requestBody" in told else (VALID,))
]


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
@settings(
    max_examples=8,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_every_answer_is_as_described(
    api: BaseSchema, path: str, method: str, mode: GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(api[path][method].as_strategy(generation_mode=mode))
    case.call_and_validate(checks=CHECKS)
