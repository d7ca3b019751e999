"""`router doctor`: each check against the real thing, working and broken."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibration.artifact import Calibration
from calibration.certificates import Certificate, Claim
from calibration.thresholds import OperatingPoint
from router.cli import main
from router.cli.doctor import (
    Finding,
    check_build,
    check_calibration,
    check_offload,
    check_python,
    check_redis,
    check_upstream,
    guarded,
)
from router.config import Settings
from router.errors import ModelError, RouterError
from tests.router.calibrations import INFO, calibration
from tests.router.fake_upstream import answer, scripted, silence
from tests.router.samples import engine_info


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    server = shutil.which("redis-server")
    assert server is not None, "these tests need redis-server; `make test` installs it"
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    command = [server, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            child.terminate()


async def check(url: str) -> Finding:
    return await guarded("redis", lambda: check_redis(url))


async def test_python() -> None:
    finding = await check_python()
    assert finding.status == "ok"
    assert "seek-stronger" in finding.detail


async def test_build() -> None:
    finding = await check_build()
    assert finding.status in ("ok", "warn")
    assert "llama-cpp-python" in finding.detail
    assert "GPU" in finding.detail


class TestRedis:
    async def test_it_answers(self, redis: str) -> None:
        assert await check(redis) == Finding("redis", "ok", f"{redis} answers")

    async def test_it_is_not_there(self) -> None:
        finding = await check("redis://:secret@127.0.0.1:9/0")
        assert finding.status == "FAIL"
        assert finding.detail.startswith("redis://***@127.0.0.1:9/0: ")
        assert "secret" not in finding.detail

    async def test_it_is_silent(self) -> None:
        async with scripted(silence) as server:
            url = server.url.replace("http", "redis").removesuffix("/v1")
            finding = await check_redis(url, timeout=0.1)
        assert finding.status == "FAIL"
        assert "does not answer within 0.1 s" in finding.detail

    async def test_its_address_is_none(self) -> None:
        finding = await check("nonsense://h")
        assert finding.status == "FAIL"


class TestUpstream:
    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLM_KEY", "sk-1")

    async def test_it_answers(self) -> None:
        async with scripted(answer({"data": []})) as server:
            settings = Settings(
                upstream=server.url, upstream_key_env="LLM_KEY", upstream_model="big"
            )
            (entry,) = settings.upstream_entries()
            finding = await check_upstream(entry, "upstream")
        assert finding == Finding("upstream", "ok", f"{server.url} answers")

    async def test_what_is_likely_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LLM_KEY")
        async with scripted(answer({"data": []})) as server:
            settings = Settings(upstream=server.url, upstream_key_env="LLM_KEY")
            (entry,) = settings.upstream_entries()
            finding = await check_upstream(entry, "upstream")
        assert finding.status == "warn"
        assert "variable LLM_KEY is not set" in finding.detail
        assert "upstream_model is not set" in finding.detail

    async def test_it_refuses_the_key(self) -> None:
        async with scripted(answer({"error": "no"}, 401)) as server:
            settings = Settings(upstream=server.url, upstream_key_env="LLM_KEY")
            (entry,) = settings.upstream_entries()
            finding = await guarded("upstream", lambda: check_upstream(entry, "upstream"))
        assert finding.status == "FAIL"
        assert "check the key in LLM_KEY" in finding.detail


class TestOffload:
    def test_cpu(self, tmp_path: Path) -> None:
        info = engine_info(tmp_path)
        assert check_offload(info, Settings()) == Finding("offload", "ok", "cpu, 2 threads")
        assert check_offload(info, Settings(n_gpu_layers=0)).status == "ok"

    def test_less_than_was_asked_for(self, tmp_path: Path) -> None:
        finding = check_offload(engine_info(tmp_path), Settings(n_gpu_layers=12))
        assert finding.status == "warn"
        assert "n_gpu_layers asks for 12" in finding.detail

    def test_no_room_on_the_gpu(self, tmp_path: Path) -> None:
        info = dataclasses.replace(engine_info(tmp_path), offload="cpu (auto: no room on 0: X)")
        assert check_offload(info, Settings()).status == "warn"

    def test_gpu(self, tmp_path: Path) -> None:
        info = dataclasses.replace(engine_info(tmp_path), offload="31 of 31 layers on a GPU")
        finding = check_offload(info, Settings(n_gpu_layers=31))
        assert finding == Finding("offload", "ok", "31 of 31 layers on a GPU, 2 threads")


class TestCalibration:
    """What it says is certified, and on what population."""

    CLAIM = Claim("risk", "risk=0.2", 0.2, 100, 60, 5, 0.01, "fixed-sequence exact binomial")

    @staticmethod
    async def finding(made: Calibration, folder: Path) -> Finding:
        made.save(folder)
        return await check_calibration(INFO, Settings(calibration=str(folder)))

    async def test_a_certificate(self, tmp_path: Path) -> None:
        certificate = Certificate(0.5, (self.CLAIM,), 0.95, "100 questions made by hand", "gold")
        point = OperatingPoint("risk=0.2", 0.5, 0.4, 0.9, 0.15, 60, 100, certificate=certificate)
        finding = await self.finding(
            calibration(target="risk=0.2", operating_point=point), tmp_path
        )
        assert finding.status == "ok"
        assert finding.detail.endswith(
            "; certified with 95% confidence: risk=0.2, for questions drawn like 100 questions "
            "made by hand"
        )

    async def test_none(self, tmp_path: Path) -> None:
        finding = await self.finding(calibration(), tmp_path)
        assert finding.status == "ok"
        assert finding.detail.endswith(
            "; nothing certified, measured on 100 questions made by hand"
        )

    async def test_labels_by_the_large_model(self, tmp_path: Path) -> None:
        finding = await self.finding(calibration(labels="llm", labelled_by="big"), tmp_path)
        assert finding.detail.endswith("made by hand, where right is what big says")


class TestGuarded:
    @pytest.mark.parametrize("error", [ModelError("a\n b"), OSError("a b"), ImportError("a b")])
    async def test_what_is_raised_is_a_finding(self, error: Exception) -> None:
        async def fail() -> Finding:
            raise error

        assert await guarded("x", fail) == Finding("x", "FAIL", "a b")

    async def test_an_error_without_words(self) -> None:
        async def fail() -> Finding:
            raise RouterError

        assert await guarded("x", fail) == Finding("x", "FAIL", "RouterError")


class TestCommand:
    ARGS = ("doctor", "--model", "none.gguf", "--redis-url", "redis://127.0.0.1:9")

    def test_it_goes_on_after_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(main, self.ARGS, env={"ROUTER_UPSTREAM": "http://127.0.0.1:9"})
        assert result.exit_code == 1
        starts = [line.split()[:2] for line in result.output.splitlines()]
        assert ["FAIL", "model"] in starts
        assert ["warn", "offload"] in starts
        assert ["warn", "calibration"] in starts
        assert ["FAIL", "redis"] in starts
        assert ["FAIL", "upstream"] in starts

    @pytest.mark.model
    def test_all_is_well(self) -> None:
        result = CliRunner().invoke(main, ["doctor", "--json", "--context", "256"])
        assert result.exit_code == 0
        report = json.loads(result.output)
        assert report["ok"] is True
        checks = {item["name"]: item for item in report["checks"]}
        assert list(checks) == [
            "python",
            "build",
            "model",
            "offload",
            "hidden states",
            "calibration",
        ]
        assert "Q4_1, 98 MB" in checks["model"]["detail"]
        assert checks["calibration"]["detail"].endswith(
            "certified with 95% confidence: risk=0.3, for questions drawn like the 2,395 questions "
            "of the built-in hold-out"
        )

    @pytest.mark.model
    def test_a_calibration_that_is_not_there(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(
            main, ["doctor", "--context", "256", "--calibration", str(tmp_path)]
        )
        assert result.exit_code == 1
        (failed,) = [line for line in result.output.splitlines() if line.startswith("FAIL")]
        assert failed.startswith("FAIL  calibration  there is no calibration at ")

    def test_as_json(self) -> None:
        result = CliRunner().invoke(main, [*self.ARGS, "--json"])
        assert result.exit_code == 1
        report = json.loads(result.output)
        assert report["ok"] is False
        assert {item["name"]: item["status"] for item in report["checks"]}["redis"] == "FAIL"


def test_a_finding_is_one_line() -> None:
    assert str(Finding("redis", "FAIL", "gone")) == "FAIL  redis        gone"
