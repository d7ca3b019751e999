"""Token bytes -> text that is safe to show, piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class AnswerText:
    """Assembles an answer from its tokens' bytes.

    Whole characters only: bytes of a character that later tokens complete are held back. Text that
    may turn out to be the beginning of a stop string is held back too, so no part of a stop string
    ever leaves; the earliest stop string in the text ends the answer.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(s for s in stop if s)
        self._text = ""
        self._shown = 0
        self._searched = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The whole answer so far, stop string excluded, held-back text included."""
        return self._text

    def push(self, piece: bytes) -> tuple[int, str]:
        """Add a token's bytes.

        Returns the index in `text` at which the token's own text begins, and the text that became
        safe to show. After `stopped` is true nothing may be pushed any more.
        """
        offset = len(self._text)
        self._text += self._decoder.decode(piece)
        self._find_stop()
        end = len(self._text) if self.stopped else len(self._text) - self._held_back()
        shown = self._text[self._shown : end]
        self._shown = max(end, self._shown)
        return offset, shown

    def finish(self) -> str:
        """End the answer; returns what was still held back. An unfinished character is dropped."""
        rest = self._text[self._shown :]
        self._shown = len(self._text)
        return rest

    def _find_stop(self) -> None:
        if not self._stop:
            return
        longest = max(map(len, self._stop))
        start = max(0, self._searched - longest + 1)
        found = [at for s in self._stop if (at := self._text.find(s, start)) >= 0]
        self._searched = len(self._text)
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        held = 0
        for s in self._stop:
            for n in range(min(len(s) - 1, len(self._text)), held, -1):
                if self._text.endswith(s[:n]):
                    held = n
                    break
        return held
