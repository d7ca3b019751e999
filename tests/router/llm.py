"""An LLM whose answer depends on what it is asked, and questions for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from calibration.items import Question
from router.remote import Upstream
from tests.router.fake_upstream import (
    Request,
    Server,
    Step,
    answer,
    asked,
    completion,
    scripted,
)

REJECTION = answer({"error": {"message": "content policy"}}, 400)
DOWN = answer({"error": {"message": "out of order"}}, 500)
BUSY = answer({}, 429)


@asynccontextmanager
async def llm(
    reply: Callable[[str], str | Step], *, model: str = "big", retries: int = 0
) -> AsyncIterator[tuple[Upstream, Server]]:
    """An upstream that answers each prompt with `reply(prompt)`: a text, or all of a response."""
    async with scripted() as server:

        async def step(writer: Any) -> None:
            said = reply(_prompt(asked.get()))
            respond = answer(completion(said)) if isinstance(said, str) else said
            await respond(writer)

        server.steps.append(step)
        async with Upstream(server.url, model, retries=retries, backoff=0.001) as upstream:
            yield upstream, server


def prompts(server: Server) -> list[str]:
    return [_prompt(request) for request in server.requests]


def _prompt(request: Request) -> str:
    prompt: str = request.body["messages"][-1]["content"]
    return prompt


def cut_answer(text: str, finish_reason: str = "length") -> Step:
    body = completion(text)
    body["choices"][0]["finish_reason"] = finish_reason
    return answer(body)


def question(text: str, choices: tuple[str, ...] | None = None, **more: Any) -> Question:
    return Question(id=text, dataset="d", question=text, choices=choices, **more)
