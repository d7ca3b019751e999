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
    SampleRequest,
    ScoreRequest,
    Scores,
    StreamPart,
)


class Engine(Protocol):
    """A local model that answers, in this process (`LocalEngine`) or a child's (`WorkerEngine`).

    `generate`, `stream`, `sample` and `score` raise PromptTooLong, EngineBusy, EngineDown, and
    EngineError when the template refuses the messages or llama.cpp fails. Cancelling the awaiting
    task, or closing the iterator, frees the slot at the next step.
    """

    @property
    def info(self) -> EngineInfo:
        """What is loaded. Raises EngineDown before `start`."""

    @property
    def alive(self) -> bool:
        """Whether requests are taken right now."""

    @property
    def trouble(self) -> str:
        """Why requests are not taken right now, for people; empty where they are."""

    async def start(self) -> None:
        """Load the model. Raises ModelError, EngineError."""

    async def close(self) -> None:
        """Stop; requests in flight end with EngineDown."""

    async def generate(self, request: GenerateRequest) -> Completion:
        """Answer one request."""

    def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamPart, None]:
        """Answer one request piece by piece; the Completion comes last."""

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        """Draw several answers to one prompt, which is read once, and decoded as one batch."""

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely each of some texts is as the beginning of the answer."""

    async def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens the rendered prompt has."""

    async def stats(self) -> EngineStats:
        """The load right now."""
