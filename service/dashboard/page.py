"""Puts the page together, with a policy by which a browser runs nothing but what is in it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from starlette.responses import HTMLResponse, Response

SCRIPTS = ("dom.js", "charts.js", "what_if.js", "panels.js", "main.js")
"""In the order in which they need each other."""


def response() -> Response:
    """Return the page, to be asked for again after an update of the gateway."""
    html, headers = _document()
    return HTMLResponse(html, headers=headers)


@lru_cache(maxsize=1)
def _document() -> tuple[str, dict[str, str]]:
    style = _text("page.css")
    script = "\n".join(_text(name) for name in SCRIPTS)
    html = _text("page.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return html, {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}


def _text(name: str) -> str:
    return files("service.dashboard").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
