"""What the pipeline spends on an answer: signals gathered, doubts settled, answers given up."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from calibration.artifact import Calibration
from calibration.learned import Learned
from router.answer import Answer, Decision, RemoteChunk
from router.engine.messages import (
    Completion,
    EngineTimings,
    GenerateRequest,
    Sampler,
    SampleRequest,
    ScoreRequest,
    Scores,
    TextDelta,
)
from router.errors import (
    EngineBusy,
    EngineDown,
    PromptTooLong,
    TemplateRefused,
    UpstreamRejected,
    UpstreamUnavailable,
)
from service.keys import worth_keeping
from tests.router.calibrations import (
    BAND,
    EARLY_STOP,
    GATE,
    INFO,
    PROBES,
    calibration,
    stack,
    states,
)
from tests.router.fake_upstream import DONE, answer, chunk, completion, streamed
from tests.router.samples import trace
from tests.router.test_pipeline import FakeEngine, events_of, pipeline, query
from uq import Trace

SURE = trace(("Pa", 0.9), ("ris", 0.9))
DOUBTED = trace(("Pa", 0.5), ("ris", 0.2))
UNSURE = trace(("Lo", 0.02), ("ndon", 0.03))
GATED = dataclasses.replace(trace(), finish_reason="gated", hidden=states(9.0))
STOPPED = dataclasses.replace(trace(("Lo", 0.02)), finish_reason="stopped")

EXITS: dict[str, Any] = {"learned": Learned(PROBES), "gate": GATE, "early_stop": EARLY_STOP}
DOWN = answer({}, 500)


class Engine(FakeEngine):
    """Replies `reply`, or `given_up` where that is allowed; `p_true` is what it makes of both."""

    info = INFO

    def __init__(self, reply: Any, *, given_up: Trace | None = None, p_true: Any = 0.9) -> None:
        super().__init__(reply)
        self.given_up = given_up
        self.p_true = p_true
        self.scored: list[ScoreRequest] = []
        self.sampled: list[SampleRequest] = []

    async def generate(self, request: GenerateRequest) -> Completion:
        if request.exits is None or self.given_up is None:
            return await super().generate(request)
        self.asked.append(request)
        return Completion(self.given_up, EngineTimings(1, 2, 3, 4))

    async def score(self, request: ScoreRequest) -> Scores:
        self.scored.append(request)
        if isinstance(self.p_true, Exception):
            raise self.p_true
        return Scores(((math.log(self.p_true),), (math.log(1 - self.p_true),)))

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        self.sampled.append(request)
        return tuple(Completion(SURE, EngineTimings()) for _ in range(request.n))


def saved(made: Calibration, folder: Path) -> Path:
    made.save(folder)
    return folder


@pytest.fixture
def exiting(tmp_path: Path) -> Path:
    return saved(calibration(**EXITS), tmp_path)


@pytest.fixture
def banded(tmp_path: Path) -> Path:
    return saved(calibration("p_true", band=BAND), tmp_path)


class TestGathering:
    async def test_what_the_calibration_reads_is_gathered_for_every_answer(
        self, tmp_path: Path
    ) -> None:
        engine = Engine(SURE, p_true=0.2)
        async with pipeline(engine, saved(calibration("p_true"), tmp_path)) as made:
            given = await made.route(query())
            await made.answer(query(mode="local"))
        assert len(engine.scored) == 2
        assert engine.scored[0].continuations == ("True", "False")
        assert engine.scored[0].messages[1].content == "Paris"
        assert given.decision.route == "remote"
        assert given.decision.uncertainty["p_true"] == pytest.approx(0.8)
        assert given.timings_ms["uq"] > 4  # the engine's own, and the follow-up

    async def test_what_the_query_asks_for_is_gathered_too(self, banded: Path) -> None:
        engine = Engine(SURE)
        async with pipeline(engine, banded) as made:
            asked = query(estimators=("vote_share", "p_true"))
            given = await made.answer(asked)
            plain = await made.answer(query())
        assert given.decision.uncertainty == {
            "vote_share": 0.0,
            "p_true": pytest.approx(0.1),
        }
        assert len(engine.sampled) == len(engine.scored) == 1
        assert "p_true" not in plain.decision.uncertainty

    async def test_the_engine_keeps_states_only_where_a_score_reads_them(
        self, tmp_path: Path, banded: Path
    ) -> None:
        reads = calibration(
            "stack", learned=Learned(PROBES, {"stack": stack("answer_probe", "perplexity")})
        )
        engine = Engine(dataclasses.replace(SURE, hidden=states(0.0, -3.0)))
        async with pipeline(engine, saved(reads, tmp_path / "stack")) as made:
            given = await made.answer(query())
        assert engine.asked[0].hidden
        assert given.decision.reason == "confident"
        assert {"stack", "answer_probe"} <= set(given.decision.uncertainty)
        engine = Engine(SURE)
        async with pipeline(engine, banded) as made:
            await made.answer(query())
        assert not engine.asked[0].hidden

    @pytest.mark.parametrize(
        ("seen", "p_true", "reason", "n_scored"),
        [
            (SURE, 0.1, "confident", 0),
            (UNSURE, 0.9, "uncertain", 0),
            (DOUBTED, 0.9, "confident", 1),
            (DOUBTED, 0.1, "uncertain", 1),
        ],
    )
    async def test_a_costly_signal_is_gathered_only_inside_the_band(
        self, banded: Path, seen: Trace, p_true: float, reason: str, n_scored: int
    ) -> None:
        engine = Engine(seen, p_true=p_true)
        async with pipeline(engine, banded, answer(completion())) as made:
            decision = (await made.answer(query())).decision
        assert decision.reason == reason
        assert len(engine.scored) == n_scored

    @pytest.mark.parametrize(
        "error",
        [
            EngineBusy(9, 2.0),
            EngineDown("gone"),
            TemplateRefused("roles must alternate"),
            PromptTooLong(900, 512),
        ],
    )
    async def test_a_signal_that_can_not_be_had_is_unknown_and_escalates(
        self, banded: Path, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = Engine(DOUBTED, p_true=error)
        with caplog.at_level(logging.WARNING, "router.device"):
            async with pipeline(engine, banded, answer(completion("Paris, surely"))) as made:
                given = await made.answer(query())
                private = await made.answer(query(local_only=True))
        assert (given.text, given.decision.reason) == ("Paris, surely", "uncertain")
        assert given.decision.p_correct is None
        assert (private.text, private.decision.degraded) == ("Paris", True)
        assert ("could not be gathered" in caplog.text) != isinstance(error, PromptTooLong)

    async def test_samples_are_drawn_whole_where_the_answer_might_be_given_up(
        self, exiting: Path
    ) -> None:
        engine = Engine(SURE)
        async with pipeline(engine, exiting, answer(completion())) as made:
            await made.answer(query(estimators=("vote_share",)))
        assert engine.asked[0].exits is not None
        assert engine.sampled[0].request.exits is None


@pytest.mark.parametrize("given_up", [GATED, STOPPED], ids=["gated", "stopped"])
class TestGivingUp:
    async def test_the_upstream_answers_instead(self, exiting: Path, given_up: Trace) -> None:
        engine = Engine(SURE, given_up=given_up)
        async with pipeline(engine, exiting, answer(completion("Paris, surely"))) as made:
            given = await made.answer(query())
        assert (given.text, given.finish_reason) == ("Paris, surely", "stop")
        assert (given.decision.route, given.decision.reason) == ("remote", given_up.finish_reason)
        assert (given.decision.p_correct, given.decision.degraded) == (None, False)
        assert given.usage_local is not None
        assert given.usage_local.completion_tokens == len(given_up)
        assert given.timings_ms["uq"] == 4
        assert len(engine.asked) == 1
        assert worth_keeping(given)

    async def test_the_upstreams_stream_is_passed_on(self, exiting: Path, given_up: Trace) -> None:
        step = streamed(chunk("Par"), chunk("is"), chunk(finish="stop"), DONE)
        async with pipeline(Engine(SURE, given_up=given_up), exiting, step) as made:
            first, *rest, last = await events_of(made, query())
        assert isinstance(first, Decision)
        assert (first.route, first.reason) == ("remote", given_up.finish_reason)
        assert all(isinstance(each, RemoteChunk) for each in rest)
        assert isinstance(last, Answer)
        assert last.text == "Paris"

    async def test_with_the_upstream_down_the_answer_is_made_whole(
        self, exiting: Path, given_up: Trace
    ) -> None:
        engine = Engine(SURE, given_up=given_up)
        async with pipeline(engine, exiting, DOWN) as made:
            given = await made.answer(query())
            events = await events_of(made, query())
        assert [request.exits is None for request in engine.asked] == [False, True] * 2
        first, *pieces, last = events
        assert isinstance(first, Decision)
        assert isinstance(last, Answer)
        assert [each.text for each in pieces if isinstance(each, TextDelta)] == ["Pa", "ris"]
        for each in (given, last):
            assert (each.text, each.finish_reason) == ("Paris", "stop")
            assert not worth_keeping(each)
            assert each.saved_usd == 0
        for decision in (given.decision, first, last.decision):
            assert (decision.route, decision.reason) == ("local", "upstream_down")
            assert decision.degraded
            assert decision.p_correct is not None  # that of the answer that is given

    async def test_with_both_down_the_upstreams_error_is_told(
        self, exiting: Path, given_up: Trace
    ) -> None:
        engine = Engine(EngineBusy(9, 2.0), given_up=given_up)
        async with pipeline(engine, exiting, DOWN) as made:
            with pytest.raises(UpstreamUnavailable):
                await made.answer(query())
            with pytest.raises(UpstreamUnavailable):
                await anext(made.stream(query()))  # before any decision

    async def test_a_request_the_upstream_rejects_is_the_callers_fault(
        self, exiting: Path, given_up: Trace
    ) -> None:
        engine = Engine(SURE, given_up=given_up)
        async with pipeline(engine, exiting, answer({"error": {"message": "no"}}, 400)) as made:
            with pytest.raises(UpstreamRejected):
                await made.answer(query())
        assert len(engine.asked) == 1


class TestNotGivingUp:
    @pytest.mark.parametrize(
        "options",
        [
            {"threshold": 0.5},
            {"max_risk": 0.2},
            {"sampler": Sampler(temperature=0.7)},
            {"local_only": True},
            {"mode": "local"},
        ],
    )
    async def test_under_a_policy_that_exits_were_not_set_for(
        self, exiting: Path, options: Mapping[str, Any]
    ) -> None:
        engine = Engine(UNSURE, given_up=GATED)
        async with pipeline(engine, exiting, answer(completion())) as made:
            await made.answer(query(**options))
        assert [request.exits for request in engine.asked] == [None]

    async def test_where_no_upstream_may_answer_or_only_the_decision_is_asked_for(
        self, exiting: Path
    ) -> None:
        engine = Engine(UNSURE, given_up=GATED)
        async with pipeline(engine, exiting) as alone:
            assert (await alone.answer(query())).text == "London"
            await events_of(alone, query())
        async with pipeline(engine, exiting, answer(completion())) as made:
            assert (await made.route(query())).text == "London"
        assert [request.exits for request in engine.asked] == [None, None, None]

    async def test_a_whole_answer_is_decided_on_as_ever(self, exiting: Path) -> None:
        for seen, reason in ((SURE, "confident"), (UNSURE, "uncertain")):
            engine = Engine(seen)
            async with pipeline(engine, exiting, answer(completion())) as made:
                decision = (await made.answer(query())).decision
            exits = engine.asked[0].exits
            assert exits is not None
            assert exits.gate_above == GATE.above
            assert exits.checkpoints == EARLY_STOP.checkpoints
            assert not engine.asked[0].hidden
            assert decision.reason == reason
