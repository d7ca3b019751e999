"""What browsers are told about every answer, so that no web page makes more of it than it is."""

from __future__ import annotations

PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""For pages of the gateway's own, which may hold scripts but load none from elsewhere."""

DOCS_POLICY = (
    "default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; "
    "style-src https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For ``/docs``, whose scripts the framework loads from one place."""

CORS_EXPOSED = (
    "Retry-After",
    "X-Request-Id",
    *(f"X-Router-{name}" for name in ("Route", "Reason", "P-Correct", "Threshold", "Cache")),
    "X-Router-Degraded",
    *(
        f"X-RateLimit-{what}-{of}"
        for what in ("Limit", "Remaining", "Reset")
        for of in ("Requests", "Tokens")
    ),
)
"""Headers that the pages in `cors_origins` may read."""

Headers = list[tuple[bytes, bytes]]

_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_NO_STORE = (b"cache-control", b"no-store")


def harden(headers: Headers, path: str, *, keyed: bool) -> None:
    """Add what belongs to every response's `headers`, in place.

    An answer is kept by no browser and no proxy on the way unless its route allows it, one that was
    given for a key not even then.
    """
    page = kept = policy = False
    for name, value in headers:
        if name == b"content-type":
            page = value.startswith(b"text/html")
        elif name == b"cache-control":
            kept = True
        elif name == b"content-security-policy":
            policy = True
    headers.extend(_ALWAYS)
    if keyed and kept:
        headers[:] = [header for header in headers if header[0] != b"cache-control"]
    if keyed or not kept:
        headers.append(_NO_STORE)
    if page and not policy:
        own = DOCS_POLICY if path.startswith("/docs") else PAGE_POLICY
        headers.append((b"content-security-policy", own.encode()))
