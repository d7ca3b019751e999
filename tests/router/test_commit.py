"""Stream mode `commit`: decided after the first tokens, and never switched once a byte is out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from router.answer import Answer, Decision, Query, RemoteChunk, StreamEvent
from router.config import Settings
from router.engine.messages import (
    Completion,
    EngineTimings,
    GenerateRequest,
    Look,
    Partial,
    StreamPart,
    TextDelta,
)
from router.errors import EngineBusy, EngineDown, EngineError, PromptTooLong, UpstreamUnavailable
from router.pipeline import build_pipeline
from tests.router.fake_upstream import DONE, chunk, hang_up, streamed
from tests.router.samples import trace
from tests.router.test_pipeline import FakeEngine, events_of, folder, pipeline, query
from uq import Trace

__all__ = ["folder"]

SURE, MORE_SURE = trace(("Pa", 0.999)), trace(("Pa", 0.999), ("ris", 0.999), (".", 0.99))
UNSURE, NOT_SURE_AFTER_ALL = trace(("Lo", 0.02)), trace(("Pa", 0.999), ("ris", 0.001), (".", 0.01))
REMOTE = streamed(chunk("Paris, of course."), chunk(finish="stop"), DONE)


def done(seen: Trace) -> Completion:
    return Completion(seen, EngineTimings(1, 2, 3, 4))


class Scripted(FakeEngine):
    """Streams the parts it was given; an error among them is raised."""

    def __init__(self, *parts: StreamPart | EngineError, whole: Trace = MORE_SURE) -> None:
        super().__init__(whole)
        self.parts: Sequence[StreamPart | EngineError] = parts
        self.closed = False

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        self.asked.append(request)
        try:
            for part in self.parts:
                if isinstance(part, EngineError):
                    raise part
                yield part
        finally:
            self.closed = True


def early(**options: Any) -> Query:
    return query(stream_mode="commit", **options)


def text_of(events: list[StreamEvent]) -> str:
    return "".join(each.text for each in events if isinstance(each, TextDelta))


def ends(events: list[StreamEvent]) -> tuple[Decision, Answer]:
    """The one decision, which comes first, and the answer, which comes last."""
    first, last = events[0], events[-1]
    assert isinstance(first, Decision)
    assert isinstance(last, Answer)
    assert sum(isinstance(each, Decision) for each in events) == 1
    return first, last


async def test_it_is_sent_as_it_is_made_once_its_beginning_is_sure(folder: Path) -> None:
    engine = Scripted(TextDelta("Pa"), Partial(done(SURE)), TextDelta("ris."), done(MORE_SURE))
    async with pipeline(engine, folder, REMOTE) as made:
        stream = made.stream(early())
        seen = [await anext(stream) for _ in range(2)]
        assert not engine.closed, "it goes on while its beginning is shown"
        seen += [each async for each in stream]
    first, last = ends(seen)
    assert (first.route, first.reason, first.degraded) == ("local", "confident", False)
    assert (last.decision.route, last.decision.degraded) == ("local", False)
    assert text_of(seen) == last.text == "Paris."
    assert engine.asked[0].look is not None


async def test_what_is_not_sure_goes_to_the_upstream_before_a_byte_is_out(folder: Path) -> None:
    engine = Scripted(TextDelta("Lo"), Partial(done(UNSURE)), TextDelta("ndon"), done(UNSURE))
    async with pipeline(engine, folder, REMOTE) as made:
        seen = await events_of(made, early())
    first, last = ends(seen)
    assert (first.route, first.reason) == ("remote", "stopped")
    assert engine.closed
    assert not text_of(seen)
    assert any(isinstance(each, RemoteChunk) for each in seen)
    assert last.usage_local is not None
    assert last.usage_local.completion_tokens == 1


async def test_an_answer_that_turns_out_unsure_says_so_and_is_not_switched(folder: Path) -> None:
    engine = Scripted(
        TextDelta("Pa"), Partial(done(SURE)), TextDelta("ris."), done(NOT_SURE_AFTER_ALL)
    )
    async with pipeline(engine, folder, REMOTE) as made:
        seen = await events_of(made, early())
    first, last = ends(seen)
    assert first.route == last.decision.route == "local"
    assert (last.decision.reason, last.decision.degraded) == ("uncertain", True)
    assert last.decision.p_correct is not None
    assert last.decision.threshold is not None
    assert last.decision.p_correct < last.decision.threshold
    assert text_of(seen) == "Paris."
    assert not any(isinstance(each, RemoteChunk) for each in seen)


@pytest.mark.parametrize(("whole", "route"), [(SURE, "local"), (UNSURE, "remote")])
async def test_a_short_answer_is_judged_whole(folder: Path, whole: Trace, route: str) -> None:
    engine = Scripted(TextDelta(whole.text), done(whole))
    async with pipeline(engine, folder, REMOTE) as made:
        seen = await events_of(made, early())
    first, last = ends(seen)
    assert first.route == last.decision.route == route
    assert not last.decision.degraded


async def test_nothing_is_certified(folder: Path) -> None:
    engine = Scripted(TextDelta("Pa"), Partial(done(SURE)), TextDelta("ris."), done(MORE_SURE))
    async with pipeline(engine, folder, REMOTE) as made:
        first, last = ends(await events_of(made, early()))
    assert first.certificate is None
    assert last.decision.certificate is None


async def test_the_whole_local_answer_stands_in_for_a_dead_upstream(folder: Path) -> None:
    engine = Scripted(TextDelta("Lo"), Partial(done(UNSURE)), whole=UNSURE)
    async with pipeline(engine, folder, hang_up) as made:
        seen = await events_of(made, early())
    first, last = ends(seen)
    assert (first.route, first.reason, first.degraded) == ("local", "upstream_down", True)
    assert text_of(seen) == last.text == "Lo"


async def test_without_an_upstream_an_unsure_answer_is_sent_and_says_so(folder: Path) -> None:
    engine = Scripted(TextDelta("Lo"), Partial(done(UNSURE)), TextDelta("ndon"), done(UNSURE))
    async with pipeline(engine, folder) as made:
        seen = await events_of(made, early())
    first, last = ends(seen)
    assert (first.reason, first.degraded) == ("no_upstream", True)
    assert (last.decision.reason, last.decision.degraded) == ("no_upstream", True)
    assert text_of(seen) == "London"


async def test_what_must_not_leave_is_sent_at_its_first_look(folder: Path) -> None:
    engine = Scripted(TextDelta("Lo"), Partial(done(UNSURE)), TextDelta("ndon"), done(UNSURE))
    async with pipeline(engine, folder, REMOTE) as made:
        seen = await events_of(made, early(local_only=True))
    first, last = ends(seen)
    assert first.route == "local"
    assert last.decision.degraded
    assert text_of(seen) == "London"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(PromptTooLong(9, 8), "capability"), (EngineBusy(4, 1.0), "busy"), (EngineDown("x"), "busy")],
)
async def test_an_engine_that_fails_before_a_byte_is_out_escalates(
    folder: Path, error: EngineError, reason: str
) -> None:
    async with pipeline(Scripted(TextDelta("Pa"), error), folder, REMOTE) as made:
        first, _ = ends(await events_of(made, early()))
    assert (first.route, first.reason) == ("remote", reason)


async def test_an_engine_that_fails_later_cuts_the_answer(folder: Path) -> None:
    engine = Scripted(TextDelta("Pa"), Partial(done(SURE)), EngineDown("it died"))
    seen: list[StreamEvent] = []
    async with pipeline(engine, folder, REMOTE) as made:
        stream = made.stream(early())
        seen += [await anext(stream) for _ in range(2)]
        with pytest.raises(EngineDown, match="it died"):
            await anext(stream)
    assert text_of(seen) == "Pa"


async def test_an_upstream_that_fails_later_cuts_the_answer(folder: Path) -> None:
    engine = Scripted(TextDelta("Lo"), Partial(done(UNSURE)))
    cut = streamed(chunk("Paris"))
    async with pipeline(engine, folder, cut) as made:
        with pytest.raises(UpstreamUnavailable):
            await events_of(made, early())


async def test_without_a_calibration_it_holds() -> None:
    engine = Scripted(TextDelta("Pa"), Partial(done(SURE)), done(MORE_SURE))
    async with pipeline(engine, None) as made:
        first, _ = ends(await events_of(made, early()))
    assert first.reason == "no_upstream"
    assert engine.asked[0].look is None


async def test_going_away_stops_the_engine(folder: Path) -> None:
    engine = Scripted(TextDelta("Pa"), Partial(done(SURE)), TextDelta("ris"), done(MORE_SURE))
    async with pipeline(engine, folder, REMOTE) as made:
        stream = made.stream(early())
        await anext(stream)
        await stream.aclose()
        assert engine.closed


async def test_settings_say_when(folder: Path) -> None:
    engine = Scripted(TextDelta("Paris."), done(MORE_SURE))
    settings = Settings(calibration=str(folder), commit_tokens=7, commit_ms=250)
    made = build_pipeline(settings, engine=engine)
    await made.start()
    await events_of(made, early())
    await made.close()
    assert engine.asked[0].look == Look(tokens=7, seconds=0.25)
