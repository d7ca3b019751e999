"""The async face of the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from router.engine.messages import (
    Completion,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    Message,
    TextDelta,
)


class Engine(Protocol):
    """A local model that answers, in this process (`LocalEngine`) or a child's (`WorkerEngine`).

    `generate` and `stream` raise PromptTooLong, EngineBusy, EngineDown, and EngineError when the
    template refuses the messages or llama.cpp fails. Cancelling the awaiting task, or closing the
    iterator, frees the slot at the next step.
    """

    @property
    def info(self) -> EngineInfo:
        """What is loaded. Raises EngineDown before `start`."""

    @property
    def alive(self) -> bool:
        """Whether requests are taken right now."""

    async def start(self) -> None:
        """Load the model. Raises ModelError, EngineError."""

    async def close(self) -> None:
        """Stop; requests in flight end with EngineDown."""

    async def generate(self, request: GenerateRequest) -> Completion:
        """Answer one request."""

    def stream(self, request: GenerateRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer one request piece by piece; the Completion comes last."""

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens the rendered prompt has."""

    async def stats(self) -> EngineStats:
        """The load right now."""
