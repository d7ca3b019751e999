"""An upstream client that asks a server which does what a test tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from router.remote import (
    Timeouts,
    Upstream,
)
from tests.router.fake_upstream import (
    Server,
    Step,
    scripted,
)

KEY = "sk-very-secret-0123456789"
BODY = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}


@asynccontextmanager
async def upstream(
    *steps: Step,
    model: str = "",
    key: str | None = KEY,
    retries: int = 2,
    read: float = 5.0,
    total: float = 10.0,
    key_env: str = "LLM_KEY",
) -> AsyncIterator[tuple[Upstream, Server]]:
    async with (
        scripted(*steps) as server,
        Upstream(
            server.url,
            model,
            key,
            timeouts=Timeouts(connect=2.0, read=read, total=total),
            retries=retries,
            key_env=key_env,
            backoff=0.001,
        ) as client,
    ):
        yield client, server


async def collect(client: Upstream, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    async with aclosing(client.stream(BODY if body is None else body)) as chunks:
        return [item async for item in chunks]
