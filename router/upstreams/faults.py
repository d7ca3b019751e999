"""What is said when an upstream does not answer as it should: errors without its key."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import httpx

from router import remote_body
from router.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from router.remote_body import BadBodyError
from router.upstreams.call import Call, PassingError, TimeLeft, Timeouts
from router.upstreams.dialect import Dialect
from router.upstreams.health import Health
from router.urls import public_url

log = logging.getLogger("router.remote")

_ERROR_BYTES = 1 << 16
_REPEATED = frozenset({429, 502, 503, 504, 529})  # 529: Anthropic is overloaded
_OPERATORS = frozenset({401, 402, 403})
_NO_VERDICT = frozenset({408, 409, 425})
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_RESET = (httpx.ReadError, httpx.WriteError)


@dataclass(frozen=True, slots=True, repr=False)
class Faults:
    """Makes the errors of one upstream, and tells its health in few words what went wrong."""

    base_url: str
    key: str | None
    key_env: str
    timeouts: Timeouts
    dialect: Dialect
    health: Health | None

    def sending(self, error: httpx.HTTPError) -> UpstreamError | PassingError:
        """For a request that was not answered at all."""
        if isinstance(error, httpx.PoolTimeout):
            return UpstreamBusy(self._say("is being asked for as much at once as it may be"), 1.0)
        if isinstance(error, _NOT_SENT):
            return self._passing(f"can't be reached: {reason(error)}")
        if isinstance(error, httpx.TimeoutException):
            return self.silent()
        if isinstance(error, _RESET) or str(error).startswith("Server disconnected"):
            return self._passing(f"hung up: {reason(error)}")
        return self.unavailable(f"broke HTTP's rules: {reason(error)}")

    async def refusal(self, response: httpx.Response) -> UpstreamError | PassingError:
        """For an answer other than 200."""
        status = response.status_code
        text = await self._beginning(response)
        said = f"answered with status {status}{remote_body.excerpt(text)}"
        if status in _REPEATED:
            pause = remote_body.retry_after(response.headers)
            asks = "" if pause is None else f"; it asks to wait {pause:.0f} s"
            return PassingError(self._say(said + asks), f"status {status}", pause)
        if response.is_redirect:
            where = public_url(response.headers.get("location", "nowhere"))
            said = f"redirects to {where}; set `upstream` to its final address"
        elif status in _OPERATORS:
            said += f"; {self._key_hint()}"
        elif 400 <= status < 500 and status not in _NO_VERDICT:
            body = remote_body.json_object(text)
            if body is not None:
                return UpstreamRejected(status, self.dialect.error(body))
            if status not in (404, 405):
                return UpstreamRejected(status, {"error": {"message": text[:1000]}})
            said += self.dialect.hint
        return self.unavailable(said, f"status {status}")

    def unavailable(self, what: str, brief: str = "no usable answer") -> UpstreamUnavailable:
        """`what` completes "the upstream ..."; `brief`, for logs, quotes nothing it said."""
        if self.health is not None:
            self.health.explain(brief)
        return UpstreamUnavailable(self._say(what))

    def bad_body(self, error: BadBodyError) -> UpstreamUnavailable:
        return self.unavailable(error.what + remote_body.excerpt(self._mask(error.body)))

    def silent(self) -> UpstreamUnavailable:
        seconds = f"{self.timeouts.read:g} s (upstream_read_timeout)"
        return self.unavailable(f"was silent for {seconds}", "silence")

    def too_slow(self, call: Call, time_left: TimeLeft) -> UpstreamUnavailable:
        """For a deadline that struck; not the upstream's fault when others had used it up."""
        if not time_left.own:
            call.given_up()
            return UpstreamUnavailable(self._say("was asked when little time was left"))
        seconds = f"{self.timeouts.total:g} s (upstream_total_timeout)"
        return self.unavailable(f"did not finish within {seconds}", "too slow")

    def left_alone(self, health: Health) -> UpstreamUnavailable:
        why = "as it asked" if health.standing == "resting" else "since it kept failing"
        last = f" (last: {health.why})" if health.why else ""
        what = f"is left alone for another {health.retry_in:.1f} s, {why}{last}"
        return UpstreamUnavailable(self._say(what), health.retry_in)

    def _passing(self, brief: str) -> PassingError:
        return PassingError(self._say(brief), brief)

    async def _beginning(self, response: httpx.Response) -> str:
        """The beginning of an error's body, as far as it comes, without our key."""
        raw = b""
        try:
            async for piece in response.aiter_bytes():
                raw += piece
                if len(raw) > _ERROR_BYTES:
                    break
        except httpx.HTTPError as error:
            log.debug("the body of an error broke off: %s", error)
        return self._mask(raw[:_ERROR_BYTES].decode(errors="replace"))

    def _key_hint(self) -> str:
        if not self.key_env:
            return "check its key"
        if not self.key:
            return f"the variable {self.key_env}, which should hold its key, is not set or empty"
        return f"check the key in {self.key_env}"

    def _mask(self, text: str) -> str:
        """`text` without our key, should the upstream have repeated it."""
        return text.replace(self.key, "***") if self.key else text

    def _say(self, what: str) -> str:
        return self._mask(f"the upstream {public_url(self.base_url)} {what}")


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__
