"""A streamed answer of an upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any

from router.answer import Usage
from router.prices import FREE, Prices


class RemoteStream(AsyncGenerator[dict[str, Any], None]):
    """An answer's chunks as they come, in OpenAI's shape.

    `upstream` is the name of who answers, `prices` are theirs; both are known once the first chunk
    has come.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        upstream: str = "",
        prices: Prices = FREE,
    ) -> None:
        self.upstream = upstream
        self.prices = prices
        self._chunks = chunks

    def is_of(self, other: RemoteStream) -> None:
        """The chunks are those of `other`."""
        self.upstream, self.prices = other.upstream, other.prices

    def cost(self, usage: Usage) -> float | None:
        """USD that `usage` costs; None when the prices are not set."""
        return self.prices.cost(usage) if self.prices.known else None

    async def asend(self, value: None) -> dict[str, Any]:
        return await self._chunks.asend(value)

    async def athrow(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> dict[str, Any]:
        return await self._chunks.athrow(typ, val, tb)

    async def aclose(self) -> None:
        await self._chunks.aclose()
