"""What a user may ask of the router, in the user's own terms, and what it is called."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from calibration.errors import CalibrationError

TargetKind = Literal["escalation", "risk", "loss", "accuracy", "cost", "savings", "threshold"]
CostUnit = Literal["day", "1k"]

BUDGETS: tuple[TargetKind, ...] = ("escalation", "cost")
"""Kinds that limit how much is escalated; no label is needed to meet them."""

QUALITIES: tuple[TargetKind, ...] = ("risk", "loss", "accuracy")
"""Kinds that limit what may be kept."""

CERTIFIED: tuple[TargetKind, ...] = ("risk", "loss")
"""Kinds that come with a certificate."""

_Name = TypeVar("_Name", bound=str)

_TARGET = re.compile(r"\s*([a-z]+)\s*=\s*([^\s=/]+)\s*(?:/\s*([a-z0-9]+)\s*)?", re.IGNORECASE)

_ALLOWED = (
    "allowed are escalation=R, risk=R, loss=R, accuracy=R and threshold=R with R a number from 0 "
    "to 1, cost=USD/day, cost=USD/1k and savings=max, for example escalation=0.3"
)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that the threshold should achieve.

    ========== ====================================================================================
    kind       meaning of `value`
    ========== ====================================================================================
    escalation share of all queries to send to the large model
    risk       highest share of wrong answers among those kept
    loss       highest share of all queries on which keeping the local answer loses a right one: it
               is wrong, and the large model would have been right
    accuracy   lowest share of right answers among all, kept ones and escalated ones
    cost       US dollars a day or per 1,000 queries, as `per` says
    savings    infinite, "max": escalate as little as the other targets allow
    threshold  the threshold itself
    ========== ====================================================================================

    Shares are in [0, 1].

    Raises
    ------
    CalibrationError
        When `kind` is none of these, or `value` or `per` is not one of its.
    """

    kind: TargetKind
    value: float
    per: CostUnit | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind):
            raise CalibrationError(f"unknown target {self.kind!r}; {_ALLOWED}")
        if self.kind == "cost":
            if self.per not in get_args(CostUnit):
                raise CalibrationError(
                    f"a cost is per day or per 1,000 queries: cost={self.value!r}/day or "
                    f"cost={self.value!r}/1k; {_ALLOWED}"
                )
            if not 0.0 <= self.value < math.inf:  # also refuses NaN
                raise CalibrationError(f"target {self} is no sum of money; {_ALLOWED}")
            return
        if self.per is not None:
            raise CalibrationError(f"only a cost is per {self.per}, not {self.kind}; {_ALLOWED}")
        if self.kind == "savings":
            if self.value != math.inf:
                raise CalibrationError(f"of savings only savings=max can be asked; {_ALLOWED}")
        elif not 0.0 <= self.value <= 1.0:
            raise CalibrationError(f"target {self} is outside 0 to 1; {_ALLOWED}")

    def __str__(self) -> str:
        if self.kind == "savings":
            return "savings=max"
        return f"{self.kind}={self.value!r}" + (f"/{self.per}" if self.per else "")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``escalation=0.3``, ``risk=0.1``, ``cost=5/day``, ``savings=max``; `str` inverts it.

        Raises
        ------
        CalibrationError
            On anything else; the message names what is allowed.
        """
        match = _TARGET.fullmatch(text)
        if match is None:
            raise CalibrationError(f"can't read the target {text!r}; {_ALLOWED}")
        kind = _known(match[1].lower(), get_args(TargetKind), "target", text)
        per = (
            None if match[3] is None else _known(match[3].lower(), get_args(CostUnit), "per", text)
        )
        if kind == "savings" and match[2].lower() == "max":
            return cls(kind, math.inf, per)
        try:
            value = float(match[2])
        except ValueError:
            raise CalibrationError(
                f"{match[2]!r} in the target {text!r} is not a number; {_ALLOWED}"
            ) from None
        return cls(kind, value, per)


Targets = tuple[Target, ...]


def parse_targets(texts: Iterable[str]) -> Targets:
    """Read targets that should all be met; each text holds one, or several between commas.

    Raises
    ------
    CalibrationError
        When one can't be read, or `check_targets` refuses them together.
    """
    targets = tuple(Target.parse(part) for text in texts for part in text.split(","))
    check_targets(targets)
    return targets


def join_targets(targets: Sequence[Target]) -> str:
    """Return what `parse_targets` reads: ``risk=0.1, escalation=0.3``."""
    return ", ".join(str(target) for target in targets)


def check_targets(targets: Sequence[Target]) -> None:
    """Check that `targets` can be asked for together.

    Raises
    ------
    CalibrationError
        When there are none, a kind occurs twice, a threshold stands beside another target, or
        savings stand alone.
    """
    kinds = [target.kind for target in targets]
    if not kinds:
        raise CalibrationError(f"no target was given; {_ALLOWED}")
    for kind in kinds:
        if kinds.count(kind) > 1:
            twice = " and ".join(str(target) for target in targets if target.kind == kind)
            raise CalibrationError(f"{twice} are two targets of one kind; give one of them")
    if "threshold" in kinds and len(kinds) > 1:
        raise CalibrationError(
            f"{join_targets(targets)}: a threshold leaves nothing to choose; give it alone, or "
            "leave it out"
        )
    if "savings" in kinds and not set(kinds) & set(QUALITIES):
        raise CalibrationError(
            "savings=max needs something to hold while it saves: add risk=R, loss=R or accuracy=R"
        )


@dataclass(frozen=True, slots=True)
class CostModel:
    """What queries cost, in US dollars; turns a budget into an escalation ratio.

    The small model answers every query first, so its cost is counted for escalated ones as well.

    Attributes
    ----------
    escalated_usd : what the large model takes for an average escalated query; >= 0.
    local_usd : what the small model's answer to an average query costs; >= 0.
    queries_per_day : expected traffic, > 0; only a cost a day needs it.

    Raises
    ------
    CalibrationError
        When a number is impossible.
    """

    escalated_usd: float
    local_usd: float = 0.0
    queries_per_day: float | None = None

    def __post_init__(self) -> None:
        for name, usd in (("escalated_usd", self.escalated_usd), ("local_usd", self.local_usd)):
            if not 0.0 <= usd < math.inf:
                raise CalibrationError(f"{name} is {usd!r}; a price is a number from 0 on")
        if self.queries_per_day is not None and not 0.0 < self.queries_per_day < math.inf:
            raise CalibrationError(
                f"queries_per_day is {self.queries_per_day!r}; expected traffic is a number above 0"
            )

    def ratio(self, target: Target) -> float:
        """Return the highest escalation ratio that the cost `target` pays for.

        In [0, 1]; negative when not even the small model's answers are paid for.

        Raises
        ------
        CalibrationError
            When `target` is no cost, or is per day and the traffic is not known.
        """
        left = target.value / self._queries(target) - self.local_usd
        if left < 0:
            return left / self.escalated_usd if self.escalated_usd > 0 else -math.inf
        return 1.0 if left >= self.escalated_usd else left / self.escalated_usd

    def usd(self, ratio: float, target: Target) -> float:
        """Return what the escalation ratio `ratio` costs in the unit of the cost `target`."""
        return (self.local_usd + ratio * self.escalated_usd) * self._queries(target)

    def _queries(self, target: Target) -> float:
        if target.kind != "cost":
            raise CalibrationError(f"{target} is no cost")
        if target.per == "1k":
            return 1000.0
        if self.queries_per_day is None:
            raise CalibrationError(
                f"{target} needs the expected number of queries a day; give it, or ask for "
                "cost=USD/1k"
            )
        return self.queries_per_day


def _known(name: str, names: tuple[_Name, ...], what: str, text: str) -> _Name:
    for known in names:
        if name == known:
            return known
    raise CalibrationError(f"unknown {what} {name!r} in {text!r}; {_ALLOWED}")
