"""What engines that answer by a script have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from router.engine.messages import (
    Completion,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    Message,
    StreamPart,
)
from tests.router.samples import engine_info


class SimpleEngine(ABC):
    """An engine that is there until it is closed, idle, and streams all it generates at once."""

    info: EngineInfo = engine_info(Path("tiny.gguf"))
    alive: bool = True
    trouble: str = ""

    async def start(self) -> None:
        self.alive = True

    async def close(self) -> None:
        self.alive = False

    @abstractmethod
    async def generate(self, request: GenerateRequest) -> Completion: ...

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        yield await self.generate(request)

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return len(messages)

    async def stats(self) -> EngineStats:
        return EngineStats(0, 0, 1, 0, 0)
