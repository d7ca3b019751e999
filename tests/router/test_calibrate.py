"""`router calibrate`: from questions to an artifact, with the real model and with a script's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from calibration.artifact import Calibration
from calibration.datasets import read_items
from calibration.records import Record, RecordLog, fingerprint
from router.binding import binding_of
from router.cli import main
from router.cli.calibrate import default_folder
from router.engine.local import LocalEngine
from router.engine.messages import EngineInfo
from tests.router import colours
from tests.router.colours import LocalModel, local_model
from tests.router.samples import trace

__all__ = ["local_model"]  # a fixture

SMALL_ENGINE = ("--context", "256", "--slots", "4")
N = 60


def questions() -> list[dict[str, Any]]:
    """Questions of which every second is answered right by "blue"."""
    return [
        {"id": f"q{i}", "question": f"Name colour {i}.", "answer": ("blue", "red")[i % 2]}
        | {"max_tokens": 4}
        for i in range(N)
    ]


def written(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def answer_most(data: Path, out: Path, info: EngineInfo, n: int) -> None:
    """Write down answers to the first `n` questions, as if an earlier run had been given them."""
    binding = binding_of(info)
    made_with = {
        "model_sha256": binding.model_sha256,
        "template_sha256": binding.template_sha256,
        "sampler": binding.sampler,
        "engine_build": binding.engine_build,
    }
    with RecordLog(out / "records.jsonl", made_with) as log:
        for i, item in enumerate(read_items(data).items[:n]):
            confidence = 0.5 + 0.4 * ((i * 7) % 10) / 10 - 0.3 * (i % 2)
            seen = trace(("blue", confidence), (" it", 0.9), (" is", 0.8))
            correct = i % 2 == 0
            known = Record(item.id, item.dataset, correct, seen, asked=fingerprint(item))
            log.append(replace(known, gathered=("hidden",)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "own.jsonl", questions())


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, words), *SMALL_ENGINE])


def asked(out: Path) -> int:
    return (out / "records.jsonl").read_bytes().count(b"\n") - 1


@pytest.mark.model
def test_a_resumed_run_asks_the_rest_and_writes_the_artifact(
    data: Path, tmp_path: Path, engine: LocalEngine
) -> None:
    out = tmp_path / "made"
    answer_most(data, out, engine.info, N - 2)
    unusable = [{"id": "long", "question": "word " * 400, "answer": "x"}, {"question": "Q?"}]
    extended = written(data, [*questions(), *unusable])
    result = run("--dataset", extended, "--out", out, "--skip-bad", "--json")
    assert result.exit_code == 0, result.stderr
    assert asked(out) == N
    assert result.stderr.splitlines()[0] == "1 bad rows are left out:"
    assert result.stderr.splitlines()[1] == f"  {extended}, line {N + 2}: answer: missing"
    assert "1 questions do not fit the context and are left out:\n  long\n" in result.stderr

    figures = json.loads(result.stdout)
    assert figures["n"] == N
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert set(figures["estimators"]["perplexity"]) >= {"auroc", "auroc_ci"}
    assert set(figures["ece"]) >= {"before", "after"}
    assert set(figures["brier"]) >= {"before", "after"}
    assert 0 <= figures["threshold"] <= 1
    assert 0 <= figures["escalation_ratio"] <= 1
    assert figures["artifact"] == str(out)
    calibration = Calibration.load(out)
    assert calibration.threshold == figures["threshold"]
    assert calibration.check(binding_of(engine.info)) == []
    assert dict(calibration.holdout) == {
        "asked": N + 1,
        "available": N + 1,
        "datasets": ["own.jsonl"],
        "seed": 0,
        "skipped_rows": 1,
        "too_long": 1,
    }
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.model
def test_another_target_asks_nothing(data: Path, tmp_path: Path, engine: LocalEngine) -> None:
    out = tmp_path / "made"
    answer_most(data, out, engine.info, N)
    before = (out / "records.jsonl").read_bytes()
    words = ("--dataset", data, "--out", out, "--target", "threshold=0.6", "--method", "margin")
    # Margins are all 0 in these traces: no score that ranks the answers.
    failed = run(*words)
    assert failed.exit_code == 1
    assert f"the answers are kept in {out / 'records.jsonl'}" in failed.stderr
    result = run(*words[:-1], "perplexity")
    assert result.exit_code == 0, result.stderr
    assert "threshold 0.6000, chosen for threshold=0.6" in result.stdout
    assert re.search(r"perplexity +0\.\d{3}  .*<- decides", result.stdout)
    assert result.stdout.endswith(f"  router serve --calibration {out}\n")
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.model
def test_answers_of_another_model_are_refused_until_told_to_start_over(
    data: Path, tmp_path: Path, engine: LocalEngine
) -> None:
    out = tmp_path / "made"
    answer_most(data, out, replace(engine.info, model_sha256="ab" * 32), N)
    refused = run("--dataset", data, "--out", out, "--limit", "2")
    assert refused.exit_code == 1
    assert "holds answers made with something else: model_sha256 was" in refused.stderr
    assert asked(out) == N
    fresh = run("--dataset", data, "--out", out, "--limit", "2", "--fresh")
    assert fresh.exit_code == 1  # two answers are no calibration, but they are asked for
    assert asked(out) == 2


@pytest.mark.model
def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "made"
    command = [sys.executable, "-c", "from router.cli import main; main()", "calibrate"]
    process = subprocess.Popen(
        [*command, "--out", str(out), *SMALL_ENGINE],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        while not (out / "records.jsonl").exists() or asked(out) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert re.search(r"interrupted after \d+ of \d+ questions; .* the same command", stderr)
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "luck=0.5"), "unknown target 'luck'"),
        (("--target", "risk=2"), "outside 0 to 1"),
        (("--method", "gut_feeling"), "there is no score 'gut_feeling'; there are"),
        (("--method", "p_true"), "p_true reads p_true; add it to --signals"),
        (("--method", "p_ik", "--signals", "none"), "p_ik reads hidden; add it to --signals"),
        (("--signals", "hidden,magic"), "there is no signal 'magic'; there are hidden, p_true"),
        (("--target", "risk=0.1,risk=0.2"), "two targets of one kind"),
        (("--target", "savings=max"), "savings=max needs something to hold"),
        (("--target", "threshold=0.5", "--target", "risk=0.1"), "leaves nothing to choose"),
        (("--calibrator", "magic"), "there is no calibrator 'magic'; there are auto, isotonic"),
        (("--confidence", "1"), "1.0 is not in the range 0<x<1"),
        (("--confidence", "nan"), "--confidence: it must be between 0 and 1"),
        (("--labels", "llm"), "the built-in questions have answers; name a file"),
        (("--labels", "llm", "--llm", "big"), "--llm: with --labels llm the upstream's answers"),
        (("--judge",), "--judge: the upstream judges where labels are its own"),
        (("--limit", "0"), "0 is not in the range"),
        (("--dataset", "gone.jsonl"), "can't read gone.jsonl"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    words: tuple[str, ...], message: str
) -> None:
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/a/SmolLM2-135M-Instruct.Q4_1.gguf", "calibration-smollm2-135m-instruct-q4_1"),
        ("Odd (name)!.gguf", "calibration-odd-name"),
    ],
)
def test_default_folder(path: str, folder: str) -> None:
    assert default_folder(path) == folder


class TestTargets:
    """With a model that is 97% right where it is sure, on half of the questions, else 35%."""

    @pytest.fixture
    def colours_file(self, tmp_path: Path, local_model: LocalModel) -> Path:  # noqa: ARG002 - used
        return colours.written(
            tmp_path / "own.jsonl", [colours.question(i) for i in range(colours.N)]
        )

    @staticmethod
    def calibrated(data: Path, *words: str) -> Result:
        out = data.parent / "made"
        shared = ("--signals", "none", "--method", "perplexity", "--calibrator", "platt")
        return colours.run("calibrate", "--dataset", data, "--out", out, *shared, *words)

    def test_a_risk_is_certified_within_a_budget(self, colours_file: Path) -> None:
        result = self.calibrated(
            colours_file,
            "--target",
            "risk=0.2",
            "--target",
            "escalation=0.7",
            "--confidence",
            "0.9",
        )
        assert result.exit_code == 0, result.stderr
        assert (
            "With 90% confidence, at most 20% of the answers kept are wrong, for questions drawn "
            "like the 250 questions of own.jsonl" in result.stdout
        )
        made = Calibration.load(colours_file.parent / "made")
        assert (made.target, made.confidence) == ("risk=0.2, escalation=0.7", 0.9)
        assert (made.population, made.labels) == ("the 250 questions of own.jsonl", "gold")
        certificate = made.operating_point.certificate
        assert certificate is not None
        assert [claim.target for claim in certificate.claims] == ["risk=0.2"]
        assert certificate.threshold == made.threshold
        assert made.early_stop is None
        assert made.operating_point.escalation_ratio <= 0.7

    def test_the_certificate_is_in_the_json(self, colours_file: Path) -> None:
        found = json.loads(self.calibrated(colours_file, "--target", "risk=0.2", "--json").stdout)
        assert found["certificate"]["population"] == "the 250 questions of own.jsonl"
        assert found["certificate"]["claims"][0]["bound"] == 0.2
        assert (found["labels"], found["claim"]) == ("gold", "")
        page = (colours_file.parent / "made" / "report.html").read_text(encoding="utf-8")
        assert "Certificate:" in page

    def test_two_that_contradict(self, colours_file: Path, local_model: LocalModel) -> None:
        words = ("--target", "risk=0.2", "--target", "escalation=0.2")
        result = self.calibrated(colours_file, *words)
        assert result.exit_code == 3
        said = " ".join(result.stderr.split())
        assert re.search(
            r"risk=0.2 needs \d+% escalated, escalation=0.2 allows 20%: \d+ points apart; ask for "
            r"risk=[\d.]+ or escalation=[\d.]+",
            said,
        )
        folder = colours_file.parent / "made"
        assert f"the answers are kept in {folder / 'records.jsonl'}" in said
        assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl"]

        assert len(local_model.asked) == colours.N
        assert self.calibrated(colours_file, "--target", "risk=0.2").exit_code == 0
        assert len(local_model.asked) == colours.N

    def test_a_risk_that_no_threshold_keeps(self, colours_file: Path) -> None:
        self.calibrated(colours_file, "--target", "escalation=0.3")
        before = Calibration.load(colours_file.parent / "made").id
        result = self.calibrated(colours_file, "--target", "risk=0.01")
        assert result.exit_code == 3
        assert "error: risk=0.01 can't be certified with 95% confidence on 100" in result.stderr
        assert "Whatever the method, risk=0.01 needs at least" in result.stderr
        assert Calibration.load(colours_file.parent / "made").id == before

    def test_what_is_only_measured_says_so(self, colours_file: Path) -> None:
        result = self.calibrated(colours_file, "--target", "threshold=0.6")
        assert "threshold 0.6000, chosen for threshold=0.6" in result.stdout
        assert "measured, not certified" in result.stdout
