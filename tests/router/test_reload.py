"""A running pipeline takes another calibration over; queries under way keep the one they had."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from calibration.artifact import FILE_NAME, Calibration
from calibration.errors import ArtifactError, ArtifactMismatch
from calibration.learned import Learned
from calibration.probes import ProbeInput
from calibration.versions import rollback
from router.answer import Answer, Decision
from router.binding import binding_of
from router.engine.messages import Completion, GenerateRequest
from router.pipeline import Pipeline
from router.reload import Reloaded
from tests.router.calibrations import EARLY_STOP, GATE, INFO, PROBES, calibration
from tests.router.fake_upstream import answer, completion
from tests.router.samples import trace
from tests.router.test_pipeline import FakeEngine, events_of, pipeline, query

SURE = trace(("Pa", 0.999), ("ris", 0.999))
STRICT = dataclasses.replace(
    calibration(), operating_point=dataclasses.replace(calibration().operating_point, threshold=1.0)
)
"""Keeps nothing that `calibration()` keeps of what is short of certain."""

EXITS = calibration(
    learned=Learned({"p_ik": PROBES["p_ik"]}), gate=GATE, early_stop=EARLY_STOP, seed=1
)


class Engine(FakeEngine):
    """Reads `calibrations.LAYERS`; holds its answers back while `gate` is shut."""

    info = INFO

    def __init__(self, reply: Any = SURE) -> None:
        super().__init__(reply)
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> Completion:
        self.began.set()
        await self.gate.wait()
        return await super().generate(request)


async def test_another_calibration_decides_from_the_next_query_on(tmp_path: Path) -> None:
    old, new = calibration(), STRICT
    old.save(tmp_path)
    async with pipeline(Engine(), tmp_path, answer(completion()), answer(completion())) as made:
        assert (await made.answer(query())).decision.route == "local"
        new.save(tmp_path)
        told = await made.reload()
        decision = (await made.answer(query())).decision
    assert told == Reloaded(old.id, new.id, (), ("threshold: 0.500 -> 1.000",))
    assert told.changed
    assert (decision.route, decision.threshold, decision.calibration) == ("remote", 1.0, new.id)
    assert made.calibration is not None
    assert made.calibration.id == new.id


async def test_the_same_calibration_again_changes_nothing(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path) as made:
        before = made.calibration
        told = await made.reload()
        assert not told.changed
        assert told.differences == ()
        assert made.calibration is before


async def test_a_rollback_is_taken_over_too(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    STRICT.save(tmp_path)
    async with pipeline(Engine(), tmp_path) as made:
        rollback(tmp_path)
        told = await made.reload()
    assert (told.old_id, told.new_id) == (STRICT.id, calibration().id)


async def test_another_folder_is_read_this_once(tmp_path: Path) -> None:
    calibration().save(tmp_path / "one")
    STRICT.save(tmp_path / "two")
    async with pipeline(Engine(), tmp_path / "one") as made:
        assert (await made.reload(str(tmp_path / "two"))).new_id == STRICT.id
        assert (await made.reload()).new_id == calibration().id


async def test_warnings_are_those_of_the_new_one(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    other = dataclasses.replace(binding_of(INFO), engine_build="another build")
    async with pipeline(Engine(), tmp_path) as made:
        assert made.warnings == []
        calibration(binding=other).save(tmp_path)
        told = await made.reload()
        assert "engine_build" in told.warnings[0]
        assert made.warnings == list(told.warnings)


async def test_without_any_calibration_there_is_none_to_change() -> None:
    async with pipeline(Engine(), None) as made:
        told = await made.reload()
    assert told == Reloaded(None, None, tuple(made.warnings), ())
    assert "no calibration ships for this model" in told.warnings[0]


async def test_one_where_there_was_none(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), None) as made:
        assert (await made.answer(query(mode="local"))).decision.calibration is None
        told = await made.reload(str(tmp_path))
        assert told.differences == ("a calibration: none before",)
        assert (await made.answer(query())).decision.calibration == calibration().id
        assert (await made.reload()).differences == ("a calibration: none any more",)


def broken(folder: Path) -> str:
    (folder / FILE_NAME).write_text("{")
    return r"calibration\.json is not valid JSON"


def gone(folder: Path) -> str:
    (folder / FILE_NAME).unlink()
    return "there is no calibration at"


def foreign(folder: Path) -> str:
    binding = dataclasses.replace(binding_of(INFO), model_sha256="00" * 32)
    calibration(binding=binding).save(folder)
    return "not made for what is loaded: model_sha256"


def of_other_layers(folder: Path) -> str:
    probe = dataclasses.replace(PROBES["p_ik"], input=ProbeInput("prompt_end", (2, 5)))
    calibration("p_ik", learned=Learned({"p_ik": probe})).save(folder)
    return r"layers \[5\] are needed.* reads those of \[1, 2\], which only a restart could change"


@pytest.mark.parametrize("spoil", [broken, gone, foreign, of_other_layers])
async def test_one_that_can_not_be_used_leaves_the_old_one_in_use(
    spoil: Any, tmp_path: Path
) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path) as made:
        message = spoil(tmp_path)
        with pytest.raises(ArtifactError, match=message) as failed:
            await made.reload()
        assert isinstance(failed.value, ArtifactMismatch) == (spoil in (foreign, of_other_layers))
        assert made.calibration is not None
        assert made.calibration.id == calibration().id
        assert (await made.answer(query())).decision.calibration == calibration().id


async def while_reloading(made: Pipeline, folder: Path, asked: Any) -> Any:
    """What a query gives that began before another calibration was taken over."""
    engine = made.engine
    assert isinstance(engine, Engine)
    engine.gate.clear()
    task = asyncio.create_task(asked)
    await engine.began.wait()
    STRICT.save(folder)
    assert (await made.reload()).changed
    engine.gate.set()
    return await task


async def test_a_query_under_way_finishes_by_the_one_it_began_with(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path, answer(completion())) as made:
        given = await while_reloading(made, tmp_path, made.answer(query()))
        later = (await made.answer(query())).decision
    decision = given.decision
    assert (decision.route, decision.threshold) == ("local", 0.5)
    assert decision.calibration == calibration().id
    assert later.calibration == STRICT.id


async def test_a_stream_and_a_route_under_way_do_too(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path, answer(completion())) as made:
        decision, *_, last = await while_reloading(made, tmp_path, events_of(made, query()))
    assert isinstance(decision, Decision)
    assert isinstance(last, Answer)
    assert decision.calibration == last.decision.calibration == calibration().id
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path) as made:
        given = await while_reloading(made, tmp_path, made.route(query()))
    assert given.decision.calibration == calibration().id


async def test_an_answer_made_whole_after_a_reload_keeps_its_judge(tmp_path: Path) -> None:
    """The engine gives up, the calibration changes, the upstream fails: one calibration decides."""
    EXITS.save(tmp_path)
    given_up = dataclasses.replace(SURE, finish_reason="stopped")

    class GivesUpOnce(Engine):
        async def generate(self, request: GenerateRequest) -> Completion:
            made_now = await super().generate(request)
            return dataclasses.replace(made_now, trace=given_up) if request.exits else made_now

    async with pipeline(GivesUpOnce(), tmp_path, answer({}, status=503)) as made:
        given = await while_reloading(made, tmp_path, made.answer(query()))
    assert given.decision.reason == "upstream_down"
    assert given.decision.calibration == EXITS.id


async def test_reloads_at_the_same_time_take_turns(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    async with pipeline(Engine(), tmp_path) as made:
        STRICT.save(tmp_path)
        told = await asyncio.gather(*(made.reload() for _ in range(3)))
    assert [one.changed for one in told] == [True, False, False]


async def test_what_is_in_use_and_what_decides_never_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error between loading and swapping leaves both as they were."""
    calibration().save(tmp_path)

    def fails(*_: Calibration, **__: Mapping[str, Any]) -> Reloaded:
        raise ArtifactError("it can't be compared")

    async with pipeline(Engine(), tmp_path) as made:
        STRICT.save(tmp_path)
        monkeypatch.setattr("router.pipeline.reloaded", fails)
        with pytest.raises(ArtifactError, match="can't be compared"):
            await made.reload()
        assert made.calibration is not None
        decision = (await made.answer(query())).decision
        assert decision.calibration == made.calibration.id == calibration().id
