"""`router evaluate`: from files of questions to figures, table and report."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from calibration.datasets import builtin, read_items
from calibration.datasets.sampling import spread
from calibration.evaluation import evaluate_records
from calibration.records import Record, RecordLog, fingerprint
from router.binding import binding_of
from router.cli import main
from router.cli.evaluate import default_folder
from router.cli.evaluation_table import tables
from router.engine.local import LocalEngine
from tests.calibration.test_evaluation import N_BOOT, rows_of, two_sets
from tests.router.samples import trace
from uq.signals import HiddenStates

SMALL_ENGINE = ("--context", "256", "--slots", "4")
N = 240


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recorded(n: int = N) -> list[dict[str, Any]]:
    """Questions with outcomes and confidences of a small model, outcomes of two large ones."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        right = bool(rng.random() < 0.5)
        confidence = float(np.clip(round(0.4 + 0.2 * right + 0.2 * rng.normal(), 2), 0, 1))
        llm = {"tiny": right, "huge-1": bool(rng.random() < 0.85), "huge-2": True}
        rows.append(
            {"id": f"q{i}", "question": f"What is {i}?", "answer": str(i), "llm": llm}
            | {"conf": {"tiny": confidence}}
        )
    return rows


class TestRecorded:
    def test_figures_are_those_of_an_independent_computation(self, tmp_path: Path) -> None:
        data = written(tmp_path / "own.jsonl", recorded())
        words = ("--dataset", data, "--recorded-slm", "tiny", "--upstream-outcomes", "huge-1")
        result = run(*words, "--out", tmp_path / "out", "--json")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert found == json.loads((tmp_path / "out" / "evaluation.json").read_text())

        rows = [json.loads(line) for line in data.read_text().splitlines()]
        doubt = np.array([1 - row["conf"]["tiny"] for row in rows])
        small = np.array([row["llm"]["tiny"] for row in rows])
        large = np.array([row["llm"]["huge-1"] for row in rows])
        quality = found["sets"]["own"]["estimators"]["recorded_confidence"]
        assert quality["auroc"] == pytest.approx(roc_auc_score(~small, doubt))
        rng = np.random.default_rng(1)
        areas = []
        for _ in range(300):  # equal confidences in random order
            order = np.lexsort((rng.random(N), -doubt))
            gained = np.r_[0, np.cumsum(large[order].astype(int) - small[order])]
            areas.append(((gained[1:] + gained[:-1]) / 2).mean() / gained[-1])
        routed = found["curves"]["sets"]["own"]["methods"]["recorded_confidence"]
        assert routed["apgr"] == pytest.approx(np.mean(areas), abs=0.003)
        assert found["model"] == "tiny"

    def test_prints_a_table_and_writes_the_report(self, tmp_path: Path) -> None:
        data = written(tmp_path / "own.jsonl", [*recorded(), {"question": "?", "answer": "x"}])
        result = run(data, "--recorded-slm", "tin", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == "1 of 241 rows hold no outcome of tin: left out\n"
        lines = result.stdout.splitlines()
        assert lines[0].startswith("own: 240 answers, ")
        assert lines[1].startswith("routing to huge-2, 100.0% right on 240 of these")
        assert [line.split()[0] for line in lines[3:6]] == [
            "recorded_confidence",
            "oracle",
            "random",
        ]
        assert lines[-1].startswith(str(tmp_path / "out" / "report.html"))
        assert "<html" in (tmp_path / "out" / "report.html").read_text()

    def test_too_few_of_a_kind(self, tmp_path: Path) -> None:
        data = written(tmp_path / "own.jsonl", recorded(60))
        result = run(data, "--recorded-slm", "tiny", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        assert "n/a for recorded_confidence: " in result.stdout
        assert "50 of each are needed" in result.stdout
        written_down = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert written_down["sets"]["own"]["estimators"]["recorded_confidence"]["auroc"] is None

    def test_a_limit_counts_for_each_set(self, tmp_path: Path) -> None:
        one = written(tmp_path / "one.jsonl", recorded())
        two = written(tmp_path / "two.jsonl", recorded(50))
        words = ("--dataset", one, two, "--recorded-slm", "tiny", "--limit", "100", "--json")
        result = run(*words, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        sets = json.loads(result.stdout)["sets"]
        assert {name: found["n"] for name, found in sets.items()} == {"one": 100, "two": 50}

    @pytest.mark.parametrize(
        "files", [("--dataset", "1", "2"), ("--dataset", "1", "--dataset", "2")]
    )
    def test_several_files(self, tmp_path: Path, files: tuple[str, ...]) -> None:
        for name in ("1", "2"):
            written(tmp_path / name, recorded(120))
        words = [str(tmp_path / word) if word in "12" else word for word in files]
        result = run(*words, "--recorded-slm", "tiny", "--out", tmp_path / "out", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["pooled"]["n"] == 240

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--recorded-slm", "nobody"), "'nobody' is not among the recorded models; there are"),
            (("--recorded-slm", "huge"), "'huge' fits several models; there are huge-1, huge-2"),
            (
                ("--recorded-slm", "tiny", "--upstream-outcomes", "gpt"),
                "no set holds outcomes of 'gpt'; there are huge-1, huge-2",
            ),
            (
                ("--recorded-slm", "tiny", "--upstream-outcomes", "huge"),
                "'huge' fits several models whose outcomes own holds: huge-1, huge-2",
            ),
            (("--recorded-slm", "tiny", "--fresh"), "--recorded-slm asks none"),
        ],
    )
    def test_names_that_fit_nothing_or_too_much(
        self, tmp_path: Path, words: tuple[str, ...], message: str
    ) -> None:
        data = written(tmp_path / "own.jsonl", recorded(10))
        result = run(data, *words, "--out", tmp_path / "out")
        assert result.exit_code in (1, 2)
        assert message in " ".join(result.stderr.split())

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        data = written(tmp_path / "own.jsonl", recorded(10))
        result = run(data, "--recorded-slm", "tiny", "--out", data / "below")
        assert result.exit_code == 1
        assert f"error: can't write to {data / 'below'}: Not a directory" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name at least one file of questions"),
        (("gone.jsonl",), "can't read gone.jsonl"),
        (("x", "--methods", "gut_feeling"), "there is no estimator 'gut_feeling'; there are"),
        (("x", "--methods", "stack,p_ik"), "there are trained estimators only; add one"),
        (("x", "--limit", "0"), "0 is not in the range"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    words: tuple[str, ...], message: str
) -> None:
    result = run(*words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


@pytest.mark.model
def test_a_resumed_run_asks_the_rest(tmp_path: Path, engine: LocalEngine) -> None:
    questions = [
        {"id": f"q{i}", "question": f"Name colour {i}.", "answer": ("blue", "red")[i % 2]}
        | {"max_tokens": 4, "llm": {"huge": True}}
        for i in range(120)
    ]
    unusable = [{"id": "long", "question": "word " * 400, "answer": "x"}]
    data = written(tmp_path / "own.jsonl", [*questions, *unusable])
    binding = binding_of(engine.info)
    made_with = {
        "model_sha256": binding.model_sha256,
        "template_sha256": binding.template_sha256,
        "sampler": binding.sampler,
        "engine_build": binding.engine_build,
    }
    out = tmp_path / "out"
    with RecordLog(out / "records.jsonl", made_with) as log:
        for i, item in enumerate(read_items(data).items[:118]):
            seen = trace(("blue", 0.5 + 0.4 * ((i * 7) % 10) / 10 - 0.3 * (i % 2)), (" it", 0.9))
            log.append(Record(item.id, item.dataset, i % 2 == 0, seen, asked=fingerprint(item)))
    result = run("--dataset", data, "--methods", "perplexity,length", "--out", out, *SMALL_ENGINE)
    assert result.exit_code == 0, result.stderr
    assert "1 questions do not fit the context and are left out:\n  long\n" in result.stderr
    assert (out / "records.jsonl").read_bytes().count(b"\n") == 1 + 120
    found = json.loads((out / "evaluation.json").read_text())
    assert found["pooled"]["n"] == 120
    assert set(found["pooled"]["estimators"]) == {"perplexity", "length"}
    assert found["pooled"]["estimators"]["perplexity"]["auroc"] > 0.8
    assert found["curves"]["pooled"]["upstream"] == {"own": "huge"}


@pytest.mark.no_cover  # tracing takes as long as training, which other tests cover
@pytest.mark.model
def test_trained_estimators_are_fitted_on_the_other_sets(
    tmp_path: Path, engine: LocalEngine
) -> None:
    binding = binding_of(engine.info)
    made_with = {
        "model_sha256": binding.model_sha256,
        "template_sha256": binding.template_sha256,
        "sampler": binding.sampler,
        "engine_build": binding.engine_build,
    }
    out, rng = tmp_path / "out", np.random.default_rng(0)
    files = []
    with RecordLog(out / "records.jsonl", made_with) as log:
        for name in ("one", "two", "three"):
            questions = [
                {"id": str(i), "question": f"Say {name} {i}.", "answer": "x"} for i in range(110)
            ]
            files.append(written(tmp_path / f"{name}.jsonl", questions))
            for i, item in enumerate(read_items(files[-1]).items):
                states = rng.normal(size=(1, 8)).astype(np.float32)
                states[0, 0] += 3 * (i % 2)  # what tells wrong answers from right ones
                seen = dataclasses.replace(
                    trace(("x", 0.4 + 0.5 * rng.random()), (" y", 0.9)),
                    text="x" if i % 2 == 0 else "y",
                    offsets=np.array([0, 1]),
                    hidden=HiddenStates((22,), states, states, states),
                )
                record = Record(item.id, item.dataset, i % 2 == 0, seen, asked=fingerprint(item))
                log.append(dataclasses.replace(record, gathered=("hidden",)))
    methods = "perplexity,length,linear_probe,trained_probe,stack"
    result = run(*files, "--methods", methods, "--out", out, *SMALL_ENGINE)
    assert result.exit_code == 0, result.stderr
    found = json.loads((out / "evaluation.json").read_text())
    left_out = found["leave_one_out"]["pooled"]
    assert left_out["estimators"]["linear_probe"]["auroc"] > 0.95
    assert left_out["estimators"]["stack"]["auroc"] > 0.9
    assert found["sets"]["one"]["estimators"]["trained_probe"]["auroc"] > 0.8
    assert found["sets"]["one"]["estimators"]["perplexity"]["auroc"] < 0.7


class TestLeaveOneOut:
    def test_recorded_sets(self, tmp_path: Path) -> None:
        files = [written(tmp_path / f"{name}.jsonl", recorded()) for name in ("one", "two")]
        surer = [{**row, "conf": {"tiny": 1.0}} for row in recorded(60)]
        files.append(written(tmp_path / "sure.jsonl", surer))
        words: tuple[str | Path, ...]
        words = (*files, "--leave-one-out", "--recorded-slm", "tiny", "--out", tmp_path / "out")
        result = run(*words, "--share", "1", "--upstream-outcomes", "huge-1", "--json")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert found == json.loads((tmp_path / "out" / "leave-one-out.json").read_text())
        assert found["model"] == "tiny"
        gaps = {of["dataset"]: of["mean_gap"] for of in found["left_out"]}
        assert gaps["one"] == pytest.approx(gaps["two"])
        assert gaps["one"] < 0.11
        assert gaps["sure"] == pytest.approx(0.5)
        assert found["holdout"]["share"] == 1.0

        table = run(*words)
        assert table.exit_code == 0, table.stderr
        blocks = table.stdout.split("\n\n")
        assert [block.split()[0] for block in blocks[:3]] == [
            "recorded_confidence:",
            "recorded_confidence,",
            "Does",
        ]
        assert blocks[0].splitlines()[6].split()[:5] == ["sure", "free-form", "60", "50.0", "90.0"]
        curves = [" ".join(line.split()) for line in blocks[1].splitlines()]
        assert curves[-3].startswith("sure escalated 0% 0% 0%")
        assert curves[-2].startswith("right ")
        assert curves[-1].startswith("right, full knowledge ")
        answer = [" ".join(line.split()) for line in blocks[2].splitlines()]
        assert answer[4] == "set on other sets:"
        assert re.match(r"recorded_confidence \S+ no \S+ 90\.0 sure ", answer[5])
        assert re.match(r"controller, first 200 \S+ (yes|no) ", answer[6])
        assert re.match(r"controller, then \S+ yes \S+ \S+ 3/3 ", answer[7])
        assert max(map(len, table.stdout.splitlines())) <= 100

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--recorded-slm", "tiny"), "own is the only data set: nothing is left"),
            (("--share", "0.2"), None),
            (("--methods", "perplexity,trained_probe"), "trained_probe is fitted on a set's own"),
        ],
    )
    def test_what_can_not_be_left_out(
        self, tmp_path: Path, words: tuple[str, ...], message: str | None
    ) -> None:
        data = written(tmp_path / "own.jsonl", recorded(10))
        mode = ("--leave-one-out",) if message else ()
        result = run(data, *mode, *words, "--out", tmp_path / "out")
        assert result.exit_code in (1, 2)
        assert (message or "--share is the hold-out's") in " ".join(result.stderr.split())

    @pytest.mark.model
    def test_with_the_built_in_hold_out(self, tmp_path: Path, engine: LocalEngine) -> None:
        found = self.left_out(tmp_path, engine, ("one", "two", "three"), "perplexity,length")
        of_all = {(s["score"], s["pool"]): s for s in found["summary"] if s["kind"] == "all"}
        # Its 40 answers are too few to rank others among.
        assert len(of_all) == 2 * 3 + 2 * 2
        assert of_all["length, among neighbours", "others"]["n_sets"] == 3
        assert {of["pool"] for of in found["controlled"]} == {"others", "others+builtin", "builtin"}
        assert {summary["n_sets"] for summary in of_all.values()} == {3}
        for pool in ("others", "others+builtin", "builtin"):
            assert of_all["perplexity", pool]["mean_gap"] < 0.1
        assert {of["n_pool"] for of in found["left_out"] if of["pool"] == "builtin"} == {40}

    @pytest.mark.model
    def test_what_is_trained_is_fitted_on_the_hold_out(
        self, tmp_path: Path, engine: LocalEngine
    ) -> None:
        found = self.left_out(tmp_path, engine, ("one",), "perplexity,ood_probe")
        assert found["estimators"] == ["perplexity"]
        assert found["repairs"] == ["perplexity, among neighbours", "ood_probe"]
        # The built-in hold-out has 40 answers here: too few to rank others among.
        assert [(of["score"], of["pool"]) for of in found["left_out"]] == [
            ("perplexity", "builtin"),
            ("ood_probe", "builtin"),
        ]
        assert "50 are needed to rank" in found["notes"][0]
        assert found["left_out"][1]["mean_gap"] < 0.25

    @staticmethod
    def left_out(
        folder: Path, engine: LocalEngine, sets: tuple[str, ...], methods: str
    ) -> dict[str, Any]:
        """What the command finds on `sets` and the built-in hold-out, their answers all alike."""
        binding = binding_of(engine.info)
        made_with = {
            "model_sha256": binding.model_sha256,
            "template_sha256": binding.template_sha256,
            "sampler": binding.sampler,
            "engine_build": binding.engine_build,
        }
        out, rng = folder / "out", np.random.default_rng(0)
        files = []
        for name in sets:
            questions = [
                {"id": str(i), "question": f"{name} {i}?", "answer": "x"} for i in range(40)
            ]
            files.append(written(folder / f"{name}.jsonl", questions))
        built_in = spread(builtin.generate(0))[:40]
        with RecordLog(out / "records.jsonl", made_with) as log:
            for i, item in enumerate([*read_items(files).items, *built_in]):
                right = i % 2 == 1
                sure = float(np.clip(rng.normal(0.4 + 0.2 * right, 0.1), 0.1, 0.9))
                states = rng.normal(size=(1, 8)).astype(np.float32)
                states[0, 0] += 3 * right
                seen = dataclasses.replace(
                    trace(("x", sure), (" y", 0.9), text=item.answer if right else "neither"),
                    offsets=np.array([0, 1]),
                    hidden=HiddenStates((22,), states, states, states),
                )
                record = Record(item.id, item.dataset, right, seen, asked=fingerprint(item))
                log.append(dataclasses.replace(record, gathered=("hidden",)))
        words = ("--leave-one-out", "--holdout", "--limit", "40", "--share", "1", "--json")
        result = run(*files, *words, "--methods", methods, "--out", out, *SMALL_ENGINE)
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found


def test_the_hold_out_has_no_recorded_models(tmp_path: Path) -> None:
    result = run("--dataset", "holdout", "--recorded-slm", "tiny", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "'tiny' is not among the recorded models; there are none" in result.stderr


def test_default_folder() -> None:
    assert default_folder("Odd (name)!") == "evaluation-odd-name"


class TestTables:
    def test_every_set_the_pool_the_leads_and_the_spending(self) -> None:
        blocks = tables(two_sets()).split("\n\n")
        assert [block.split()[0] for block in blocks] == [
            "one:",
            "two:",
            "few:",
            "pooled,",
            "AUROC",
            "looking",
        ]
        one = blocks[0].splitlines()
        assert one[0].startswith("one: 240 answers, 50.0% of them right (43.")
        assert one[1].startswith("routing to large, ")
        heads = "AUROC 95% interval AUPRC PRR AURC ECE Brier APGR CPT50 CPT80"
        assert " ".join(one[2].split()) == heads
        names = [line.split("  ")[0] for line in one[3:10]]
        assert names[0] == "good"
        assert set(names) == {
            "good", "half", "weak", "perplexity", "blank", "sum (left out)", "memory (left out)",
        }  # fmt: skip
        assert one[-1].startswith("n/a for blank, memory (left out): known for 0 of 240")
        assert "n/a for all estimators" not in blocks[0]
        assert "adaptive reaches" in blocks[-1]
        assert blocks[4].splitlines()[1].split()[:4] == ["set", "estimator", "over", "lead"]

    def test_no_routing_and_notes(self) -> None:
        found = evaluate_records(
            rows_of("one", 20), trained={"a": lambda _: lambda _: 0.0}, n_boot=N_BOOT
        )
        text = tables(found)
        assert "routing n/a: 10 right and 10 wrong answers; 50 of each are needed" in text
        assert "n/a for all estimators: " in text
        assert text.splitlines()[-1].startswith("note: leaving one set out needs two")
