"""Who may ask: API keys, and what goes without one.

| `auth`     | a request needs a key                                                          |
| ---------- | ------------------------------------------------------------------------------ |
| `required` | always                                                                         |
| `auto`     | once a key was created, when the gateway listens beyond this machine, and when |
|            | the request comes from beyond it                                               |
| `off`      | never                                                                          |

Without a key, a web page gets in only if it is the gateway's own or one of `cors_origins`, and a
gateway that listens on this machine only answers only to names that lead nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.account import ANONYMOUS, Account
from router.config import Settings, listens_here_only
from router.keystore import ApiKey, KeyStore
from service.errors import ApiError
from service.key_ring import KeyRing
from service.limits import limit_headers, limited
from service.peer import Peer, is_own_page, leads_here, peer_of, place_of

OPEN_PATHS = frozenset(
    {"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/dashboard"}
)
"""What anybody may see: whether it lives, what its API is, and a page that holds no data."""


class Caller(NamedTuple):
    """Who sent a request, as found out before it is looked at.

    Attributes
    ----------
    account : the key's; without one, nobody's.
    admin : the key is an operator's.
    keyed : a key was needed, and given.
    """

    account: Account = ANONYMOUS
    admin: bool = False
    keyed: bool = False


_NOBODY = Caller()


class Gate:
    """Lets requests in by the rules above. `start` reads the keys; `close` follows them no more."""

    def __init__(self, settings: Settings) -> None:
        self._mode = settings.auth
        self._ring = KeyRing(KeyStore(settings.keys))
        self._here_only = listens_here_only(settings.host)
        origins = [origin for origin in settings.cors_origins.split(",") if origin]
        self._origins = frozenset(origin.encode() for origin in origins)
        self._names = frozenset(
            {settings.host.lower(), *(urlsplit(origin).hostname or "" for origin in origins)}
        )

    async def start(self) -> None:
        """Read the keys. Raises KeyStoreError when there may be some and they can't be read."""
        if self._mode != "off":
            await self._ring.start()

    async def close(self) -> None:
        await self._ring.close()

    def admit(self, scope: Scope) -> Caller:
        """Return who sent the request. Raises ApiError for one that is not let in."""
        if scope["path"] in OPEN_PATHS:
            return _NOBODY
        peer = peer_of(scope)
        if self._needs_key(scope, peer):
            key = self._key(peer)
            return Caller(key.account, key.admin, keyed=True)
        self._refuse_pages(scope, peer)
        return _NOBODY

    def _needs_key(self, scope: Scope, peer: Peer) -> bool:
        if self._mode == "auto":
            private = self._here_only and not self._ring.ever
            return not private or place_of(scope, peer) != "here"
        return self._mode == "required"

    def _key(self, peer: Peer) -> ApiKey:
        if peer.authorization is None:
            raise _unauthorised("The request has several Authorization headers; send one.")
        scheme, _, key = peer.authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            hint = "" if self._ring.ever else " There is none yet: `router keys create NAME`."
            raise _unauthorised(
                "You didn't provide an API key. Send it in an Authorization header: "
                f"`Authorization: Bearer YOUR_KEY`.{hint}"
            )
        found = self._ring.find(key.strip())
        if found is None:
            raise _unauthorised("Incorrect API key provided: it is unknown here, or was revoked.")
        return found

    def _refuse_pages(self, scope: Scope, peer: Peer) -> None:
        """Raise for what a web page on somebody's screen sends here behind their back."""
        if self._here_only and not leads_here(scope, peer.host, self._names):
            raise ApiError(
                403,
                f"The Host header says {_shown(peer.host)}, which is no name of this machine's. "
                "Use its address, or localhost; behind a proxy, use API keys.",
                code="forbidden_host",
            )
        own = not peer.origin or is_own_page(scope, peer)
        if not own and peer.origin not in self._origins:
            raise ApiError(
                403,
                f"This request came from a web page, {_shown(peer.origin)}. Name it in the setting "
                "`cors_origins` to let it in.",
                code="forbidden_origin",
            )


class KeyCheck:
    """ASGI middleware: what gets past it has an account in ``request.state.account``."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        try:
            caller = self._gate.admit(scope)
            state["caller"] = caller
            state["account"] = account = caller.account
            if caller.keyed:
                state["log"]["account"] = account.id
            if limited(account) and scope["method"] not in _FREE:
                left = await scope["app"].state.gateway.limits.take(account)
                send = _with_headers(send, limit_headers(account, left))
        except ApiError as refused:
            await refused.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


_FREE = frozenset({"GET", "HEAD", "OPTIONS"})
"""What rate limits don't count: it asks for no work."""


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Return a `send` that adds `headers` to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


def account_of(request: Request) -> Account:
    """Return what was agreed with who asks."""
    return cast(Account, request.scope["state"]["account"])


async def _may_look(request: Request) -> None:
    _check_admin(request)


def _check_admin(request: Request) -> None:
    caller: Caller = request.state.caller
    if caller.keyed and not caller.admin:
        raise ApiError(
            403,
            "This is for the operator: it needs a key made with `router keys create NAME --admin`.",
            code="admin_key_needed",
        )


async def _may_change(request: Request) -> None:
    check_operator(request)


def check_operator(request: Request) -> None:
    """Raise ApiError for who may not change what runs."""
    _check_admin(request)
    caller: Caller = request.state.caller
    place = "here" if caller.keyed else place_of(request.scope, peer_of(request.scope))
    if place != "here":
        why = "through a proxy" if place == "proxy" else "from elsewhere"
        raise ApiError(
            403,
            "While no API keys are needed, this is for clients on the gateway's own machine; this "
            f"one came {why}. Ask there, directly.",
            code="local_only",
        )


OperatorReads = Depends(_may_look)
"""For routes that show what concerns the operator: an admin key, where keys are needed."""

OperatorActs = Depends(_may_change)
"""For routes that change what runs: an admin key; where none is needed, from this machine."""


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
