"""`router calibrate`: from questions to an artifact, with the real model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from calibration.artifact import Calibration
from calibration.thresholds import Target
from router.cli import main
from router.cli.calibrate import default_folder, summary

COUNTRIES = re.findall(
    r"\w+",
    "France Germany Spain Italy Japan China India Egypt Kenya Cuba Peru Chile Brazil Canada "
    "Norway Sweden Finland Poland Greece Turkey Iran Iraq Nepal Ghana Mali",
)
SMALL_ENGINE = ("--context", "256", "--slots", "8")


def rows(n: int) -> list[dict[str, Any]]:
    """Questions of which every second has an answer that the model can't help to give."""
    kinds = [("What is the capital of {}?", "capital"), ("Who ruled {} in the year 900?", "zzz")]
    return [
        {"question": kinds[i % 2][0].format(country), "answer": kinds[i % 2][1], "max_tokens": 6}
        for country in COUNTRIES
        for i in (0, 1)
    ][:n]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "own.jsonl", rows(50))


def written(path: Path, content: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, words), *SMALL_ENGINE])


def asked(out: Path) -> int:
    return (out / "records.jsonl").read_bytes().count(b"\n") - 1


@pytest.mark.model
def test_from_questions_to_an_artifact(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"

    # A sample is too small to fit, but what it answered is kept...
    small = run("--dataset", data, "--out", out, "--limit", "12")
    assert small.exit_code == 1
    assert "error: " in small.stderr
    assert f"the answers are kept in {out / 'records.jsonl'}" in small.stderr
    assert asked(out) == 12

    # ...and not asked again. The last line is torn, as by a crash: that one answer is lost.
    records = out / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-5])
    long = {"id": "long", "question": "word " * 400, "answer": "x"}
    extended = written(data, [*rows(50), long, {"question": "Q?"}])
    bad = run("--dataset", extended, "--out", out)
    assert bad.exit_code == 1
    assert "error: 1 bad row of 52:" in bad.stderr
    result = run("--dataset", extended, "--out", out, "--skip-bad", "--json")
    assert result.exit_code == 0, result.stderr
    assert asked(out) == 50
    assert "11/51" in result.stderr
    assert f"1 bad rows are left out:\n  {extended}, line 52: answer: missing" in result.stderr
    assert "1 questions do not fit the context and are left out:\n  long" in result.stderr

    figures = json.loads(result.stdout)
    assert figures["n"] == 50
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert set(figures["estimators"]["perplexity"]) >= {"auroc", "auroc_ci"}
    assert set(figures["ece"]) == set(figures["brier"]) == {"before", "after"}
    for name in ("threshold", "escalation_ratio", "accuracy_kept"):
        assert 0 <= figures[name] <= 1
    assert figures["artifact"] == str(out)
    calibration = Calibration.load(out)
    assert calibration.threshold == figures["threshold"]
    assert dict(calibration.holdout) == {
        "asked": 51,
        "available": 51,
        "datasets": ["own.jsonl"],
        "seed": 0,
        "skipped_rows": 1,
        "too_long": 1,
    }
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")

    # Another target asks nothing; the figures are for people.
    before = records.read_bytes()
    data = written(data, rows(50))
    again = run("--dataset", data, "--out", out, "--target", "threshold=0.6", "--method", "margin")
    assert again.exit_code == 0, again.stderr
    assert records.read_bytes() == before
    assert "threshold 0.6000, chosen for threshold=0.6" in again.stdout
    assert re.search(r"margin +0\.\d{3}  .*<- decides", again.stdout)
    assert again.stdout.endswith(f"  router serve --calibration {out}\n")

    # An impossible target says what is possible, and another model's answers are refused.
    infeasible = run("--dataset", data, "--out", out, "--target", "risk=0")
    assert infeasible.exit_code in (0, 3)
    header, rest = before.split(b"\n", 1)
    records.write_bytes(header.replace(b'"model_sha256":"', b'"model_sha256":"0') + b"\n" + rest)
    refused = run("--dataset", data, "--out", out)
    assert refused.exit_code == 1
    assert "holds answers made with something else: model_sha256 was" in refused.stderr


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
        (("--target", "luck=0.5"), "can't read the target"),
        (("--target", "risk=2"), "outside 0 to 1"),
        (("--method", "gut_feeling"), "there is no score 'gut_feeling'; there are"),
        (("--calibrator", "magic"), "'magic' is not one of"),
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


def test_summary() -> None:
    result = {
        "n": 200,
        "accuracy": 0.475,
        "method": "margin",
        "estimators": {
            "perplexity": {"auroc": 0.6, "auroc_ci": (0.5, 0.7)},
            "margin": {"auroc": 0.75, "auroc_ci": (0.7, 0.8)},
            "broken": {"auroc": None, "auroc_ci": None},
        },
        "ece": {"before": 0.2, "after": 0.05},
        "brier": {"before": 0.3, "after": 0.2},
        "threshold": 0.5,
        "escalation_ratio": 1.0,
        "accuracy_kept": None,
    }
    assert summary(result, Target("escalation", 0.3)).splitlines() == [
        "200 answers, 47.5% of them right",
        "",
        "score       AUROC  95% interval",
        "margin      0.750  0.700 to 0.800  <- decides",
        "perplexity  0.600  0.500 to 0.700",
        "broken        n/a  (too few known scores)",
        "",
        "       before  after calibration",
        "ECE    0.2000  0.0500",
        "Brier  0.3000  0.2000",
        "",
        "threshold 0.5000, chosen for escalation=0.3:",
        "  sent to the large model  100.0%",
        "  right among what is kept n/a, nothing is kept",
    ]
