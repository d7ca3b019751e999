"""Where a request comes from, as far as its connection and headers tell."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import Literal, NamedTuple

from starlette.types import Scope

from router.config import is_loopback

_PASSED_ON = (b"forwarded", b"via", b"x-real-ip", b"x-forwarded-")
"""How the headers begin by which a proxy says that a request comes from elsewhere."""

Place = Literal["here", "proxy", "elsewhere"]


class Peer(NamedTuple):
    """What one request says of its sender.

    Attributes
    ----------
    authorization : the header's value, empty without one; None when there are several.
    host, origin : those headers' values; empty without one.
    proxied : whether a header says that a proxy passed it on.
    """

    authorization: bytes | None = b""
    host: bytes = b""
    origin: bytes = b""
    proxied: bool = False


def peer_of(scope: Scope) -> Peer:
    """Read what `scope` says, in one pass: this is done for every request."""
    authorization: bytes | None = b""
    host = origin = b""
    proxied = False
    for name, value in scope["headers"]:
        if name == b"host":
            host = value
        elif name == b"authorization":
            authorization = value if authorization == b"" else None
        elif name == b"origin":
            origin = value
        elif name.startswith(_PASSED_ON):
            proxied = True
    return Peer(authorization, host, origin, proxied)


def place_of(scope: Scope, peer: Peer) -> Place:
    """Tell whether a request was sent on this machine, directly; unknown counts as elsewhere."""
    if peer.proxied:
        return "proxy"
    client = scope.get("client")
    if client is None:
        return "here" if _on_unix_socket(scope) else "elsewhere"
    return "here" if is_loopback(client[0]) else "elsewhere"


def leads_here(scope: Scope, host: bytes, names: frozenset[str]) -> bool:
    """Tell whether a `Host` header is a name that leads nowhere else, or one of `names`.

    A web page can make a name of its own lead to this machine, and may then read what the machine
    answers (DNS rebinding); with addresses it can't.
    """
    return not host or _on_unix_socket(scope) or _harmless(host, names)


def is_own_page(scope: Scope, peer: Peer) -> bool:
    """Tell whether the web page that sent a request came from the gateway itself."""
    scheme: str = scope.get("scheme", "http")
    return peer.origin == scheme.encode() + b"://" + peer.host


def _on_unix_socket(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None  # it has a path and no port


@lru_cache(maxsize=256)
def _harmless(host: bytes, names: frozenset[str]) -> bool:
    text = host.decode("latin-1").lower()
    name = text if text.endswith("]") else text.rpartition(":")[0] or text
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
