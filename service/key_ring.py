"""The API keys in memory: what is looked up for each request."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging

from router.errors import KeyStoreError
from router.keystore import ApiKey, KeyStore, digest_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the file is looked at: a revoked key works this long, and a moment, at most."""


class KeyRing:
    """The valid keys of `store`, followed while it changes.

    A file that can't be read any more leaves the keys as they were, and is logged. One that is gone
    leaves none; `ever` stays true, so that this lets nobody in.

    Attributes
    ----------
    ever : whether there has ever been a key, be it revoked.
    """

    def __init__(self, store: KeyStore, *, poll: float = POLL_SECONDS) -> None:
        self.ever = False
        self._store = store
        self._poll = poll
        self._valid: dict[bytes, ApiKey] = {}
        self._version: object = None
        self._follower: asyncio.Task[None] | None = None

    def find(self, key: bytes) -> ApiKey | None:
        """Return the entry of a valid key.

        Found by the first part of its digest, which is public as its id; then the whole is compared
        in a time that tells nothing.
        """
        digest = digest_of(key)
        found = self._valid.get(digest[:8])
        return found if found and hmac.compare_digest(found.digest, digest) else None

    async def start(self) -> None:
        """Read the keys, and follow them. Raises KeyStoreError when they can't be read."""
        await asyncio.to_thread(self._read)
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow them no longer."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def _follow(self) -> None:
        broken = False
        while True:
            await asyncio.sleep(self._poll)
            try:
                await asyncio.to_thread(self._read)
            except KeyStoreError as error:
                if not broken:
                    logger.error("API keys stay as they were: %s", error)
                broken = True
            else:
                broken = False

    def _read(self) -> None:
        version = self._store.version()  # before the keys: what changes in between is read again
        if version == self._version:
            return
        keys = self._store.all()
        valid = {key.digest[:8]: key for key in keys if key.revoked is None}
        self.ever = self.ever or bool(keys)
        self._valid, self._version = valid, version
        logger.info("API keys read", extra={"valid": len(valid)})
