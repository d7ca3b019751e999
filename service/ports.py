"""What the gateway needs of the parts below it: `router.pipeline.Pipeline`, or a scripted one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from router.answer import Answer, Query, StreamEvent
from router.budget import Budgets
from router.engine.messages import EngineInfo, EngineStats
from router.live import Live
from router.reload import Reloaded


class EnginePort(Protocol):
    """The part of the local engine that the gateway looks at; only the pipeline makes it work."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def alive(self) -> bool: ...

    @property
    def trouble(self) -> str: ...

    async def stats(self) -> EngineStats: ...


class CalibrationPort(Protocol):
    """The loaded calibration: its content hash and what to tell people about it."""

    @property
    def id(self) -> str: ...

    def summary(self) -> Mapping[str, Any]: ...


class PipelinePort(Protocol):
    """One query in, one answer out.

    `answer` routes and may escalate. `route` gives the local answer and the decision it leads to,
    and never escalates. `stream` gives one Decision, then TextDeltas or RemoteChunks, then the
    Answer. These raise `router.errors.RouterError`. Cancelling the awaiting task, or closing the
    iterator, stops the work.

    `reload` takes over the calibration that is in its folder now, for queries that begin later; it
    raises `calibration.errors.ArtifactError` and goes on with the old one when that can't be used.
    `live` follows what queries make of a calibration; None where nothing does. `budgets` holds the
    limits on money; None where nothing costs any.
    """

    @property
    def engine(self) -> EnginePort: ...

    @property
    def calibration(self) -> CalibrationPort | None: ...

    @property
    def upstream(self) -> object | None: ...

    @property
    def live(self) -> Live | None: ...

    @property
    def budgets(self) -> Budgets | None: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def reload(self) -> Reloaded: ...

    async def answer(self, query: Query) -> Answer: ...

    async def route(self, query: Query) -> Answer: ...

    def stream(self, query: Query) -> AsyncIterator[StreamEvent]: ...
