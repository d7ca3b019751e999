"""`router holdout build`: from a pool to a hold-out with its provenance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from calibration.datasets import read_items
from calibration.records import Record, RecordLog, fingerprint
from router.binding import binding_of
from router.cli import main
from router.cli.holdout_build import provenance_file
from router.engine.local import LocalEngine
from tests.router.samples import trace

SMALL_ENGINE = ("--context", "256", "--slots", "4")
SIZES = {"one": 120, "two": 60}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["holdout", "build", *map(str, words)])


def pool(folder: Path) -> list[Path]:
    """Two sets of questions, with a large model's outcomes."""
    files = []
    for name, size in SIZES.items():
        rows = [
            {
                "id": f"q{i}",
                "question": f"Say {name} {i}.",
                "answer": "B" if name == "two" else "x",
                "split": "test",
                "llm": {"large": i % 3 > 0},
                **({"choices": ["this", "that"]} if name == "two" else {}),
            }
            for i in range(size)
        ]
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def answered(files: list[Path], engine: LocalEngine, folder: Path) -> Path:
    """A folder with an answer of the model to every question, so that it is asked none."""
    binding = binding_of(engine.info)
    made_with = {
        "model_sha256": binding.model_sha256,
        "template_sha256": binding.template_sha256,
        "sampler": binding.sampler,
        "engine_build": binding.engine_build,
    }
    rng = np.random.default_rng(0)
    with RecordLog(folder / "records.jsonl", made_with) as log:
        for item in read_items(files).items:
            sure = float("nan") if item.id == "q7" else 0.2 + 0.79 * rng.random()
            seen = trace(("x", sure), (" y", 0.9))
            log.append(Record(item.id, item.dataset, True, seen, asked=fingerprint(item)))
    return folder


@pytest.mark.model
def test_builds_what_calibrate_reads_and_says_what_it_is_made_of(
    tmp_path: Path, engine: LocalEngine
) -> None:
    files = pool(tmp_path)
    records = answered(files, engine, tmp_path / "answers")
    long = {"id": "long", "question": "word " * 400, "answer": "x"}
    with files[0].open("a") as file:
        file.write(json.dumps(long) + "\nnot JSON\n")
    out = tmp_path / "hold.jsonl.gz"
    words = ("--from", files[0], files[1], "--out", out, "--records", records, *SMALL_ENGINE)
    assert "--skip-bad" in run(*words).stderr
    result = run(*words, "--skip-bad", "--bins", "10", "--share", "0.2", "--seed", "3")
    assert result.exit_code == 0, result.stderr
    assert "1 questions do not fit the context and are left out:\n  long\n" in result.stderr
    assert "1 bad rows are left out:\n" in result.stderr

    source = {(item.dataset, item.id): item for item in read_items(files, skip_bad=True).items}
    chosen = read_items(out).items
    assert [source[item.dataset, item.id] for item in chosen] == list(chosen)
    assert {item.split for item in chosen} == {"test"}
    assert all(item.llm for item in chosen)

    made = json.loads((tmp_path / "hold.provenance.json").read_text())
    assert made["model_sha256"] == engine.info.model_sha256
    assert made["estimator"] == {"name": "perplexity", "version": 1}
    assert made["construction"] == {
        "paper": "arXiv:2502.04428, section 4",
        "n_bins": 10,
        "binning": "width",
        "share": 0.2,
        "seed": 3,
    }
    assert made["n"] == {"taken": len(chosen), "pool": 180, "too_long": 1}
    assert {name: of["pool"] for name, of in made["sets"].items()} == SIZES
    assert sum(of["taken"] for of in made["sets"].values()) == len(chosen)
    assert len(made["edges"]) == 11
    assert made["bins"][0] == {"bin": "unknown", "taken": 1, "pool": 2}
    assert sum(of["pool"] for of in made["bins"]) == 180
    assert len(chosen) == pytest.approx(36, abs=5)

    lines = result.stdout.splitlines()
    assert lines[0].split() == ["taken", "pool"]
    assert lines[3].split() == ["all", str(len(chosen)), "180"]
    assert "2 answers are of unknown perplexity, 1 taken" in lines
    assert lines[-1].startswith(f"{len(chosen)} questions written to {out}, what they are made of")

    again = tmp_path / "again.jsonl"
    options = ("--bins", "10", "--share", "0.2", "--seed", "3", "--skip-bad")
    assert run(files[0], files[1], *words[3:4], again, *words[5:], *options).exit_code == 0
    assert read_items(again).items == chosen
    elsewhere = tmp_path / "gone" / "hold.jsonl"
    assert "can't write" in run(*words[:4], elsewhere, *words[5:], "--skip-bad").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing option '--out'"),
        (("--out", "x.jsonl"), "name at least one file of questions: --from FILE"),
        (("gone.jsonl", "--out", "x.jsonl"), "can't read gone.jsonl"),
        (("x", "--out", "y", "--method", "stack"), "there is no estimator 'stack'; there are"),
        (("x", "--out", "y", "--share", "0"), "0.0 is not in the range"),
        (("x", "--out", "y", "--bins", "0"), "0 is not in the range"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    words: tuple[str, ...], message: str
) -> None:
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", ["a.b.jsonl", "a.b.jsonl.gz", "a.b"])
def test_the_side_files_name(name: str) -> None:
    assert provenance_file(Path("data") / name) == Path("data/a.b.provenance.json")
