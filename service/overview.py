"""What this process answered lately, for its operator: bounded, and without a word of any text."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from router.answer import Answer
from service.replies import STAGES, CacheStatus
from service.strict_json import finite

MINUTES = 60
DECISIONS = 50
SCORES = 2000
TIMES = 1000
BINS = 40
"""Of the p_correct histogram; equally wide, from 0 to 1."""


@dataclass(slots=True)
class Minute:
    """Answers given in the minute that began `at`, in seconds since 1970; each counts once."""

    at: int
    local: int = 0
    remote: int = 0
    degraded: int = 0


@dataclass(slots=True)
class Money:
    """In USD. `escalations` is how many answers `spent` was paid for."""

    spent: float = 0.0
    saved: float = 0.0
    escalations: int = 0


@dataclass(frozen=True, slots=True)
class Given:
    """One answer given, as the operator sees it; `id` is that of its response, if it had one."""

    at: float
    id: str | None
    route: str
    reason: str
    degraded: bool
    p_correct: float | None
    threshold: float | None
    cache: CacheStatus
    total_ms: float | None
    cost_usd: float
    saved_usd: float


class Overview:
    """Remembers the last hour by minutes, the last decisions, scores and times.

    Parameters
    ----------
    clock : seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.started = clock()
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._decisions: deque[Given] = deque(maxlen=DECISIONS)
        self._scores: deque[tuple[str | None, float]] = deque(maxlen=SCORES)
        self._times = {stage: deque[float](maxlen=TIMES) for stage in STAGES}
        self._first_pieces = deque[float](maxlen=TIMES)
        self._reasons: Counter[str] = Counter()
        self._money = Money()
        self._day = 0
        self._today = Money()

    def answered(
        self, answer: Answer, cache: CacheStatus, *, fresh: bool, id: str | None = None
    ) -> None:
        """Remember one answer given; `fresh` if it was made for this request alone."""
        now, decision = self._clock(), answer.decision
        minute = self._minute(now)
        if decision.degraded:
            minute.degraded += 1
        elif decision.route == "local":
            minute.local += 1
        else:
            minute.remote += 1
        self._reasons[decision.reason] += 1
        for money in (self._money, self._money_of(now)):
            money.saved += max(0.0, answer.saved_usd)
            money.spent += max(0.0, answer.cost_usd)
            money.escalations += answer.cost_usd > 0
        self._decisions.append(
            Given(
                at=now,
                id=id,
                route=decision.route,
                reason=decision.reason,
                degraded=decision.degraded,
                p_correct=finite(decision.p_correct),
                threshold=finite(decision.threshold),
                cache=cache,
                total_ms=answer.timings_ms.get("total"),
                cost_usd=answer.cost_usd,
                saved_usd=answer.saved_usd,
            )
        )
        if fresh:
            self.worked(answer)

    def worked(self, answer: Answer) -> None:
        """Remember what an answer newly made took, whether it was given or only decided on."""
        decision = answer.decision
        if decision.p_correct is not None and not math.isnan(decision.p_correct):
            self._scores.append((decision.calibration, decision.p_correct))
        for stage, times in self._times.items():
            took = answer.timings_ms.get(stage, 0.0)
            if took > 0:  # else it was left out
                times.append(took)

    def first_piece(self, seconds: float) -> None:
        """Remember after how long a streamed answer began."""
        self._first_pieces.append(seconds * 1000)

    def report(self, calibration: str | None) -> dict[str, Any]:
        """Return all of it as plain values for JSON.

        `calibration` is the id of the one in use; p_correct by another one is left out. Minutes
        and decisions are in the order in which they came, times are in milliseconds.
        """
        now = self._clock()
        scores = [p for by, p in self._scores if by == calibration]
        return {
            "now": now,
            "started": self.started,
            "minutes": [_plain(minute) for minute in self._last_minutes(now)],
            "reasons": dict(self._reasons),
            "p_correct": {"n": len(scores), "counts": binned(scores)},
            "latency_ms": {
                **{stage: quantiles(times) for stage, times in self._times.items()},
                "first_piece": quantiles(self._first_pieces),
            },
            "money": {"today": _plain(self._money_of(now)), "since_start": _plain(self._money)},
            "decisions": [_plain(given) for given in self._decisions],
        }

    def _minute(self, now: float) -> Minute:
        at = int(now // 60) * 60
        if not self._minutes or at > self._minutes[-1].at:  # a clock set back stays in the last one
            self._minutes.append(Minute(at))
        return self._minutes[-1]

    def _last_minutes(self, now: float) -> list[Minute]:
        """Return a minute for each of the last hour, also where nothing was asked."""
        kept = {minute.at: minute for minute in self._minutes}
        last = self._minute(now).at
        return [kept.get(at, Minute(at)) for at in range(last - 60 * (MINUTES - 1), last + 1, 60)]

    def _money_of(self, now: float) -> Money:
        """Return the day's money, by UTC as budgets count it."""
        day = int(now // 86_400)
        if day != self._day:
            self._day, self._today = day, Money()
        return self._today


def _plain(record: Minute | Money | Given) -> dict[str, Any]:
    """As `dataclasses.asdict`, which copies what needs no copy, in a tenth of its time."""
    return {name: getattr(record, name) for name in type(record).__slots__}


def binned(scores: Iterable[float]) -> list[int]:
    """Return how many of `scores`, in [0, 1], fall into each of `BINS` equally wide bins."""
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, max(0, int(score * BINS)))] += 1
    return counts


def quantiles(values: Iterable[float]) -> dict[str, Any]:
    """Return the median and the 95th percentile (nearest rank); null where there are no values."""
    rising = sorted(values)
    n = len(rising)

    def at(share: float) -> float | None:
        return round(rising[max(0, math.ceil(share * n) - 1)], 3) if n else None

    return {"n": n, "p50": at(0.5), "p95": at(0.95)}
