"""Imports run one way, nothing in a circle, and serving loads only what serving needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("uq", "calibration", "router", "service")
CLI_MAY_IMPORT_SERVICE = "router.cli.serve"
CLIENT = "router_client"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))}


def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """Our own modules that a file imports; `at_start`: only those its loading imports."""
    tree = ast.parse(path.read_text())
    nodes = _run_at_import(tree) if at_start else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = inner & MODULES.keys()
            found |= submodules
            if len(submodules) < len(inner):
                found.add(node.module)
    return {name for name in found if name.split(".")[0] in (*LAYERS, CLIENT)}


def _run_at_import(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_from_a_layer_above_its_own(name: str) -> None:
    layer = LAYERS.index(name.split(".", maxsplit=1)[0])
    above = {*LAYERS[layer + 1 :], CLIENT}
    upwards = {i for i in imports(MODULES[name]) if i.split(".")[0] in above}
    assert name == CLI_MAY_IMPORT_SERVICE or not upwards


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: imports(path, at_start=True) - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_client_imports_none_of_the_service() -> None:
    for path in (ROOT / "clients/python/src").rglob("*.py"):
        assert {i for i in imports(path) if i.split(".")[0] in LAYERS} == set()


def test_the_gateways_process_loads_neither_the_engine_nor_what_trains() -> None:
    heavy = ("torch", "sklearn", "matplotlib", "llama_cpp", "scipy.stats")
    code = (
        f"import sys, service.app, router.pipeline; print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_uq_needs_numpy_alone() -> None:
    code = (
        "import sys, uq; print([m for m in ('sklearn', 'scipy', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
