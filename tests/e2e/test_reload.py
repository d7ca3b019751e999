"""Another calibration, taken over by a running `router serve`: by signal and by request."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibration import shipped
from calibration.artifact import FILE_NAME, Calibration
from calibration.versions import rollback
from router.models import file_sha256
from tests.e2e.conftest import Gateway

QUESTION = {
    "model": "auto",
    "messages": [{"role": "user", "content": "What is 1 + 1?"}],
    "max_tokens": 4,
}


@pytest.fixture
def old(model_path: Path) -> Calibration:
    found = shipped.find(file_sha256(model_path))
    assert found is not None
    return found


@pytest.fixture
def folder(old: Calibration, tmp_path: Path) -> Path:
    old.save(tmp_path / "calibration")
    return tmp_path / "calibration"


@pytest.fixture
def alone(folder: Path) -> Iterator[Gateway]:
    """A gateway without an upstream, on a calibration in a folder of its own."""
    options = {"calibration": str(folder), "context": "512", "slots": "2"}
    gateway = Gateway(options, folder.parent / "log")
    gateway.start()
    yield gateway
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


def decided(gateway: Gateway) -> dict[str, Any]:
    answer = httpx.post(gateway.url + "/v1/chat/completions", json=QUESTION, timeout=120)
    found: dict[str, Any] = answer.json()["router"]
    return found


def until(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


def test_a_signal_and_a_request_take_over_what_is_in_the_folder(
    alone: Gateway, old: Calibration, folder: Path
) -> None:
    point = dataclasses.replace(old.operating_point, threshold=0.99)
    new = dataclasses.replace(old, operating_point=point)
    before = decided(alone)
    assert before["calibration"] == old.id
    assert decided(alone)["cache"] == "hit"

    new.save(folder)
    assert alone.process is not None
    alone.process.send_signal(signal.SIGHUP)
    until(lambda: alone.metric("router_calibration_reloads_total", 'result="ok"') == 1)
    after = decided(alone)
    assert (after["calibration"], after["threshold"], after["cache"]) == (new.id, 0.99, "miss")
    lines = [json.loads(line) for line in alone.log.read_text().splitlines() if line[:1] == "{"]
    (line,) = [line for line in lines if line["event"] == "calibration reloaded"]
    assert (line["old"], line["new"]) == (old.id, new.id)

    rollback(folder)
    told = httpx.post(alone.url + "/v1/calibration/reload").json()
    assert (told["id"], told["previous"], told["changed"]) == (old.id, new.id, True)
    assert any(line.startswith("threshold: 0.990 -> ") for line in told["differences"])
    assert decided(alone)["cache"] == "hit"

    (folder / FILE_NAME).write_text("{")
    assert httpx.post(alone.url + "/v1/calibration/reload").status_code == 409
    alone.process.send_signal(signal.SIGHUP)
    until(lambda: alone.metric("router_calibration_reloads_total", 'result="failed"') == 2)
    assert decided(alone)["calibration"] == old.id
