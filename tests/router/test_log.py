"""`router log` and `router replay`: past decisions, and what another threshold makes of them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.cli import main
from router.ledger import Decided, Label, SqliteLedger
from router.replay import replay

NOW = time.time()


def decided(i: int, p: float | None, **fields: Any) -> Decided:
    route = "local" if p is not None and p >= 0.5 else "remote"
    reason = "policy" if p is None else "confident" if route == "local" else "uncertain"
    made: dict[str, Any] = {
        "id": f"chatcmpl-{i}",
        "at": NOW - 60 * i,
        "calibration": "sha256:1",
        "route": route,
        "reason": reason,
        "p_correct": p,
        "threshold": 0.5,
        "cost_usd": 0.02 if route == "remote" else 0.0,
        "prompt": f"{i:016x}",
    }
    return Decided(**{**made, **fields})


def label(i: int, correct: bool, inclusion: float | None = 1.0) -> Label:
    return Label(f"chatcmpl-{i}", correct, "audit", NOW, inclusion)


class TestReplay:
    def test_by_hand(self) -> None:
        entries = [(decided(i, p), None) for i, p in enumerate((0.2, 0.4, 0.55, 0.7, 0.9))]
        told = replay(entries, 0.6)
        assert (told.n, told.n_fixed) == (5, 0)
        assert (told.before.kept, told.before.escalated) == (3, 2)
        assert (told.after.kept, told.after.escalated) == (2, 3)
        assert told.usd_per_escalation == pytest.approx(0.02)
        assert told.before.usd == pytest.approx(0.04)
        assert told.after.usd == pytest.approx(0.06)
        assert told.after.ratio == pytest.approx(0.6)

    def test_what_no_threshold_decided_stays_out(self) -> None:
        entries = [
            (decided(0, None, reason="policy"), None),
            (decided(1, None, reason="uncertain"), None),
            (decided(2, 0.9), None),
        ]
        told = replay(entries, 0.95)
        assert (told.n, told.n_fixed) == (3, 2)
        assert (told.after.kept, told.after.escalated) == (0, 1)

    def test_errors_are_weighted_by_the_chance_of_their_label(self) -> None:
        kept = [(decided(i, 0.9), label(i, i % 2 == 0, 0.1)) for i in range(20)]
        escalated = [(decided(i, 0.4), label(i, False)) for i in range(20, 40)]
        told = replay([*kept, *escalated], 0.3)
        assert told.before.wrong == pytest.approx(0.5)
        # 200 answers of which half are wrong, and 20 of which all are
        assert told.after.wrong == pytest.approx(120 / 220)
        assert told.after.n_labelled == 40

    def test_few_labels_tell_nothing(self) -> None:
        told = replay([(decided(i, 0.9), label(i, False)) for i in range(19)], 0.5)
        assert told.before.wrong is None
        volunteered = [(decided(i, 0.9), label(i, False, None)) for i in range(50)]
        assert replay(volunteered, 0.5).before.wrong is None

    def test_nothing(self) -> None:
        told = replay([], 0.5)
        assert told.before.ratio is None
        assert told.usd_per_escalation is None


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        ledger = await SqliteLedger.open(path)
        now = time.time()
        for i, p in enumerate((0.9, 0.55, 0.1, None)):
            await ledger.record(decided(i, p, at=now - 60 * i))
        await ledger.label(label(1, False))
        await ledger.close()

    asyncio.run(fill())
    return path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


class TestLog:
    def test_the_newest_first(self, ledger: Path) -> None:
        head, *lines = run("log", "--ledger", str(ledger)).splitlines()
        assert head.split()[:3] == ["time", "route", "reason"]
        assert [line.split()[-1] for line in lines] == [f"chatcmpl-{i}" for i in range(4)]
        assert "wrong" in lines[1]
        assert "0.550" in lines[1]

    def test_some_of_them(self, ledger: Path) -> None:
        assert len(run("log", "--ledger", str(ledger), "-n", "2").splitlines()) == 3
        assert len(run("log", "--ledger", str(ledger), "--since", "90s").splitlines()) == 3

    def test_json(self, ledger: Path) -> None:
        first, second, *_ = map(
            json.loads, run("log", "--ledger", str(ledger), "--json").splitlines()
        )
        assert first["p_correct"] == 0.9
        assert first["label"] is None
        assert second["label"] == {"correct": False, "source": "audit"}

    def test_an_empty_ledger(self, tmp_path: Path) -> None:
        assert "no decisions yet" in run("log", "--ledger", str(tmp_path / "new.db"))
        replayed = run("replay", "--threshold", "0.5", "--ledger", str(tmp_path / "new.db"))
        assert "no decisions yet" in replayed

    def test_a_span_that_is_none(self, ledger: Path) -> None:
        assert "write it as 90s" in run("log", "--ledger", str(ledger), "--since", "week", code=2)

    def test_no_ledger(self) -> None:
        assert "there is no ledger" in run("log", "--ledger", "off", code=2)


class TestReplayCommand:
    def test_a_table(self, ledger: Path) -> None:
        text = run("replay", "--threshold", "0.6", "--ledger", str(ledger))
        rows = {line[:22].strip(): line[22:].split() for line in text.splitlines()}
        assert rows["kept on the device"] == ["2", "1"]
        assert rows["escalated"] == ["1", "2"]
        assert rows["USD"] == ["0.0200", "0.0400"]
        assert "3 decisions by score; 1 others" in text

    def test_json(self, ledger: Path) -> None:
        told = json.loads(run("replay", "--threshold", "0", "--ledger", str(ledger), "--json"))
        assert told["after"]["escalated"] == 0
