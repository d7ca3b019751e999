"""How one query is routed: what is kept, what is escalated, and what is left on a bad day."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calibration.artifact import Calibration
from calibration.errors import ArtifactMismatch
from router.answer import Answer, Decision, Mode, Need, Query, RemoteChunk, StreamEvent
from router.binding import binding_of
from router.engine.messages import (
    Completion,
    EngineTimings,
    GenerateRequest,
    Message,
    Sampler,
    SampleRequest,
    StreamPart,
    TextDelta,
)
from router.errors import (
    CapabilityError,
    EngineBusy,
    EngineDown,
    PromptTooLong,
    TemplateRefused,
    UpstreamRejected,
    UpstreamUnavailable,
)
from router.pipeline import Pipeline
from router.prices import Prices
from router.remote import Upstream
from tests.calibration.test_fit import fit, make_records
from tests.router.fake_upstream import (
    DONE,
    USAGE_CHUNK,
    answer,
    chunk,
    completion,
    event,
    scripted,
    streamed,
)
from tests.router.no_follow_ups import NoFollowUps
from tests.router.samples import engine_info, trace
from tests.router.simple_engine import SimpleEngine
from uq import Trace

SURE = trace(("Pa", 0.999), ("ris", 0.999))
UNSURE = trace(("Lo", 0.02), ("ndon", 0.03))
BROKEN = trace(("Lo", math.nan), ("ndon", 0.9))


class FakeEngine(NoFollowUps, SimpleEngine):
    """Answers with the trace, or raises the error, that it was given."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.asked: list[GenerateRequest] = []
        self.alive = False

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return Completion(self.reply, EngineTimings(1, 2, 3, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of what `FakeEngine` says it has loaded."""
    folder = tmp_path_factory.mktemp("calibration")
    binding = binding_of(engine_info(Path("tiny.gguf")))
    made, _ = fit(make_records(400), binding=binding, method="perplexity", calibrator="platt")
    made.save(folder)
    return folder


@asynccontextmanager
async def pipeline(
    reply: Any, folder: Path | None, *steps: Any, retries: int = 0
) -> AsyncIterator[Pipeline]:
    """A started pipeline; with `steps`, on an upstream that takes them.

    `reply` is an engine, or what a FakeEngine replies.
    """
    async with scripted(*(steps or (answer({}),))) as server:
        upstream = Upstream(server.url, "large", retries=retries) if steps else None
        made = Pipeline(
            reply if isinstance(reply, FakeEngine) else FakeEngine(reply),
            calibration_folder=str(folder) if folder else "",
            upstream=upstream,
            prices=Prices(1.0, 10.0),
        )
        await made.start()
        yield made
        await made.close()


def query(**options: Any) -> Query:
    messages = (Message("user", "What is the capital of France?"),)
    body = {"model": "auto", "messages": [{"role": "user", "content": messages[0].content}]}
    return Query(**{"messages": messages, "body": body, **options})


async def events_of(made: Pipeline, asked: Query) -> list[StreamEvent]:
    return [event async for event in made.stream(asked)]


class SamplingEngine(FakeEngine):
    """Gives `reply` first, then the other answers."""

    def __init__(self, reply: Trace, *others: Trace) -> None:
        super().__init__(reply)
        self.others = others

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        first = await self.generate(request.request)
        return (first, *(Completion(other, EngineTimings()) for other in self.others))


async def test_the_first_of_several_answers_decides_and_all_are_counted(folder: Path) -> None:
    for first, second, route in ((SURE, UNSURE, "local"), (UNSURE, SURE, "remote")):
        async with pipeline(SamplingEngine(first, second), folder, answer(completion())) as made:
            given = await made.answer(query(n=2, sampler=Sampler(temperature=1.0)))
        assert given.decision.route == route
        assert given.usage_local is not None
        assert given.usage_local.completion_tokens == len(first) + len(second)
        texts = [choice.text for choice in given.choices]
        assert texts == (["Paris", "London"] if route == "local" else ["four"])


@pytest.mark.parametrize("mode", ["local", "auto"])
async def test_several_answers_come_at_once_in_a_stream(folder: Path, mode: Mode) -> None:
    async with pipeline(SamplingEngine(SURE, UNSURE), folder) as made:
        decision, given = await events_of(made, query(n=2, mode=mode))
    assert isinstance(decision, Decision)
    assert isinstance(given, Answer)
    assert [choice.text for choice in given.choices] == ["Paris", "London"]


CUT = dataclasses.replace(SURE, finish_reason="length")


async def test_an_answer_cut_short_is_trusted_only_where_that_was_asked_for(folder: Path) -> None:
    async with pipeline(CUT, folder, answer(completion())) as made:
        asked = await made.answer(query(max_tokens=2))
        unasked = await made.answer(query())
        kept = await made.answer(query(mode="local"))
    assert (asked.decision.route, asked.decision.reason) == ("local", "confident")
    assert (unasked.decision.route, unasked.decision.reason) == ("remote", "uncertain")
    assert (kept.finish_reason, kept.decision.p_correct) == ("length", None)


async def test_an_answer_is_as_long_as_asked_for_or_as_set() -> None:
    engine = FakeEngine(SURE)
    made = Pipeline(engine, answer_tokens=7)
    await made.start()
    for asked in (query(), query(max_tokens=9)):
        await made.answer(asked)
    assert [request.max_tokens for request in engine.asked] == [7, 9]


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
CALLS = trace((CALL, 0.999))
FAILS_TO_CALL = trace((CALL[:-20], 0.999))


async def test_a_call_of_a_tool_is_judged_as_any_answer(folder: Path) -> None:
    asked = query(tools=frozenset({"f"}))
    async with pipeline(CALLS, folder, answer(completion())) as made:
        given = await made.answer(asked)
        decision, *text, streamed = await events_of(made, asked)
    assert given.decision.reason == "confident"
    assert given.finish_reason == "tool_calls"
    assert isinstance(decision, Decision)
    assert decision.reason == "confident"
    assert not text
    assert isinstance(streamed, Answer)
    assert streamed.finish_reason == "tool_calls"


@pytest.mark.parametrize("tools", [frozenset({"f"}), frozenset({"g"})])
async def test_a_call_that_is_none_is_not_trusted_however_sure_the_model_was(
    folder: Path, tools: frozenset[str]
) -> None:
    said = FAILS_TO_CALL if "f" in tools else CALLS
    async with pipeline(said, folder, answer(completion())) as made:
        given = await made.answer(query(tools=tools))
        assert (given.decision.route, given.decision.reason) == ("remote", "uncertain")
        assert given.decision.p_correct is None
        kept = await made.answer(query(tools=tools, mode="local"))
        assert (kept.text, kept.finish_reason) == (said.text, "stop")
        alone = await made.answer(query(tools=tools, local_only=True))
        assert alone.decision.degraded


async def test_what_looks_like_a_call_is_text_where_there_are_no_tools(folder: Path) -> None:
    async with pipeline(CALLS, folder) as made:
        assert (await made.answer(query())).finish_reason == "stop"


async def test_a_confident_answer_is_kept_and_saves_money(folder: Path) -> None:
    async with pipeline(SURE, folder, answer(completion())) as made:
        given = await made.answer(query())
        assert made.calibration is not None
        threshold = made.calibration.threshold
    assert given.text == "Paris"
    assert (given.decision.route, given.decision.reason) == ("local", "confident")
    assert given.decision.p_correct is not None
    assert given.decision.p_correct >= threshold
    assert not given.decision.degraded
    assert given.usage_remote is None
    assert given.cost_usd == 0
    assert given.saved_usd == pytest.approx((5 * 1.0 + 2 * 10.0) / 1e6)
    assert set(given.timings_ms) == {"queue", "prefill", "decode", "uq", "remote", "total"}


@pytest.mark.parametrize("seen", [UNSURE, BROKEN])
async def test_an_uncertain_or_unknown_score_escalates(folder: Path, seen: Any) -> None:
    async with pipeline(seen, folder, answer(completion("Paris, surely"))) as made:
        given = await made.answer(query())
    assert given.text == "Paris, surely"
    assert (given.decision.route, given.decision.reason) == ("remote", "uncertain")
    assert (given.decision.p_correct is None) == (seen is BROKEN)
    assert given.remote_body is not None
    assert given.usage_local is not None
    assert given.cost_usd == pytest.approx((7 * 1.0 + 3 * 10.0) / 1e6)
    assert given.timings_ms["remote"] > 0


async def test_without_an_upstream_the_local_answer_is_labelled(folder: Path) -> None:
    async with pipeline(UNSURE, folder) as made:
        given = await made.answer(query())
        events = await events_of(made, query())
    assert given.text == "London"
    assert (given.decision.route, given.decision.reason) == ("local", "no_upstream")
    assert given.decision.degraded
    assert given.saved_usd == 0
    assert isinstance(events[0], Decision)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "London"
    assert isinstance(events[-1], Answer)


async def test_with_the_upstream_down_the_local_answer_is_labelled(folder: Path) -> None:
    async with pipeline(UNSURE, folder, answer({}, 500)) as made:
        given = await made.answer(query())
        events = await events_of(made, query())
        with pytest.raises(UpstreamUnavailable):
            await made.answer(query(mode="remote"))
        with pytest.raises(UpstreamUnavailable):
            await events_of(made, query(mode="remote"))
    for decision in (given.decision, events[0]):
        assert isinstance(decision, Decision)
        assert (decision.route, decision.reason, decision.degraded) == (
            "local",
            "upstream_down",
            True,
        )


async def test_a_request_the_upstream_rejects_is_the_callers_fault(folder: Path) -> None:
    async with pipeline(UNSURE, folder, answer({"error": {"message": "no"}}, 400)) as made:
        with pytest.raises(UpstreamRejected):
            await made.answer(query())


async def test_nothing_is_confident_without_a_calibration() -> None:
    async with pipeline(SURE, None, answer(completion("four"))) as made:
        given = await made.answer(query())
        private = await made.answer(query(local_only=True))
        assert "no calibration ships" in made.warnings[0]
    assert (given.decision.route, given.decision.reason) == ("remote", "uncalibrated")
    assert (private.decision.route, private.decision.reason) == ("local", "policy")


async def test_a_calibration_of_something_else_is_refused(tmp_path: Path) -> None:
    binding = binding_of(engine_info(Path("tiny.gguf")))
    other = fit(make_records(400), binding=binding, method="perplexity")[0]
    data = other.to_dict()
    data["binding"]["model_sha256"] = "cd" * 32
    foreign = Calibration.from_dict({**data, "id": _id_of(data)})
    foreign.save(tmp_path)
    engine = FakeEngine(SURE)
    with pytest.raises(ArtifactMismatch, match="model_sha256"):
        await Pipeline(engine, calibration_folder=str(tmp_path)).start()
    assert not engine.alive


def _id_of(data: dict[str, Any]) -> str:
    from calibration.artifact import _content_hash  # noqa: PLC0415

    return _content_hash({name: value for name, value in data.items() if name != "id"})


@pytest.mark.parametrize(
    ("options", "route", "reason", "degraded"),
    [
        ({"mode": "local"}, "local", "policy", False),
        ({"mode": "remote"}, "remote", "policy", False),
        ({"threshold": 0.0}, "local", "confident", False),
        ({"threshold": 1.0}, "remote", "uncertain", False),
        ({"threshold": 1.0, "local_only": True}, "local", "policy", True),
        ({"max_risk": 1.0}, "local", "confident", False),
        ({"max_risk": 0.0}, "remote", "uncertain", False),
        ({"needs": (Need("tools", "tool calls"),)}, "remote", "capability", False),
    ],
)
async def test_policies(
    folder: Path, options: dict[str, Any], route: str, reason: str, degraded: bool
) -> None:
    async with pipeline(SURE, folder, answer(completion())) as made:
        decision = (await made.answer(query(**options))).decision
    assert (decision.route, decision.reason, decision.degraded) == (route, reason, degraded)


async def test_a_sampler_of_the_callers_own_is_told(folder: Path) -> None:
    async with pipeline(SURE, folder) as made:
        greedy = await made.answer(query())
        warm = await made.answer(query(sampler=Sampler(temperature=0.7)))
        few = await made.answer(query(estimators=("margin",)))
    assert greedy.decision.calibrated_sampler
    assert not warm.decision.calibrated_sampler
    assert set(few.decision.uncertainty) == {"margin"}
    assert "perplexity" in greedy.decision.uncertainty


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PromptTooLong(900, 512), "capability"),
        (TemplateRefused("roles must alternate"), "capability"),
        (EngineBusy(9, 2.0), "busy"),
        (EngineDown("gone"), "busy"),
    ],
)
async def test_what_the_engine_can_not_take_goes_remote_or_is_told(
    folder: Path, error: Exception, reason: str
) -> None:
    async with pipeline(error, folder, answer(completion())) as made:
        given = await made.answer(query())
        assert (given.decision.route, given.decision.reason) == ("remote", reason)
        assert given.usage_local is None
        decided = await made.route(query())
        assert (decided.text, decided.decision.reason) == ("", reason)
        with pytest.raises(type(error)):
            await made.answer(query(local_only=True))
    async with pipeline(error, folder) as alone:
        with pytest.raises(type(error)):
            await alone.answer(query())


async def test_a_need_that_nobody_can_meet_is_named(folder: Path) -> None:
    need = Need("tools", "tool calls")
    async with pipeline(SURE, folder) as alone:
        with pytest.raises(CapabilityError, match=r"`tools` asks for tool calls.*no upstream"):
            await alone.answer(query(needs=(need,)))
        with pytest.raises(CapabilityError, match="`model` asks for"):
            await alone.answer(query(mode="remote"))
    async with pipeline(SURE, folder, answer(completion())) as made:
        with pytest.raises(CapabilityError, match="local_only"):
            await made.answer(query(needs=(need,), local_only=True))


async def test_a_stream_passes_the_upstreams_chunks_on(folder: Path) -> None:
    step = streamed(chunk("Pa"), chunk("ris"), chunk(finish="length"), event(USAGE_CHUNK), DONE)
    async with pipeline(UNSURE, folder, step) as made:
        first, *rest, last = await events_of(made, query())
    assert isinstance(first, Decision)
    assert first.reason == "uncertain"
    assert len(rest) == 3
    assert all(isinstance(event, RemoteChunk) for event in rest)
    assert isinstance(last, Answer)
    assert (last.text, last.finish_reason) == ("Paris", "length")
    assert last.usage_remote is not None
    assert last.usage_remote.completion_tokens == 3


async def test_a_stream_cut_after_its_first_chunk_is_an_error_not_an_answer(folder: Path) -> None:
    async with pipeline(UNSURE, folder, streamed(chunk("Pa"))) as made:
        parts = made.stream(query())
        assert isinstance(await anext(parts), Decision)
        assert isinstance(await anext(parts), RemoteChunk)
        with pytest.raises(UpstreamUnavailable):
            await anext(parts)


async def test_an_empty_stream_falls_back_on_the_local_answer(folder: Path) -> None:
    async with pipeline(UNSURE, folder, streamed(DONE)) as made:
        events = await events_of(made, query())
        with pytest.raises(UpstreamUnavailable):
            await events_of(made, query(mode="remote"))
    assert isinstance(events[0], Decision)
    assert events[0].reason == "upstream_down"


async def test_the_decision_alone_asks_nobody(folder: Path) -> None:
    async with pipeline(UNSURE, folder, answer(completion())) as made:
        given = await made.route(query())
    assert given.decision.route == "remote"
    assert given.text == "London"
    assert given.cost_usd == 0


class PieceByPiece(FakeEngine):
    """Says its answer in two pieces, the second one only when it is asked for."""

    def __init__(self, reply: Any) -> None:
        super().__init__(reply)
        self.said: list[str] = []
        self.ended = False

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        completion = await self.generate(request)
        middle = len(completion.trace.text) // 2
        try:
            for piece in (completion.trace.text[:middle], completion.trace.text[middle:]):
                self.said.append(piece)
                yield TextDelta(piece)
            yield completion
        finally:
            self.ended = True


async def test_where_nothing_is_to_be_decided_the_text_comes_as_it_is_made(folder: Path) -> None:
    engine = PieceByPiece(SURE)
    async with pipeline(engine, folder) as made:
        parts = made.stream(query(mode="local"))
        decision = await anext(parts)
        assert isinstance(decision, Decision)
        assert (decision.route, decision.reason, decision.p_correct) == ("local", "policy", None)
        assert isinstance(await anext(parts), TextDelta)
        assert len(engine.said) == 1
        *_, last = [part async for part in parts]
    assert engine.asked[0].stream
    assert isinstance(last, Answer)
    assert last.text == "".join(engine.said)
    assert last.decision.p_correct is not None


async def test_a_stream_that_is_left_leaves_the_engine_too(folder: Path) -> None:
    engine = PieceByPiece(SURE)
    async with pipeline(engine, folder) as made:
        parts = made.stream(query(mode="local"))
        await anext(parts)
        await anext(parts)
        await parts.aclose()
        assert engine.ended


async def test_an_engine_that_fails_before_the_first_piece_fails_the_request(folder: Path) -> None:
    async with pipeline(EngineDown("gone"), folder) as made:
        with pytest.raises(EngineDown):
            await events_of(made, query(mode="local"))


async def test_the_engine_knows_who_asks(folder: Path) -> None:
    engine = FakeEngine(SURE)
    async with pipeline(engine, folder) as made:
        await made.answer(query(tenant="mine"))
    assert engine.asked[0].tenant == "mine"
