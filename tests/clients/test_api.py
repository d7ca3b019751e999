"""What is public: names, signatures, secrets, dependencies, the README."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import router_client
from router_client import AsyncRouterClient, AsyncStream, BadRequest, RouterClient, Stream

from . import wire
from .conftest import LiveGateway

ROOT = Path(__file__).parents[2] / "clients" / "python"
KEY = "sk-very-secret"


def public(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(kind).items()
        if (callable(value) or isinstance(value, property)) and not name.startswith("_")
    }


def described(function: Any) -> tuple[object, str]:
    """Return the parameters and the result, with the words of asyncio taken out."""
    signature = inspect.signature(function)
    parameters = [
        (p.name, p.kind, p.default, str(p.annotation).replace("Async", ""))
        for p in signature.parameters.values()
    ]
    return parameters, str(signature.return_annotation).replace("Async", "")


@pytest.mark.parametrize(
    ("sync", "other"), [(RouterClient, AsyncRouterClient), (Stream, AsyncStream)]
)
def test_sync_and_async_match(sync: type, other: type) -> None:
    assert list(public(sync)) == list(public(other))
    for name in ["__init__", "__repr__", *public(sync)]:
        if name == "__init__" and sync is Stream:
            continue  # takes what opens the response, which is awaited or not
        assert described(getattr(sync, name)) == described(getattr(other, name)), name


def test_every_async_method_that_waits_is_awaited() -> None:
    awaited = {n for n, f in public(AsyncRouterClient).items() if inspect.iscoroutinefunction(f)}
    assert set(public(AsyncRouterClient)) - awaited == {"stream"}


def test_all_is_sorted_complete_and_says_where() -> None:
    imported = {
        name
        for name, value in vars(router_client).items()
        if not inspect.ismodule(value) and not name.startswith("_")
    }
    assert set(router_client.__all__) == imported | {"__version__"}
    assert len(set(router_client.__all__)) == len(router_client.__all__)


def test_public_things_have_docstrings() -> None:
    for name in router_client.__all__:
        value = getattr(router_client, name)
        if inspect.isclass(value):
            assert value.__doc__, name
    for kind in (RouterClient, AsyncRouterClient, Stream, AsyncStream):
        for name, value in public(kind).items():
            assert value.__doc__, f"{kind.__name__}.{name}"


def refuse(_: httpx.Request) -> httpx.Response:
    return httpx.Response(400, json=wire.error("no"), headers={"x-request-id": "r"})


@pytest.mark.parametrize("kind", [RouterClient, AsyncRouterClient])
def test_the_key_is_never_shown(kind: type) -> None:
    client = kind(api_key=KEY)
    shown = [repr(client), str(client), repr(vars(client)), repr(client.stream("Hi"))]
    assert KEY not in "".join(shown)
    assert repr(client) == (
        f"{kind.__name__}(base_url='http://127.0.0.1:8000', api_key='**********', max_retries=2)"
    )
    assert "api_key" not in repr(kind())


def test_the_key_is_not_in_errors_either() -> None:
    transport = httpx.MockTransport(refuse)
    with (
        RouterClient(api_key=KEY, transport=transport) as client,
        pytest.raises(BadRequest) as caught,
    ):
        client.ask("Hi")
    assert KEY not in repr(caught.value) + repr(vars(caught.value))


def test_nothing_but_httpx_and_pydantic_is_imported() -> None:
    allowed = {"httpx", "pydantic", "router_client"} | sys.stdlib_module_names
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_the_package_is_typed() -> None:
    assert (ROOT / "src" / "router_client" / "py.typed").exists()


EXAMPLES = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_readme_s_examples_run(example: str, live: LiveGateway) -> None:
    example = example.replace("http://127.0.0.1:8000", live.url)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) == 7
