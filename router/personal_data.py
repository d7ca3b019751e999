"""What must not leave the machine because Presidio finds personal data in it.

What it does not get to know, it keeps: a text that is too long, or at which the search fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from router.config import Settings
from router.errors import ConfigError
from router.privacy import texts_of

if TYPE_CHECKING:
    from router.presidio import Analyzer

logger = logging.getLogger(__name__)

MOST = 100_000
"""Characters of a request that are searched; one that has more is kept unsearched."""

WINDOW = 10_000
"""Characters that are searched at once: others get their turn between two windows."""

OVERLAP = 200
"""Characters that two windows share: what is not longer lies within one of them."""

_API = frozenset(
    ("auto", "system", "developer", "user", "assistant", "tool", "function", "text", "image_url")
)
"""Words of the API that a model might take for a part of a sentence, or for a name."""


class PersonalData:
    """Searches requests for personal data, one after another in a thread of its own.

    Made by `open_personal_data`.
    """

    def __init__(self, analyzer: Analyzer, thread: ThreadPoolExecutor) -> None:
        self.language = analyzer.language
        self.entities = analyzer.entities
        self._analyzer = analyzer
        self._thread = thread

    async def match(self, body: Mapping[str, Any]) -> str | None:
        """Return why the request `body` must be kept, such as ``presidio: PERSON``; else None."""
        text = "\n\n".join(text for text in texts_of(body) if text not in _API)
        if len(text) > MOST:
            return f"presidio: more than {MOST} characters, not searched"
        loop = asyncio.get_running_loop()
        try:
            for window in _windows(text):
                found = await loop.run_in_executor(self._thread, self._analyzer.find, window)
                if found is not None:
                    return f"presidio: {found}"
        except Exception as error:  # noqa: BLE001  whatever it is, nobody knows what is in the text
            # Without its message, which may quote the text.
            logger.error("Presidio failed", extra={"error": type(error).__name__})
            return "presidio: search failed"
        return None

    def close(self) -> None:
        """Begin no further search."""
        self._thread.shutdown(wait=False, cancel_futures=True)


async def open_personal_data(settings: Settings) -> PersonalData | None:
    """Load what `settings` ask for, which takes seconds; None when they ask for nothing.

    Raises ConfigError when that is not installed, or can't be used.
    """
    if not settings.presidio_model:
        return None
    entities = [name.strip() for name in settings.presidio_entities.split(",") if name.strip()]
    thread = ThreadPoolExecutor(1, thread_name_prefix="presidio")
    try:
        analyzer = await asyncio.get_running_loop().run_in_executor(
            thread, _load, settings.presidio_model, entities, settings.presidio_score
        )
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return PersonalData(analyzer, thread)


def _load(model: str, entities: list[str], score: float) -> Analyzer:
    try:
        from router.presidio import load_analyzer  # noqa: PLC0415  an extra
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("presidio_analyzer", "spacy", "tldextract")):
            raise
        raise ConfigError(
            "`presidio_model` needs Presidio, which is not installed: "
            "pip install 'seek-stronger[presidio]', or leave `presidio_model` empty"
        ) from None
    return load_analyzer(model, entities, score)


def _windows(text: str) -> Iterator[str]:
    for begin in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        yield text[begin : begin + WINDOW]
