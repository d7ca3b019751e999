"""Graded answers, and the file in which they survive an interruption."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import DataError
from calibration.items import Item
from calibration.records import Record, RecordLog, fingerprint
from uq import Trace

MADE_WITH = {
    "model_sha256": "ab",
    "template_sha256": "cd",
    "sampler": {"temperature": 0.0, "logit_bias": []},
    "engine_build": "1.0",
}


def item(number: int = 1, *, question: str = "Why?", max_tokens: int = 8) -> Item:
    return Item(
        id=f"q{number}",
        dataset="d",
        domain="",
        question=question,
        answer="x",
        grader="text",
        max_tokens=max_tokens,
    )


def trace(*logprobs: float, text: str = "yes", end: float = -0.5) -> Trace:
    n = len(logprobs)
    return Trace(
        text=text,
        tokens=np.arange(n),
        offsets=np.zeros(n, dtype=np.int64),
        logprobs=np.array(logprobs),
        entropies=np.full(n, 0.25),
        margins=np.full(n, 0.5),
        top_ids=np.ones((n, 2), dtype=np.int64),
        top_logprobs=np.full((n, 2), -0.125),
        end_logprob=end,
        finish_reason="stop",
        n_prompt=3,
    )


def record(asked: Item, seen: Trace | None = None, *, correct: bool = True) -> Record:
    return Record(
        item_id=asked.id,
        dataset=asked.dataset,
        correct=correct,
        trace=trace(-0.1, -0.2) if seen is None else seen,
        family="f",
        asked=fingerprint(asked),
    )


def same(one: Record, other: Record) -> bool:
    return json.dumps(one.to_dict()) == json.dumps(other.to_dict())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "records.jsonl"


class TestRecord:
    @pytest.mark.parametrize(
        "seen",
        [
            trace(-0.1, -0.2),
            trace(),
            trace(-1e-300, -700.0, end=math.nan),
            trace(math.nan, -math.inf),
            trace(-0.1, text='é\n"\u2028'),
        ],
    )
    def test_it_survives_being_written(self, seen: Trace) -> None:
        before = record(item(), seen)
        after = Record.from_dict(json.loads(json.dumps(before.to_dict())))
        assert same(before, after)
        assert after.trace.logprobs.tobytes() == seen.logprobs.tobytes()
        assert after.key == ("d", "q1")

    @given(st.lists(st.floats(max_value=0, allow_nan=False), max_size=5))
    def test_every_bit_of_a_float_survives(self, logprobs: list[float]) -> None:
        before = record(item(), trace(*logprobs))
        after = Record.from_dict(json.loads(json.dumps(before.to_dict())))
        assert after.trace.logprobs.tobytes() == before.trace.logprobs.tobytes()

    def test_the_fingerprint_is_of_what_is_asked(self) -> None:
        assert fingerprint(item(1)) == fingerprint(item(2))
        assert fingerprint(item()) != fingerprint(item(question="Who?"))
        assert fingerprint(item()) != fingerprint(item(max_tokens=9))


class TestLog:
    def test_it_gives_back_what_was_appended(self, path: Path) -> None:
        with RecordLog(path, MADE_WITH) as log:
            assert len(log) == 0
            log.append(record(item(1)))
            log.append(record(item(2), correct=False))
        with RecordLog(path, MADE_WITH) as log:
            assert [r.item_id for r in log] == ["q1", "q2"]
            found = log.find(item(2))
            assert found is not None
            assert same(found, record(item(2), correct=False))
            assert log.find(item(3)) is None

    def test_an_item_asked_in_other_words_is_not_found(self, path: Path) -> None:
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item()))
            assert log.find(item(question="Who?")) is None
            log.append(record(item(question="Who?")))
        with RecordLog(path, MADE_WITH) as log:
            assert log.find(item(question="Who?")) is not None
            assert log.find(item()) is None
            assert len(log) == 1

    def test_it_only_grows(self, path: Path) -> None:
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item(1)))
        before = path.read_bytes()
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item(2)))
        assert path.read_bytes().startswith(before)

    def test_each_record_is_in_the_file_at_once(self, path: Path) -> None:
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item(1)))
            assert path.read_bytes().count(b"\n") == 2

    def test_fresh_starts_over(self, path: Path) -> None:
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item()))
        with RecordLog(path, {"model_sha256": "other"}, fresh=True) as log:
            assert len(log) == 0
        with RecordLog(path, {"model_sha256": "other"}) as log:
            assert len(log) == 0

    def test_closing_twice_is_fine(self, path: Path) -> None:
        log = RecordLog(path, MADE_WITH)
        log.close()
        log.close()


class TestBinding:
    @pytest.mark.parametrize("name", list(MADE_WITH))
    def test_another_one_is_refused_by_name(self, path: Path, name: str) -> None:
        RecordLog(path, MADE_WITH).close()
        before = path.read_bytes()
        with pytest.raises(DataError, match=rf"{name} was .* and is 'other'.*--fresh"):
            RecordLog(path, {**MADE_WITH, name: "other"})
        assert path.read_bytes() == before

    def test_a_missing_or_further_fact_differs_too(self, path: Path) -> None:
        RecordLog(path, {"model_sha256": "ab"}).close()
        with pytest.raises(DataError, match=r"engine_build was None and is '1\.0'"):
            RecordLog(path, MADE_WITH)

    def test_the_same_one_in_other_words_is_the_same(self, path: Path) -> None:
        RecordLog(path, MADE_WITH).close()
        sampler = {"logit_bias": (), "temperature": 0.0}  # JSON knows no tuples
        RecordLog(path, {**MADE_WITH, "sampler": sampler}).close()


class TestDamage:
    @pytest.fixture
    def written(self, path: Path) -> bytes:
        with RecordLog(path, MADE_WITH) as log:
            log.append(record(item(1)))
            log.append(record(item(2)))
        return path.read_bytes()

    def test_cut_anywhere_it_goes_on(self, path: Path, written: bytes) -> None:
        ends = [i + 1 for i, byte in enumerate(written) if byte == ord("\n")]
        for cut in [*range(0, len(written), 7), *ends, *(end - 1 for end in ends)]:
            path.write_bytes(written[:cut])
            whole = max(sum(end <= cut for end in ends) - 1, 0)
            with RecordLog(path, MADE_WITH) as log:
                assert len(log) == whole, cut
                for number in range(whole + 1, 3):
                    log.append(record(item(number)))
            assert path.read_bytes() == written, cut

    @pytest.mark.parametrize("garbage", [b"\0\0\0\0\n", b'{"item_id": "q\n', b"\xff\n", b"7\n"])
    def test_a_last_line_torn_by_a_power_cut_is_dropped(
        self, path: Path, written: bytes, garbage: bytes
    ) -> None:
        path.write_bytes(written + garbage)
        with RecordLog(path, MADE_WITH) as log:
            assert len(log) == 2
        assert path.read_bytes() == written

    @pytest.mark.parametrize(
        "row",
        [
            b"garbage",
            b"{}",
            b'{"item_id": "q", "dataset": "d", "correct": 1, "trace": {}}',
            b'{"item_id": "q", "dataset": "d", "correct": true, "trace": 5}',
            b'{"item_id": "q", "dataset": "d", "correct": true, "trace": {"text": "x"}}',
        ],
    )
    def test_damage_before_the_last_line_is_named(
        self, path: Path, written: bytes, row: bytes
    ) -> None:
        header, first, second = written.splitlines()
        path.write_bytes(b"\n".join([header, first, row, second, b""]))
        with pytest.raises(DataError, match=r"records\.jsonl, line 3: damaged.*--fresh"):
            RecordLog(path, MADE_WITH)


def test_a_full_disk_leaves_whole_records(path: Path) -> None:
    with RecordLog(path, MADE_WITH) as log:
        log.append(record(item(1)))
        size = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            with pytest.raises(DataError, match="can't write"):
                log.append(record(item(2)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.stat().st_size == size
        assert log.find(item(2)) is None
        log.append(record(item(2)))
    with RecordLog(path, MADE_WITH) as log:
        assert len(log) == 2


def test_a_killed_process_loses_nothing_that_it_appended(path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        from calibration.records import RecordLog
        from tests.calibration.test_records import MADE_WITH, item, record
        log = RecordLog(sys.argv[1], MADE_WITH)
        for number in range(5):
            log.append(record(item(number)))
        os.kill(os.getpid(), 9)
        """
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with RecordLog(path, MADE_WITH) as log:
        assert [r.item_id for r in log] == [f"q{number}" for number in range(5)]
