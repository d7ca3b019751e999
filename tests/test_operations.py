"""The files for operators name only what the gateway exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.metrics import Metrics

FOLDER = Path(__file__).parent.parent / "docs" / "operations"
FILES = [FOLDER / "grafana.json", FOLDER / "alerts.yml"]


def exported() -> set[str]:
    """Names of all series, without those of histograms' parts."""
    names = set()
    for family in Metrics().registry.collect():
        names |= {family.name, f"{family.name}_total", f"{family.name}_bucket"}
        names |= {f"{family.name}_sum", f"{family.name}_count"}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_metrics_exist(file: Path) -> None:
    named = set(re.findall(r"\brouter_[a-z_]+", file.read_text(encoding="utf-8")))
    assert named
    assert named <= exported()


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]


def test_each_panel_asks_something_and_none_lies_on_another() -> None:
    places = set()
    for panel in panels():
        place = panel["gridPos"]
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert "$job" in target["expr"]
    assert len(places) == len(list(panels()))


def test_each_alert_says_what_it_means() -> None:
    rules = (FOLDER / "alerts.yml").read_text(encoding="utf-8").split("- alert:")[1:]
    assert len(rules) == 8
    for rule in rules:
        assert "expr:" in rule
        assert "severity:" in rule
        assert "summary:" in rule
