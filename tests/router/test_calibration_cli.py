"""`router calibration show`: what is kept at which measured error."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from calibration import shipped
from calibration.artifact import Calibration
from router.binding import binding_of
from router.cli import main
from router.models import file_sha256
from tests.calibration.test_fit import fit, make_records
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
    for point in shipped_one(model_path).operating_points:
        assert f"| {point.target} | {point.threshold:.3f} |" in result.output


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
