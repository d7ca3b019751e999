"""When to try again and how long to wait first: decisions only, no sleeping and no I/O.

Both clients ask the same `Attempts`. A stream is retried only until its response headers are there:
what has begun to arrive is never asked for twice.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import httpx

RETRY_STATUSES = frozenset({429, 502, 503, 504})

# Not the read timeout: the gateway may still be at work on the answer, and a second request would
# double the load that made it slow. ProxyError, DecodingError and the like would only happen again.
RETRY_ERRORS = (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError)

_log = logging.getLogger("router_client")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently. Times are in seconds.

    `max_retries` counts the tries after the first. The wait before retry n (from 0) is drawn from
    the upper half of ``min(longest_backoff, first_backoff * 2**n)``. A Retry-After is honoured in
    place of that; one above `longest_retry_after` ends the tries, since coming back sooner would
    ignore what the gateway asked for.
    """

    max_retries: int = 2
    first_backoff: float = 0.25
    longest_backoff: float = 8.0
    longest_retry_after: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int):
            raise TypeError(f"max_retries must be an int, not {self.max_retries!r}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}; the least is 0, no retries")

    def delay(self, retry: int, retry_after: float | None, jitter: float) -> float | None:
        """Return the seconds to wait before retry number `retry` (from 0); None to give up.

        `jitter` in [0, 1] spreads clients that failed together. It only ever adds to a Retry-After.
        """
        if retry >= self.max_retries:
            return None
        if retry_after is None:
            # The exponent is capped because 2.0**1024 overflows long after it stopped to matter.
            ceiling = min(self.longest_backoff, self.first_backoff * 2.0 ** min(retry, 30))
            return ceiling * (0.5 + 0.5 * jitter)
        if retry_after > self.longest_retry_after:
            return None
        return retry_after * (1.0 + 0.25 * jitter)


class Attempts:
    """The tries of one request."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._retries = 0

    def after_error(self, error: httpx.RequestError) -> float | None:
        """Return the seconds to wait before trying again; None when `error` is final."""
        if not isinstance(error, RETRY_ERRORS):
            return None
        return self._next(None, type(error).__name__)

    def after_status(self, status_code: int, headers: Mapping[str, str]) -> float | None:
        """Return the seconds to wait before trying again; None when the response is final."""
        if status_code not in RETRY_STATUSES:
            return None
        return self._next(retry_after(headers), f"HTTP {status_code}")

    def _next(self, asked: float | None, why: str) -> float | None:
        delay = self._policy.delay(self._retries, asked, random.random())
        if delay is not None:
            self._retries += 1
            _log.info(
                "retry %d of %d in %.2f s after %s",
                self._retries,
                self._policy.max_retries,
                delay,
                why,
            )
        return delay


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at least 0; None without a usable one.

    Both forms of RFC 9110, section 10.2.3: a number of seconds, or a date, compared with `now`.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:  # "-0000": UTC, says RFC 5322
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - (now or datetime.now(timezone.utc))).total_seconds())
