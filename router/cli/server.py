"""Runs an ASGI application until a signal asks it to stop, and tells why when it can't start."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any, Protocol

import uvicorn

from calibration.errors import CalibrationError
from router.cli.protocol import GuardedProtocol
from router.errors import RouterError

if sys.platform != "win32":
    import resource

log = logging.getLogger("router.server")

CUT_SECONDS = 1
"""What requests that were told to break off may still take."""

CLOSE_SECONDS = 15
"""What closing may take after that. A service manager would kill a process that hangs, unseen."""


class Service(Protocol):
    """What is served, as far as its end is concerned."""

    def drain(self) -> None:
        """Be not ready any more, and take on no further work; finish what is under way."""

    async def cut(self) -> None:
        """Break off what is still under way, each with a word to its client."""


OPEN_FILES = 65_536
"""As many connections the process tries to be allowed; the usual limit of 1,024 is soon reached."""

KEEP_ALIVE_SECONDS = 75
"""How long a connection is kept without a request. httpx keeps its own for 5 s, which is uvicorn's
default too: requests would be lost that are sent while the other end hangs up."""

NEW_OBJECTS = 10_000
"""After so many the garbage collector looks at them; a request makes some hundreds."""

Scope = Any
Receive = Any
Send = Any
AsgiApp = Callable[[Scope, Receive, Send], Any]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to `host` and `port` (0: a free one), not listening yet.

    Raises
    ------
    RouterError
        The port is taken or forbidden, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise RouterError(f"host = {host!r} is no address to listen on: {error}") from error
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _why_not(error, host, port) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL at which a client on this machine reaches a bound socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: AsgiApp,
    bound: socket.socket,
    ready: Callable[[], None],
    *,
    log_level: str,
    drain_seconds: float = 8.0,
    service: Callable[[], Service] | None = None,
    on_hang_up: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Serve `app` on `bound` until SIGINT or SIGTERM, then let requests under way finish.

    They may take `drain_seconds`. Meanwhile new ones still reach `app`, whose `service` was told to
    refuse them; without one, and after that, connections are refused.

    `ready` is called when requests are taken, `on_hang_up` at every SIGHUP, which then does not end
    the process; one that comes earlier counts once requests are taken.

    Returns after SIGINT, ends the process in good order after SIGTERM, raises KeyboardInterrupt
    when either came before it was ready, and what the application's start-up raised if that was an
    error of ours.
    """
    allow_connections()
    guard = _Guard(app)
    config = uvicorn.Config(
        guard,
        http=GuardedProtocol,
        lifespan="on",
        log_config=None,  # the application has set logging up
        log_level="info" if log_level == "debug" else "warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,  # the application logs requests, without what their URLs may hold
        timeout_graceful_shutdown=CUT_SECONDS,
    )
    server = _Server(config, ready, drain_seconds, service, on_hang_up)
    with _sigterm_exits(), _hang_ups(server.hang_up if on_hang_up is not None else None):
        try:
            server.run(sockets=[bound])
        except SystemExit:
            if guard.failure is not None:
                raise guard.failure from None
            raise
        except (KeyboardInterrupt, asyncio.CancelledError):
            if not server.started:  # interrupted while loading: nothing was drained
                raise KeyboardInterrupt from None
        except OSError as error:  # another process began to listen after we had bound
            raise _why_not(error, *bound.getsockname()[:2]) from error


def allow_connections() -> None:
    """Raise this process's own limit of open files, as far as the system lets it."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(ValueError, OSError):  # then the limit stays
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _spared_collector() -> Iterator[None]:
    """Have the garbage collector look at what requests make, not at all that was loaded before.

    A pass over the hundred thousand objects of the libraries takes tens of milliseconds, and with
    the usual threshold all passes took a twentieth of the CPU time.
    """
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


class _Server(uvicorn.Server):
    """uvicorn's, with a word when it is ready, and quick to stop while it is still loading."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        drain_seconds: float,
        service: Callable[[], Service] | None = None,
        on_hang_up: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._drain_seconds = drain_seconds
        self._hurries = False
        self._service = service
        self._give_up: Callable[[], object] | None = None
        self._on_hang_up = on_hang_up
        self._hung_up = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._while_serving = contextlib.ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        task = asyncio.current_task()
        assert task is not None, "uvicorn starts up inside a task"
        loop = asyncio.get_running_loop()
        self._give_up = lambda: loop.call_soon_threadsafe(task.cancel)
        self._loop = loop
        self._listen_when_loaded(sockets or [])
        await super().startup(sockets)
        if self.started:
            self._while_serving.enter_context(_spared_collector())
            self._ready()
            if self._on_hang_up is not None:
                self._listener = asyncio.create_task(self._answer_hang_ups(self._on_hang_up))

    def _listen_when_loaded(self, sockets: list[socket.socket]) -> None:
        """Notice a port that was taken meanwhile: some event loops would not."""
        load = self.lifespan.startup

        async def load_then_listen() -> None:
            await load()
            if not self.lifespan.should_exit:
                for bound in sockets:
                    bound.listen(self.config.backlog)

        self.lifespan.startup = load_then_listen

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._listener is not None:
            self._listener.cancel()
        service = None if self._service is None else self._service()
        if service is not None:
            service.drain()
        await self._finish_requests()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if service is not None:
                    await service.cut()
                await super().shutdown(sockets)
        except TimeoutError:
            log.error("closing took longer than %d s; what hangs is broken off", CLOSE_SECONDS)
        self._while_serving.close()

    async def _finish_requests(self) -> None:
        """Wait for those that are under way now, unless a second signal says not to."""
        under_way = set(self.server_state.tasks)
        deadline = time.monotonic() + self._drain_seconds
        while under_way and not self._hurries and time.monotonic() < deadline:
            _, under_way = await asyncio.wait(under_way, timeout=0.1)

    def hang_up(self, _sig: int, _frame: FrameType | None) -> None:
        """Take note of a SIGHUP."""
        if self._loop is None:
            self._hung_up.set()
        elif not self._loop.is_closed():  # a signal alone would not wake it
            self._loop.call_soon_threadsafe(self._hung_up.set)

    async def _answer_hang_ups(self, answer: Callable[[], Awaitable[object]]) -> None:
        """Call `answer` at every SIGHUP, one at a time; those that come meanwhile count as one."""
        while await self._hung_up.wait():
            self._hung_up.clear()
            try:
                await answer()
            except Exception:
                log.exception("what a SIGHUP asked for failed; the server goes on")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started and self.should_exit and not self._hurries:
            self._hurries = True  # uvicorn would not close the application any more
        elif self.started:
            super().handle_exit(sig, frame)
        elif self._give_up is None:
            raise KeyboardInterrupt
        else:  # uvicorn would load to the end first; an exception here could hit the application
            self._give_up()


class _Guard:
    """Passes everything on; keeps an error of ours that the start-up raised, and its traceback out.

    An ASGI server only hears that the start-up failed, with a traceback as text.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self.failure: RouterError | CalibrationError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: list[dict[str, Any]] = []

        async def send_unless_failed(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, send_unless_failed)
        except (RouterError, CalibrationError) as error:
            self.failure = error
            failed[:] = [{"type": "lifespan.startup.failed"}] if failed else []
            raise
        finally:
            for message in failed:
                await send(message)


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Make SIGTERM end the process in good order, with status 0.

    uvicorn raises the signal again when it has stopped; by default that would kill the process
    before it can flush and clean up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _hang_ups(handle: Callable[[int, FrameType | None], None] | None) -> Iterator[None]:
    """Call `handle` at SIGHUP; do nothing when it is None, or the platform or thread has none."""
    if (
        handle is None
        or not hasattr(signal, "SIGHUP")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    before = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _why_not(error: OSError, host: str, port: int) -> RouterError:
    if error.errno == errno.EADDRINUSE:
        return RouterError(
            f"port {port} on {host} is already in use; stop what listens there, or choose another "
            "with --port"
        )
    if error.errno == errno.EACCES:
        return RouterError(
            f"port {port} may not be used by this user; choose one above 1023 with --port"
        )
    return RouterError(f"can't listen on {host} port {port}: {error.strerror or error}")
