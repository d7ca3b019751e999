"""Addresses in settings: what is allowed, and how they are shown."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def public_url(url: str) -> str:
    """Return `url` with user name, password and query replaced by ``***``, fit for logs."""
    scheme, mark, rest = url.partition("://")
    if "@" in rest.partition("?")[2]:
        return f"{scheme}{mark}***"  # a ? in a password, or an @ in the query: no telling which
    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    return f"{scheme}{mark}{'***@' if at else ''}{place}{'?***' if question else ''}"


def checked_upstream(url: str, key_setting: str = "upstream_key_env") -> str:
    """Return an upstream's base URL, tidied. Raises ValueError, saying what is wrong with it."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must look like http://HOST:PORT/v1 or https://HOST/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "it must not hold a user name or password; put the key in an environment variable "
            f"and its name in {key_setting}"
        )
    if parts.query or parts.fragment:
        raise ValueError("it must end with the path, without ? or #")
    return url.strip().rstrip("/")


def checked_origin(origin: str) -> str:
    """Return a web page's origin, tidied. Raises ValueError when it is none."""
    parts = _split(origin)
    whole = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    if not whole or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            f"{origin.strip()!r} is no web page's origin; it is a scheme, a host and perhaps a "
            "port, such as https://app.example.org (a * would let in every page there is)"
        )
    return origin.strip().rstrip("/").lower()


def checked_redis(url: str) -> str:
    """Return a Redis server's URL. Raises ValueError when it is none."""
    parts = _split(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("it must begin with redis://, rediss:// or unix://")
    return url


def _split(url: str) -> SplitResult:
    if any(char.isspace() for char in url.strip()):
        raise ValueError("it must not hold white space")
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # urlsplit reads the port only when asked
    except ValueError as error:
        raise ValueError(f"it is not a URL: {error}") from None
    return parts
