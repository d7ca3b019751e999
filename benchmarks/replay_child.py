"""An engine process that computes an answer once, and gives it to all who ask for its like.

Started in place of `router.engine.child` by `benchmarks.replay_gateway`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator

from router.engine import child
from router.engine.local import LocalEngine
from router.engine.messages import Completion, EngineConfig, GenerateRequest, StreamPart


class ReplayEngine(LocalEngine):
    """Answers as the first request did that was the same but for its messages."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._known: list[tuple[GenerateRequest, Completion]] = []

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        kind = dataclasses.replace(request, messages=())
        for known, completion in self._known:
            if known == kind:
                yield completion
                return
        async for event in super().stream(request):
            if isinstance(event, Completion):
                self._known.append((kind, event))
            yield event


if __name__ == "__main__":
    child.main(ReplayEngine)
