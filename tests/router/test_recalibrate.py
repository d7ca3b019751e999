"""`router recalibrate`: what live answers teach, what is left out, and the way back."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from calibration.artifact import Calibration
from calibration.learned import Learned
from calibration.versions import previous
from router.cli.recalibrate import usable_answers
from router.ledger import Decided, Label, SqliteLedger, default_path
from tests.router.calibrations import BAND, PROBES, calibration
from tests.router.colours import (
    LocalModel,
    N,
    knows,
    large_model,
    local_model,
    put_in_place,
    question,
    run,
    unanswered,
    written,
)

__all__ = ["local_model"]  # a fixture

DAY = 86_400.0
FITTED = ("--signals", "none", "--method", "perplexity", "--calibrator", "platt")
SURE = 0.06
"""Perplexity of an answer that the model is sure of."""

pytestmark = pytest.mark.usefixtures("local_model")

more_of_the_same = pytest.mark.no_cover
"""Tracing a fit takes as long as the fit; the tests without this mark cover the same lines."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of its own, and a folder to work in."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with questions, and a calibration made from them."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        calibrated(written(folder / "own.jsonl", [question(i) for i in range(N)]))
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """The questions, in a copy of that folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "own.jsonl"


def in_use(data: Path) -> Calibration:
    return Calibration.load(data.parent / "made")


def calibrated(data: Path, *words: str | Path) -> Calibration:
    """Make another calibration from `data`; answers that are there are taken."""
    out = data.parent / "made"
    result = run("calibrate", "--dataset", data, "--out", out, *FITTED, *words)
    assert result.exit_code == 0, result.stderr
    return Calibration.load(out)


def recalibrated(data: Path, *words: str | Path) -> Result:
    folder = data.parent / "made"
    return run("recalibrate", "--dataset", data, "--calibration", folder, *words)


def decided(i: int, *, days_ago: float = 0.0, **more: Any) -> Decided:
    fields: dict[str, Any] = {
        "calibration": None,
        "route": "local",
        "reason": "confident",
        "scores": {"perplexity": SURE + 0.0001 * i},
    }
    return Decided(f"id-{i}", time.time() - days_ago * DAY, **(fields | more))


def labelled(
    rows: Iterable[Decided], *, correct: bool = False, inclusion: float | None = 1.0
) -> list[tuple[Decided, Label]]:
    return [(row, Label(row.id, correct, "audit", row.at, inclusion)) for row in rows]


def keep(rows: Iterable[tuple[Decided, Label]], path: Path | None = None) -> None:
    """Put rows into the ledger, as a gateway does."""

    async def write() -> None:
        path_ = path or default_path()
        path_.parent.mkdir(parents=True, exist_ok=True)
        ledger = await SqliteLedger.open(path_)
        for row, label in rows:
            await ledger.record(row)
            assert await ledger.label(label)
        await ledger.close()

    asyncio.run(write())


class TestLearning:
    def test_contradicting_feedback_moves_p_correct(
        self, data: Path, local_model: LocalModel
    ) -> None:
        old = in_use(data)
        keep(labelled(decided(i) for i in range(120)))
        result = recalibrated(data)
        assert result.exit_code == 0, result.stderr
        assert local_model.asked == []
        lines = result.stdout.splitlines()
        assert lines[:2] == [
            "120 labelled live answers to learn from.",
            "120 of them would be kept; by weight, 100.0% of those are wrong.",
        ]
        assert any(line.startswith("threshold: 0.") and " -> 0." in line for line in lines)
        assert "population, feedback: none -> 120" in lines
        assert "SIGHUP or POST /v1/calibration/reload" in lines[-1]

        new = in_use(data)
        sure = {"perplexity": SURE}
        assert new.p_correct(sure) < old.p_correct(sure) - 0.2
        assert (new.method, new.calibrator.kind) == ("perplexity", "platt")
        assert (new.target, new.confidence, new.seed) == (old.target, old.confidence, old.seed)
        assert new.holdout["recalibrated_from"] == [old.id]
        assert new.population == old.population == "the 250 questions of own.jsonl"
        page = (data.parent / "made" / "report.html").read_text(encoding="utf-8")
        assert "120" in page

        assert previous(data.parent / "made").id == old.id
        assert run("calibration", "rollback", "--calibration", data.parent / "made").exit_code == 0
        assert in_use(data).id == old.id

    @more_of_the_same
    def test_old_labels_count_for_less(self, data: Path) -> None:
        old = in_use(data)
        sure = {"perplexity": SURE}
        keep(labelled(decided(i, days_ago=20) for i in range(30)))
        found = []
        for days in ("1000", "5"):
            out = data.parent / days
            assert recalibrated(data, "--half-life", days, "--out", out).exit_code == 0
            found.append(Calibration.load(out).p_correct(sure))
        assert found[0] < found[1] < old.p_correct(sure)

    def test_a_risk_stays_certified_or_is_refused(self, data: Path) -> None:
        old = calibrated(data, "--target", "risk=0.3", "--confidence", "0.9")
        keep(labelled((decided(i) for i in range(20)), correct=True))
        found = json.loads(recalibrated(data, "--json").stdout)
        new = in_use(data)
        assert (found["id"], found["previous"]) == (new.id, old.id)
        assert (found["feedback"], found["feedback_unused"]) == (20, 0)
        assert found["live"] == {"kept": 20, "wrong": 0.0}
        assert found["artifact"] == str(data.parent / "made")
        assert found["differences"]
        certificate = new.operating_point.certificate
        assert certificate is not None
        assert (certificate.confidence, certificate.claims[0].bound) == (0.9, 0.3)

    def test_the_live_error_stands_beside_the_certificate(self, data: Path) -> None:
        calibrated(data, "--target", "risk=0.2")
        audited = labelled([decided(i) for i in range(3)], inclusion=0.1)
        asked_anyway = labelled((decided(i) for i in range(3, 13)), correct=True)
        unsure = labelled([decided(i, scores={"perplexity": 0.9}) for i in range(13, 20)])
        keep([*audited, *asked_anyway, *unsure])
        result = recalibrated(data)
        assert result.stdout.splitlines()[1] == (
            "13 of them would be kept; by weight, 75.0% of those are wrong, where at most 20.0% is "
            "certified for the 250 questions of own.jsonl."
        )

    @more_of_the_same
    def test_what_the_large_model_was_known_to_get_right(self, data: Path) -> None:
        written(data, [question(i, llm={"a": i % 2 > 0, "b": True}) for i in range(N)])
        old = calibrated(data, "--target", "loss=0.2", "--llm", "a")
        assert old.holdout["llm_recorded"] == {"own": "a"}
        keep(labelled((decided(i) for i in range(20)), correct=True))
        result = recalibrated(data)
        assert result.exit_code == 0, result.stderr
        new = in_use(data)
        assert new.holdout["llm_recorded"] == {"own": "a"}
        assert new.operating_point.loss is not None

    def test_what_the_large_model_was_asked(self, data: Path) -> None:
        with large_model(knows) as server:
            upstream = ("--upstream", server.url, "--upstream-model", "big")
            calibrated(data, "--target", "loss=0.2", "--llm", "upstream", *upstream)
            keep(labelled((decided(i) for i in range(20)), correct=True))
            without = recalibrated(data)
            assert without.exit_code == 2
            assert "what the large model gets right needs an upstream" in without.stderr
            assert recalibrated(data, *upstream).exit_code == 0
            assert len(server.requests) == N
        assert in_use(data).holdout["llm"] == "big"

    def test_into_another_folder_the_old_one_comes_along(
        self, data: Path, local_model: LocalModel
    ) -> None:
        old = in_use(data)
        keep(labelled(decided(i) for i in range(30)))
        result = recalibrated(data, "--out", data.parent / "other")
        assert result.exit_code == 0, result.stderr
        assert local_model.asked == []
        assert in_use(data).id == old.id
        assert previous(data.parent / "other").id == old.id
        assert Calibration.load(data.parent / "other").holdout["feedback"] == 30


class TestNothingToLearn:
    def test_no_labels(self, data: Path, local_model: LocalModel) -> None:
        old = in_use(data)
        keep([])
        result = recalibrated(data)
        assert result.exit_code == 0
        assert result.stdout == (
            "No live answer has a label yet. The calibration stays as it is.\n"
        )
        assert not (data.parent / "made" / "previous").exists()
        found = json.loads(recalibrated(data, "--json").stdout)
        assert (found["id"], found["previous"], found["feedback"]) == (old.id, old.id, 0)
        assert (found["artifact"], found["differences"]) == (None, [])
        assert local_model.asked == []

    def test_none_that_fit(self, data: Path) -> None:
        old = in_use(data)
        keep(labelled([decided(0, calibrated_sampler=False), decided(1, scores={})]))
        assert recalibrated(data).stdout == (
            "0 labelled live answers to learn from; 2 of another calibration or sampler are left "
            "out. The calibration stays as it is.\n"
        )
        assert in_use(data).id == old.id

    def test_labels_that_have_expired_are_unlearned(self, data: Path) -> None:
        old = in_use(data)
        keep(labelled(decided(i) for i in range(60)))
        recalibrated(data)
        keep([], data.parent / "empty.db")
        assert recalibrated(data, "--ledger", data.parent / "empty.db").exit_code == 0
        new = in_use(data)
        assert new.threshold == pytest.approx(old.threshold)
        assert new.holdout["feedback"] == 0


class TestErrors:
    def test_the_ledger_is_off(self, data: Path) -> None:
        result = recalibrated(data, "--ledger", "off")
        assert result.exit_code == 2
        assert "the ledger, which keeps feedback and audits, is off; set `ledger`" in result.stderr

    def test_other_questions(self, data: Path) -> None:
        folder = data.parent / "made"
        result = run("recalibrate", "--calibration", folder)
        assert result.exit_code == 2
        assert "made from other questions (datasets was own.jsonl, is holdout)" in result.stderr
        written(data, [question(i) for i in range(N + 1)])
        assert "(available was 250, is 251)" in recalibrated(data).stderr

    def test_labels_by_the_large_model(self, data: Path) -> None:
        written(data, [unanswered(i) for i in range(N)])
        with large_model(knows) as server:
            upstream = ("--upstream", server.url, "--upstream-model", "big")
            calibrated(data, "--labels", "llm", *upstream)
        result = recalibrated(data)
        assert result.exit_code == 2
        assert "rests on labels by an LLM; make it anew with `router calibrate" in result.stderr

    def test_a_half_life_that_is_none(self, data: Path) -> None:
        keep(labelled([decided(0)]))
        result = recalibrated(data, "--half-life", "nan")
        assert result.exit_code == 1
        assert "the half-life must be positive" in result.stderr

    def test_answers_that_make_no_sense_of_the_score(self, data: Path) -> None:
        old = calibrated(data, "--target", "risk=0.2")
        unsure = [decided(i, scores={"perplexity": 0.9}) for i in range(400)]
        sure = [replace(decided(i), id=f"sure-{i}") for i in range(400)]
        keep([*labelled(unsure, correct=True), *labelled(sure, correct=False)])
        result = recalibrated(data)
        assert result.exit_code == 1
        assert "the calibration in use stays as it is" in result.stderr
        assert in_use(data).id == old.id


class TestUsableAnswers:
    """Which live answers can teach a calibration."""

    NOW = 100 * DAY

    def row(self, **more: Any) -> tuple[Decided, Label]:
        (row,) = labelled([replace(decided(0), at=98 * DAY, **more)], inclusion=0.01)
        return row

    def test_a_registered_score_is_the_same_everywhere(self) -> None:
        (one,) = usable_answers(calibration(), [self.row(calibration="another")], now=self.NOW)
        assert (one.age_days, one.inclusion, one.correct) == (2.0, 0.01, False)

    @pytest.mark.parametrize(
        "more",
        [
            {"calibrated_sampler": False},
            {"scores": {"margin": 0.5}},
            {"scores": {"perplexity": float("nan")}},
        ],
    )
    def test_left_out(self, more: dict[str, Any]) -> None:
        assert usable_answers(calibration(), [self.row(**more)], now=self.NOW) == []

    def test_a_learned_score_is_that_of_its_own_probes(self) -> None:
        probed = calibration(
            "answer_probe", learned=Learned(PROBES), holdout={"recalibrated_from": ["sha256:0"]}
        )
        scores = {"answer_probe": 0.3}
        rows = [self.row(calibration=id, scores=scores) for id in (probed.id, "sha256:0", "other")]
        assert len(usable_answers(probed, rows, now=self.NOW)) == 2

    def test_so_is_the_score_that_is_looked_at_first(self) -> None:
        band = replace(BAND, method="answer_probe")
        banded = calibration("p_true", learned=Learned(PROBES), band=band)
        scores = {"answer_probe": 0.3, "p_true": 0.3}
        rows = [self.row(calibration=id, scores=scores) for id in (banded.id, "other")]
        assert len(usable_answers(banded, rows, now=self.NOW)) == 1


class TestLearnedScores:
    """With a stack, which another calibration learns otherwise."""

    STACK = ("--method", "stack", "--target", "escalation=0.4")

    @staticmethod
    def rows(calibration: Calibration, n: int, prefix: str = "") -> list[tuple[Decided, Label]]:
        scores = {"stack": 0.05, "perplexity": SURE}
        found = [decided(i, calibration=calibration.id, scores=scores) for i in range(n)]
        return labelled(replace(row, id=f"{prefix}{row.id}") for row in found)

    def test_those_of_another_calibration_are_left_out_and_counted(self, data: Path) -> None:
        first = calibrated(data, *self.STACK)
        assert first.method == "stack"
        other = replace(first, seed=5)
        keep([*self.rows(first, 40), *self.rows(other, 7, "other-")])
        result = recalibrated(data)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(
            "40 labelled live answers to learn from; 7 of another calibration or sampler are left "
            "out.\n"
        )
        second = in_use(data)
        assert (second.holdout["feedback"], second.holdout["feedback_unused"]) == (40, 7)
        assert second.learned.stacks["stack"].parts == first.learned.stacks["stack"].parts

        keep(self.rows(second, 10, "later-"))
        assert "\n" in recalibrated(data).stdout
        third = in_use(data)
        assert third.holdout["feedback"] == 50
        assert third.holdout["recalibrated_from"] == sorted([first.id, second.id])

    def test_scores_that_come_out_differently_are_refused(self, data: Path) -> None:
        first = calibrated(data, *self.STACK)
        keep(self.rows(first, 4))
        rows = [question(i) for i in range(N)]
        for row in rows[1::2]:  # the key to what the model is unsure of has been mended
            row["answer"] = "red"
        result = recalibrated(written(data, rows))
        assert result.exit_code == 1
        assert "stack, trained again, scores these answers differently" in result.stderr
        assert in_use(data).id == first.id
