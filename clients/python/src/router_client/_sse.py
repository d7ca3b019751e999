"""Server-sent events, bytes to payloads, without I/O.

`httpx.Response.iter_lines` is not used: it splits where `str.splitlines` does, so also at U+0085,
U+2028 and U+2029, which JSON may hold unescaped inside a string. The event stream format (WHATWG
HTML, section 9.2.6) ends a line only with CR LF, LF or CR.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class SSEDecoder:
    """Collects the `data` of each event, however the bytes were cut into chunks."""

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._data: list[str] = []
        self._after_cr = False
        self._first_line = True

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; return the data of every event that they complete.

        An event that the stream's end leaves without its blank line is never returned.
        """
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):  # the second half of a CR LF
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        head, *tail = _LINE_END.split(chunk)
        self._partial.append(head)
        if not tail:
            return []
        lines = [b"".join(self._partial), *tail[:-1]]
        self._partial = [tail[-1]]
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> str | None:
        if self._first_line:
            line = line.removeprefix(_BOM)
            self._first_line = False
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field == b"data":  # comments (an empty field) and other fields carry nothing for us
            self._data.append(value.removeprefix(b" ").decode("utf-8", errors="replace"))
        return None

    def _dispatch(self) -> str | None:
        if not self._data:
            return None
        event = "\n".join(self._data)
        self._data = []
        return event
