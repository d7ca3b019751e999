"""A pause that can be cut short."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Pause:
    """Lets work gather for some `seconds`, unless somebody waits for it to be done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._hurry = asyncio.Event()

    async def wait(self) -> None:
        """Return after the pause, at once while somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._hurry.wait()

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """No pauses inside, those under way included."""
        self._hurry.set()
        try:
            yield
        finally:
            self._hurry.clear()
