"""One call to an upstream on its way: how long it may take, and what its health is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from router.errors import UpstreamUnavailable
from router.stages import UpstreamCall
from router.upstreams.breaker import Ticket
from router.upstreams.health import Health


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, of silence while an answer is due, and in all with retries."""

    connect: float = 5.0
    read: float = 60.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """Until a moment of `time.monotonic`; `own`: that is all the time the upstream is given."""

    until: float
    own: bool = True

    @classmethod
    def of(cls, total: float, deadline: float | None) -> TimeLeft:
        """`total` seconds, or less when the `deadline` of all upstreams together comes first."""
        end = time.monotonic() + total
        if deadline is None:
            return cls(end)
        return cls(min(end, deadline), own=deadline >= end - 0.1 * total)

    @property
    def seconds(self) -> float:
        return self.until - time.monotonic()


class PassingError(Exception):
    """What a repeat may cure.

    `brief` quotes nothing the upstream said, which may repeat a prompt: it is for logs.
    `retry_after` is in seconds.
    """

    def __init__(self, message: str, brief: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.brief = brief
        self.retry_after = retry_after


class Call:
    """A request, with its response once there is one. `stage` is its part of a trace."""

    def __init__(self, health: Health | None, stage: UpstreamCall) -> None:
        self.stage = stage
        self._health = health
        self._ticket: Ticket | None = None
        self._response: httpx.Response | None = None
        self._begun = False

    @property
    def response(self) -> httpx.Response:
        assert self._response is not None, "set before the call is given out"
        return self._response

    @response.setter
    def response(self, response: httpx.Response) -> None:
        self._response = response

    def enter(self, refusal: Callable[[Health], UpstreamUnavailable]) -> None:
        """Get leave for one attempt. Raises `refusal` when the upstream is to be left alone."""
        if self._health is None:
            return
        self._ticket = self._health.enter()
        if self._ticket is None:
            raise refusal(self._health)

    def begun(self) -> None:
        """The upstream answers as it should, or refuses as it may."""
        self._begun = True
        if self._ticket is not None:
            self._ticket.succeed()

    def passed(self, error: PassingError) -> None:
        """An attempt came to nothing; another one may follow."""
        if self._health is None or self._ticket is None:
            return
        self._health.explain(error.brief)
        if error.retry_after:
            self._ticket.release()  # it is well enough to ask for a rest
            self._health.rest(error.retry_after)
        self._ticket.fail()

    def failed(self) -> None:
        """The upstream did not answer as it should, or no longer does."""
        if self._health is None or self._ticket is None:
            return
        if self._begun:
            self._health.broke_off()
        self._ticket.fail()

    def given_up(self) -> None:
        """What becomes of the call says nothing about the upstream."""
        self._begun = False
        if self._ticket is not None:
            self._ticket.release()

    async def close(self) -> None:
        """Hang up."""
        if self._ticket is not None:
            self._ticket.release()
        self.stage.end()
        if self._response is not None:
            await self._response.aclose()
