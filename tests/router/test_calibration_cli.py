"""`router calibration`: what is kept at which measured error, what changed, and back again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibration import shipped
from calibration.artifact import Calibration
from router.binding import binding_of
from router.cli import main
from router.models import file_sha256
from tests.calibration.test_fit import (
    fit,
    fitted_on_long_answers,
    fitted_on_states,
    fitted_with_band,
    make_records,
)
from tests.router.calibrations import calibration as by_hand
from tests.router.samples import engine_info

README = Path(__file__).parent.parent.parent / "README.md"


def shipped_one(model_path: Path) -> Calibration:
    found = shipped.find(file_sha256(model_path))
    assert found is not None
    return found


def test_a_calibration_ships_for_the_default_model_and_for_no_other(model_path: Path) -> None:
    found = shipped_one(model_path)
    assert found.binding.model_sha256 == file_sha256(model_path)
    assert found.n >= 1000
    assert shipped.find("00" * 32) is None


def test_show_prints_every_operating_point(model_path: Path) -> None:
    result = CliRunner().invoke(main, ["calibration", "show"])
    assert result.exit_code == 0
    found = shipped_one(model_path)
    for point in found.operating_points:
        mark = "" if point.certificate is None else " *"
        assert f"| {point.target}{mark} | {point.threshold:.3f} |" in result.output
    assert "| risk=0.3 * |" in result.output
    assert "\n* certified with 95% confidence, each by itself" in result.output
    assert (
        "no threshold can be certified for risk=0.02, risk=0.05, risk=0.1, risk=0.2\n"
        in result.output
    )


def test_show_tells_the_certificate_in_words(model_path: Path) -> None:
    result = CliRunner().invoke(main, ["calibration", "show"])
    certificate = shipped_one(model_path).operating_point.certificate
    assert certificate is not None
    assert certificate.describe() in result.output.splitlines()
    assert "drawn like the 2,395 questions of the built-in hold-out" in result.output


def test_show_says_that_nothing_is_certified_and_whose_labels_it_rests_on(tmp_path: Path) -> None:
    lines = shown(by_hand(), tmp_path / "gold")
    assert lines[2] == "nothing is certified; drawn from 100 questions made by hand"
    assert not any("*" in line for line in lines)
    lines = shown(by_hand(labels="llm", labelled_by="big"), tmp_path / "llm")
    assert lines[3] == "labels by big: where it is wrong, so may be an answer that counts right"


def test_show_as_json_and_as_a_picture(model_path: Path, tmp_path: Path) -> None:
    plot = tmp_path / "curve.svg"
    result = CliRunner().invoke(main, ["calibration", "show", "--json", "--plot", str(plot)])
    assert json.loads(result.output)["id"] == shipped_one(model_path).id
    assert "<svg" in plot.read_text()


def test_show_takes_another_folder(tmp_path: Path) -> None:
    binding = binding_of(engine_info(Path("tiny.gguf")))
    made, _ = fit(make_records(300), binding=binding, method="perplexity")
    made.save(tmp_path)
    result = CliRunner().invoke(main, ["calibration", "show", "--calibration", str(tmp_path)])
    assert "decides by perplexity" in result.output
    assert "300 answers" in result.output


def shown(calibration: Calibration, folder: Path) -> list[str]:
    calibration.save(folder)
    result = CliRunner().invoke(main, ["calibration", "show", "--calibration", str(folder)])
    assert result.exit_code == 0
    return result.output.splitlines()


def test_show_says_where_it_looks_closer_and_what_that_buys(tmp_path: Path) -> None:
    calibration, _ = fitted_with_band()
    band = calibration.band
    assert band is not None
    lines = shown(calibration, tmp_path)
    assert lines[1].startswith(
        f"decides by {band.method}, and for the {band.share:.1%} it leaves in doubt by stack; in"
    )
    assert lines[2] == (
        "cost per query and AUROC, looking closer: "
        f"never 1.00 and {band.auroc_cheap:.3f}, in doubt {1 + band.cost:.2f} and "
        f"{band.auroc:.3f}, always {1 + band.cost_everything:.2f} and {band.auroc_everything:.3f}"
    )


def test_show_says_what_is_given_up(tmp_path: Path) -> None:
    calibration, _ = fitted_on_states()
    gate = calibration.gate
    assert gate is not None
    assert shown(calibration, tmp_path / "states")[2] == (
        f"gate: {gate.gated:.1%} of the answers are not begun; {gate.lost:.1%} (set for at most "
        "2.0%) of the right ones are lost"
    )
    calibration, _ = fitted_on_long_answers()
    stop = calibration.early_stop
    assert stop is not None
    assert shown(calibration, tmp_path / "long")[2] == (
        f"early stop: {stop.stopped:.1%} are broken off, which spares {stop.saved:.1%} of the "
        f"tokens; {stop.lost:.1%} (set for at most 2.0%) of those to keep are lost"
    )


def test_a_model_without_a_calibration_is_told_how_to_get_one(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF" + bytes(64))
    result = CliRunner().invoke(main, ["calibration", "show", "--model", str(other)])
    assert result.exit_code == 1
    assert "router calibrate --model" in result.output


def test_the_readmes_table_is_what_the_shipped_calibration_measured(model_path: Path) -> None:
    page = README.read_text()
    found = shipped_one(model_path)
    for point in found.operating_points:
        if point.target.startswith("escalation") and point.accuracy_kept is not None:
            share, wrong = f"{point.escalation_ratio:.1%}", f"{1 - point.accuracy_kept:.1%}"
            row = [share, f"{point.n_kept} of {point.n}", wrong]
            assert any(
                [cell.strip() for cell in line.strip("|").split("|")] == row
                for line in page.splitlines()
            ), row


def run(*arguments: str | Path, code: int = 0) -> list[str]:
    result = CliRunner().invoke(main, ["calibration", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output.splitlines()


OLD = by_hand()
NEW = replace(OLD, n=300, operating_point=replace(OLD.operating_point, threshold=0.6))


class TestDiff:
    def test_against_the_one_before(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        NEW.save(tmp_path)
        assert run("diff", tmp_path) == [
            f"{OLD.id[:19]}, made 2026-01-01 from 200 answers -> "
            f"{NEW.id[:19]}, made 2026-01-01 from 300 answers",
            "threshold: 0.500 -> 0.600",
            "n: 200 -> 300",
        ]

    def test_against_another_folder(self, tmp_path: Path) -> None:
        OLD.save(tmp_path / "old")
        NEW.save(tmp_path / "new")
        assert run("diff", tmp_path / "old", tmp_path / "new")[1:] == [
            "threshold: 0.600 -> 0.500",
            "n: 300 -> 200",
        ]

    def test_as_json(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        NEW.save(tmp_path)
        found = json.loads("\n".join(run("diff", tmp_path, "--json")))
        assert (found["old"], found["new"]) == (OLD.id, NEW.id)
        assert found["changes"][0] == {"name": "threshold", "was": 0.5, "now": 0.6}

    def test_of_what_does_not_differ(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        assert run("diff", tmp_path, tmp_path)[1:] == ["they are the same"]
        replace(OLD, seed=1).save(tmp_path)
        assert run("diff", tmp_path)[1:] == ["nothing that decides differs"]

    def test_without_one_before(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        (line,) = run("diff", tmp_path, code=1)
        assert "there is no earlier calibration in" in line


class TestRollback:
    def test_there_and_back_again(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        NEW.save(tmp_path)
        for current, kept in ((OLD, NEW), (NEW, OLD)):
            lines = run("rollback", "--calibration", tmp_path)
            assert lines[0].startswith(f"current is now {current.id[:19]}, made 2026-01-01")
            assert lines[1].startswith(f"kept is {kept.id[:19]}")
            assert "POST /v1/calibration/reload or SIGHUP" in lines[2]
            assert Calibration.load(tmp_path).id == current.id

    def test_the_folder_may_be_set_in_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        OLD.save(tmp_path)
        NEW.save(tmp_path)
        monkeypatch.setenv("ROUTER_CALIBRATION", str(tmp_path))
        run("rollback")
        assert Calibration.load(tmp_path).id == OLD.id

    def test_from_one_that_is_broken(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        NEW.save(tmp_path)
        (tmp_path / "calibration.json").write_text("{")
        lines = run("rollback", "--calibration", tmp_path)
        assert lines[0].startswith(f"current is now {OLD.id[:19]}")
        assert "can't be used" in lines[1]

    def test_without_one_before(self, tmp_path: Path) -> None:
        OLD.save(tmp_path)
        (line,) = run("rollback", "--calibration", tmp_path, code=1)
        assert "there is no earlier calibration in" in line

    def test_of_the_shipped_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (line,) = run("rollback", code=1)
        assert "ships with the model is in use" in line
        assert "name a folder with --calibration" in line
