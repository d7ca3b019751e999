"""The examples in the docstrings run and are right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import uq

MODULES = [f"uq.{module.name}" for module in pkgutil.iter_modules(uq.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
