"""What docs/why.md says is shown by tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    line.split(" | ")
    for line in (ROOT / "docs" / "why.md").read_text().splitlines()
    if re.match(r"\| \d+ \|", line)
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`(tests/[^`]+)`", row[-1])})


def test_every_report_is_linked_and_every_answer_is_shown() -> None:
    assert [int(row[0].strip("| ")) for row in ROWS] == list(range(1, 16))
    for number, wrong, here, shown in ROWS:
        assert "](https://github.com/" in wrong, number
        assert here.strip(), number
        assert "`tests/" in shown, number


@pytest.mark.parametrize("name", NAMED)
def test_the_test_exists(name: str) -> None:
    path, *classes, function = name.split("::")
    body = ast.parse((ROOT / path).read_text()).body
    for each in classes:
        (body,) = [
            node.body for node in body if isinstance(node, ast.ClassDef) and node.name == each
        ]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert function in [node.name for node in body if isinstance(node, functions)]
