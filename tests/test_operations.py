"""The files for operators name only what the gateway exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

from service.metrics import Metrics
from service.upstream_metrics import UpstreamCollector

FOLDER = Path(__file__).parent.parent / "docs" / "operations"
FILES = [FOLDER / "grafana.json", FOLDER / "alerts.yml", FOLDER / "README.md"]

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


def exported() -> dict[str, set[str]]:
    """The labels of all series by their names."""
    series = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            kind = str(metric._type)
            labels = {*metric._labelnames, *(["le"] if kind == "histogram" else [])}
            for suffix in SUFFIXES[kind]:
                series[metric._name + suffix] = labels
    for family in UpstreamCollector(None).collect():
        assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)
        for suffix in SUFFIXES[str(family.type)]:
            series[family.name + suffix] = set(family._labelnames)
    return series


SELECTED = re.compile(r"\b(router_[a-z_]+)(?:\{([^}]*)\})?")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_metrics_and_their_labels_exist(file: Path) -> None:
    text, known = file.read_text(encoding="utf-8").replace('\\"', '"'), exported()
    named = SELECTED.findall(text)
    assert named
    for name, selector in named:
        histogram = file.suffix == ".md" and name not in known  # called by its first name
        labels = known[f"{name}_bucket" if histogram else name]
        asked = set(re.findall(r"(\w+)[=!]", selector))
        assert asked <= labels | {"job", "instance"}, name


def test_each_metric_is_explained_or_shown() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in FILES)
    families = {re.sub("_(bucket|sum|count|total)$", "", name) for name in exported()}
    assert not {family for family in families if family not in text}


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
    assert rules
    for rule in rules:
        assert "expr:" in rule
        assert "severity:" in rule
        assert "summary:" in rule
