"""A Hugging Face hub on this machine: the part of its protocol that fetching a file needs."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the hub holds and how it behaves; both may be changed while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path: ``OWNER/NAME/FILE``."""
    stated_sha256: str = ""
    """Announced instead of the content's own."""
    stated_size: int = 0
    """Announced instead of the content's own."""
    status: int = 200
    """The hub's own answer to everything; 200 is normal service."""
    error_code: str = ""
    blob_status: list[int] = field(default_factory=list)
    """Answers of the next transfers, before normal service."""
    cut_after: list[int] = field(default_factory=list)
    """The next transfers break off after so many bytes."""
    ranges: bool = True
    headers: bool = True
    """False: answer like a server that is no hub."""
    seen_ranges: list[str] = field(default_factory=list)
    tokens_at_hub: set[str] = field(default_factory=set)
    tokens_at_storage: set[str] = field(default_factory=set)
    endpoint: str = ""
    storage: str = ""


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub and, as another origin, the storage it redirects to."""
    hub = Hub()

    class HubHandler(_Handler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.tokens_at_hub.add(self.headers.get("Authorization", ""))
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
            content = hub.files.get("/".join(match.groups())) if match else None
            if hub.status != 200 or content is None:
                code = hub.error_code or "EntryNotFound"
                self.reply(404 if hub.status == 200 else hub.status, {"X-Error-Code": code})
                return
            if not hub.headers:
                self.reply(200, {})
                return
            digest = hub.stated_sha256 or hashlib.sha256(content).hexdigest()
            self.reply(
                302,
                {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(hub.stated_size or len(content)),
                    "Location": f"{hub.storage}/{'/'.join(match.groups())}" if match else "",
                },
            )

    class StorageHandler(_Handler):
        def do_GET(self) -> None:
            hub.tokens_at_storage.add(self.headers.get("Authorization", ""))
            if hub.blob_status:
                self.reply(hub.blob_status.pop(0), {})
                return
            content = hub.files[self.path.lstrip("/")]
            wanted = self.headers.get("Range", "")
            hub.seen_ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges else 0
            if start >= len(content):
                self.reply(416, {})
                return
            rest = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: hub.cut_after.pop(0)] if hub.cut_after else rest)
            self.close_connection = True

    with _serving(HubHandler) as hub_port, _serving(StorageHandler) as storage_port:
        hub.endpoint = f"http://127.0.0.1:{hub_port}"
        hub.storage = f"http://localhost:{storage_port}"
        yield hub


class _Handler(BaseHTTPRequestHandler):
    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
