"""The small model over a set of labelled questions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.errors import DataError
from calibration.items import Item
from calibration.records import Record, RecordLog
from router.collect import Progress, collect
from router.engine.messages import (
    GREEDY,
    Completion,
    EngineTimings,
    GenerateRequest,
    Message,
    SampleRequest,
    ScoreRequest,
    Scores,
)
from router.errors import EngineBusy, EngineDown, PromptTooLong
from tests.router.no_follow_ups import NoFollowUps
from tests.router.samples import trace
from tests.router.simple_engine import SimpleEngine
from uq.signals import SIGNALS, HiddenStates, Signal


class ScriptedEngine(NoFollowUps, SimpleEngine):
    """Answers each prompt by a script; knows what it was asked, and by how many at once."""

    def __init__(self, replies: Mapping[str, str | BaseException] | None = None) -> None:
        self.replies = dict(replies or {})
        self.asked: list[GenerateRequest] = []
        self.at_once = 0
        self.most_at_once = 0
        self.cancelled = 0
        self.gate: asyncio.Event | None = None

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            reply = self.replies.get(request.messages[0].content, "no idea")
            if isinstance(reply, EngineBusy):
                self.replies[request.messages[0].content] = "later"
            if isinstance(reply, BaseException):
                raise reply
            return Completion(trace=trace((reply, 0.5)), timings=EngineTimings())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1

    @property
    def questions(self) -> list[str]:
        return [request.messages[0].content for request in self.asked]


def items(n: int, answer: str = "yes") -> list[Item]:
    return [
        Item(
            id=f"q{i}",
            dataset="d",
            domain="",
            question=f"{i}?",
            answer=answer,
            grader="text",
            family="f",
            max_tokens=5 + i,
        )
        for i in range(n)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[RecordLog]:
    with RecordLog(path, {}) as log:
        yield log


async def test_asks_greedily_grades_and_keeps(path: Path, log: RecordLog) -> None:
    engine = ScriptedEngine({"0?": "Yes.", "1?": "No."})
    records = await collect(engine, items(2), log)
    assert [(r.item_id, r.dataset, r.family, r.correct) for r in records] == [
        ("q0", "d", "f", True),
        ("q1", "d", "f", False),
    ]
    assert [r.trace.text for r in records] == ["Yes.", "No."]
    first = next(request for request in engine.asked if request.max_tokens == 5)
    assert first.messages == (Message("user", "0?"),)
    assert first.sampler == GREEDY
    assert first.stop == ()
    log.close()
    with RecordLog(path, {}) as again:
        assert [r.to_dict() for r in again] == [r.to_dict() for r in records]


async def test_records_come_in_the_items_order(log: RecordLog) -> None:
    some = items(20)
    records = await collect(ScriptedEngine(), list(reversed(some)), log, concurrency=7)
    assert [r.item_id for r in records] == [item.id for item in reversed(some)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_as_many_at_once_as_wanted(log: RecordLog, concurrency: int) -> None:
    engine = ScriptedEngine()
    await collect(engine, items(10), log, concurrency=concurrency)
    assert engine.most_at_once == concurrency


async def test_as_many_at_once_as_the_engine_has_slots(log: RecordLog) -> None:
    engine = ScriptedEngine()
    await collect(engine, items(40), log)
    assert engine.most_at_once == engine.info.n_slots


async def test_what_the_log_holds_is_not_asked_again(path: Path, log: RecordLog) -> None:
    first = await collect(ScriptedEngine({"0?": "yes"}), items(3), log)
    log.close()
    size = path.stat().st_size
    engine = ScriptedEngine()
    with RecordLog(path, {}) as again:
        records = await collect(engine, items(5), again)
    assert sorted(engine.questions) == ["3?", "4?"]
    assert [r.to_dict() for r in records[:3]] == [r.to_dict() for r in first]
    with RecordLog(path, {}) as again:
        assert await collect(engine, items(5), again) != []
    assert len(engine.asked) == 2
    assert path.read_bytes()[:size].count(b"\n") == 4


async def test_a_mended_answer_key_is_graded_without_asking(path: Path, log: RecordLog) -> None:
    await collect(ScriptedEngine({"0?": "Oui"}), items(1), log)
    log.close()
    engine = ScriptedEngine()
    with RecordLog(path, {}) as again:
        [record] = await collect(engine, items(1, answer="oui"), again)
    assert record.correct
    assert engine.asked == []
    with RecordLog(path, {}) as again:
        assert [r.correct for r in again] == [True]


async def test_a_changed_question_is_asked(log: RecordLog) -> None:
    engine = ScriptedEngine()
    [item] = items(1)
    other = replace(item, question="new?")
    await collect(engine, [item], log)
    await collect(engine, [other], log)
    assert engine.questions == ["0?", "new?"]


async def test_too_long_a_prompt_is_counted_and_named(path: Path, log: RecordLog) -> None:
    engine = ScriptedEngine({"1?": PromptTooLong(5000, 4096)})
    seen: list[Progress] = []
    records = await collect(engine, items(3), log, on_progress=seen.append)
    assert [r.item_id for r in records] == ["q0", "q2"]
    assert seen[-1].too_long == ("q1",)
    assert seen[-1].done == seen[-1].total == 3
    log.close()
    with RecordLog(path, {}) as again:
        assert len(again) == 2


async def test_progress(log: RecordLog) -> None:
    seen: list[Progress] = []
    replies = {"0?": "yes", "1?": "yes"}
    await collect(ScriptedEngine(replies), items(2), log, concurrency=1, on_progress=seen.append)
    await collect(ScriptedEngine(), items(4), log, concurrency=1, on_progress=seen.append)
    assert seen == [
        Progress(done=0, total=2, reused=0, correct=0, tokens=0),
        Progress(done=1, total=2, reused=0, correct=1, tokens=1),
        Progress(done=2, total=2, reused=0, correct=2, tokens=2),
        Progress(done=2, total=4, reused=2, correct=2, tokens=0),
        Progress(done=3, total=4, reused=2, correct=2, tokens=1),
        Progress(done=4, total=4, reused=2, correct=2, tokens=2),
    ]


async def test_a_busy_engine_is_asked_again(log: RecordLog) -> None:
    engine = ScriptedEngine({"0?": EngineBusy(3, 0.0)})
    [record] = await collect(engine, items(1), log)
    assert record.trace.text == "later"
    assert engine.questions == ["0?", "0?"]


async def test_cancelling_keeps_what_is_answered_and_frees_the_slots(
    path: Path, log: RecordLog
) -> None:
    engine = ScriptedEngine()
    reached = asyncio.Event()

    def on_progress(progress: Progress) -> None:
        if progress.done == 3:
            engine.gate = asyncio.Event()
            reached.set()

    task = asyncio.create_task(
        collect(engine, items(10), log, concurrency=2, on_progress=on_progress)
    )
    await reached.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.at_once == 0
    assert engine.cancelled > 0
    kept = len(log)
    log.close()
    engine.gate = None
    with RecordLog(path, {}) as again:
        assert len(again) == kept
        engine.asked.clear()
        records = await collect(engine, items(10), again, concurrency=2)
    assert len(records) == 10
    assert len(engine.asked) == 10 - kept


async def test_an_engine_that_fails_stops_the_run(log: RecordLog) -> None:
    engine = ScriptedEngine({"3?": EngineDown("it died")})
    with pytest.raises(EngineDown, match="it died"):
        await collect(engine, items(30), log, concurrency=2)
    assert engine.at_once == 0
    assert len(engine.asked) < 10
    assert len(log) >= 2


async def test_a_log_that_fails_stops_the_run(path: Path) -> None:
    class FullLog(RecordLog):
        def append(self, record: Record) -> None:
            raise DataError(f"can't write {record.item_id}")

    engine = ScriptedEngine()
    with FullLog(path, {}) as log, pytest.raises(DataError, match="can't write"):
        await collect(engine, items(30), log, concurrency=2)
    assert len(engine.asked) < 10


async def test_nothing_to_ask(log: RecordLog) -> None:
    assert await collect(ScriptedEngine(), [], log) == []


class ObservantEngine(ScriptedEngine):
    """Also reads hidden states, draws samples and scores continuations."""

    def __init__(self, replies: Mapping[str, str | BaseException] | None = None) -> None:
        super().__init__(replies)
        self.sampled: list[SampleRequest] = []
        self.scored: list[ScoreRequest] = []

    async def generate(self, request: GenerateRequest) -> Completion:
        completion = await super().generate(request)
        if not request.hidden:
            return completion
        states = HiddenStates((2,), *np.ones((3, 1, 4), np.float32))
        return replace(completion, trace=replace(completion.trace, hidden=states))

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        self.sampled.append(request)
        return tuple(
            Completion(trace((f"sample {i}", 0.5)), EngineTimings()) for i in range(request.n)
        )

    async def score(self, request: ScoreRequest) -> Scores:
        self.scored.append(request)
        return Scores(tuple((-1.0,) for _ in request.continuations))

    @property
    def n_asked(self) -> int:
        return len(self.asked) + len(self.sampled) + len(self.scored)


async def test_signals_are_gathered_once_and_survive_the_log(path: Path, log: RecordLog) -> None:
    engine = ObservantEngine({"0?": "yes"})
    [record] = await collect(engine, items(1), log, signals=SIGNALS)
    assert record.gathered == SIGNALS
    assert record.trace.hidden is not None
    assert record.trace.p_true == (-1.0, -1.0)
    assert record.trace.verbal_2s == "yes"
    assert record.trace.verbal_1s == "no idea"
    assert record.trace.samples is not None
    assert record.trace.options is None  # the question has none
    assert len(engine.asked) == 3
    log.close()
    engine = ObservantEngine()
    with RecordLog(path, {}) as again:
        [kept] = await collect(engine, items(1), again, signals=SIGNALS)
    assert kept.to_dict() == record.to_dict()
    assert engine.n_asked == 0


async def test_without_signals_nothing_but_the_answer_is_asked(log: RecordLog) -> None:
    engine = ObservantEngine()
    [record] = await collect(engine, items(1), log)
    assert record.gathered == ()
    assert engine.n_asked == 1
    assert not engine.asked[0].hidden


async def test_an_item_that_lacks_a_signal_is_asked_for_that_alone(log: RecordLog) -> None:
    before = await collect(ObservantEngine({"0?": "yes"}), items(2), log, signals=["p_true"])
    engine = ObservantEngine()
    seen: list[Progress] = []
    after = await collect(
        engine, items(3), log, signals=["samples", "p_true"], on_progress=seen.append
    )
    assert engine.questions == ["2?"]
    assert len(engine.scored) == 1
    assert len(engine.sampled) == 3
    assert [r.gathered for r in after] == [("p_true", "samples")] * 3
    assert all(r.trace.samples is not None for r in after)
    assert [r.trace.text for r in after[:2]] == [r.trace.text for r in before]
    assert [r.trace.p_true for r in after[:2]] == [r.trace.p_true for r in before]
    assert (seen[0].reused, seen[-1].done, seen[-1].tokens) == (0, 3, 1)


async def test_what_can_not_be_had_is_not_asked_for_again(log: RecordLog) -> None:
    class Cramped(ObservantEngine):
        async def score(self, request: ScoreRequest) -> Scores:
            await super().score(request)
            raise PromptTooLong(5000, 4096)

    engine = Cramped()
    for _ in range(2):
        [record] = await collect(engine, items(1), log, signals=["p_true", "options"])
        assert record.gathered == ("p_true", "options")
        assert record.trace.p_true is None
    assert len(engine.scored) == 1


async def test_fewer_signals_than_the_log_holds_lose_none(log: RecordLog) -> None:
    await collect(ObservantEngine(), items(1), log, signals=["p_true", "samples"])
    engine = ObservantEngine()
    for wanted in ([], ["samples"]):
        signals: list[Signal] = [name for name in SIGNALS if name in wanted]
        [record] = await collect(engine, items(1, answer="no idea"), log, signals=signals)
        assert record.correct
        assert record.gathered == ("p_true", "samples")
        assert record.trace.p_true is not None
    assert engine.n_asked == 0


async def test_hidden_states_need_the_answer_made_again(log: RecordLog) -> None:
    await collect(ObservantEngine(), items(1), log)
    engine = ObservantEngine()
    for _ in range(2):
        [record] = await collect(engine, items(1), log, signals=["hidden"])
        assert record.gathered == ("hidden",)
        assert record.trace.hidden is not None
    assert engine.questions == ["0?"]
    assert engine.asked[0].hidden


async def test_an_engine_that_reads_no_layers_is_not_asked_for_them_again(log: RecordLog) -> None:
    engine = ScriptedEngine()
    for _ in range(2):
        [record] = await collect(engine, items(1), log, signals=["hidden"])
        assert record.trace.hidden is None
    assert len(engine.asked) == 1


async def test_samples_of_an_item_have_one_seed_wherever_it_stands(tmp_path: Path) -> None:
    seeds: list[dict[str, int | None]] = []
    for number, asked in enumerate((items(4), items(4)[::-1])):
        engine = ObservantEngine()
        with RecordLog(tmp_path / str(number), {}) as log:
            await collect(engine, asked, log, signals=["samples"])
        requests = [sampled.request for sampled in engine.sampled]
        seeds.append({r.messages[0].content: r.sampler.seed for r in requests})
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == 4
    assert None not in seeds[0].values()


@pytest.mark.parametrize(
    ("signals", "share"), [(["p_true"], 2), (["hidden", "samples"], 2), (["hidden"], 1), ([], 1)]
)
async def test_follow_ups_leave_half_of_the_slots_free(
    log: RecordLog, signals: list[Signal], share: int
) -> None:
    engine = ObservantEngine()
    await collect(engine, items(40), log, signals=signals)
    assert engine.most_at_once == engine.info.n_slots // share


async def test_an_engine_that_fails_a_follow_up_stops_the_run(log: RecordLog) -> None:
    class Failing(ObservantEngine):
        async def score(self, request: ScoreRequest) -> Scores:
            raise EngineDown(f"it died of {request.continuations}")

    with pytest.raises(EngineDown, match="it died of"):
        await collect(Failing(), items(9), log, signals=["p_true"])
    assert len(log) == 0  # an answer without its signals is not kept
