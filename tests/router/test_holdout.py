"""`router holdout`: a look at the built-in hold-out set."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from calibration.datasets import builtin, read_items
from calibration.items import Item
from router.cli import main
from router.cli.holdout import describe


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["holdout", *words])


class TestShow:
    def test_some(self) -> None:
        result = run("show", "--count", "3")
        assert result.exit_code == 0
        assert result.stdout.count("\n  -> ") == 3
        assert result.stderr.strip() == f"3 of {len(builtin.generate(0))} questions"

    def test_the_seed_matters(self) -> None:
        assert run("show").stdout == run("show", "--seed", "0").stdout
        assert run("show").stdout != run("show", "--seed", "1").stdout

    def test_one_family(self) -> None:
        family = builtin.FAMILIES[3]
        result = run("show", "--family", family.name, "--count", "1000000")
        assert result.stdout.count(f"holdout-{family.name}-") == family.size

    def test_an_unknown_family(self) -> None:
        result = run("show", "--family", "nonsense")
        assert result.exit_code == 2
        assert "there is no family 'nonsense'; there are" in " ".join(result.stderr.split())
        assert builtin.FAMILIES[0].name in result.stderr


class TestExport:
    def test_reads_back(self, tmp_path: Path) -> None:
        result = run("export", "--out", str(tmp_path / "out.jsonl.gz"), "--seed", "4")
        assert result.exit_code == 0
        assert result.stdout == ""
        assert read_items(tmp_path / "out.jsonl.gz").items == builtin.generate(4)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        result = run("export", "--out", str(tmp_path / "gone" / "out.jsonl"))
        assert result.exit_code == 1
        assert result.stderr.startswith("error: can't write")


def test_describe() -> None:
    item = Item(
        id="q1",
        dataset="d",
        domain="facts",
        question="Which?",
        answer="B",
        grader="choice",
        choices=("this", "that"),
        context="Once.",
        family="pick",
    )
    assert describe(item) == (
        "q1  (facts, pick, choice)\n"
        "  Once.\n\n  Which?\n\n  A. this\n  B. that\n\n"
        "  Answer with the letter of the right option.\n"
        "  -> B | that"
    )
