"""Live traffic under one calibration: what is remembered of it, and what follows."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Literal

from calibration.artifact import Calibration
from calibration.controller import ControllerState
from calibration.drift import CalibrationDrift, CalibrationDriftState, ScoreDriftState
from calibration.errors import CalibrationError
from router.answer import Decision, Query
from router.engine.messages import GREEDY
from router.judge import Stance
from router.ledger import Ledger
from router.live_control import ControlReport, control_of
from router.live_drift import (
    DriftReport,
    label_report,
    score_drift_of,
    score_report,
    tightened,
)

log = logging.getLogger("router.live")

OnDrift = Literal["warn", "tighten", "escalate"]

SPOT_CHECKS = 0.2
"""Share of queries answered to the end where answers may be given up: what is given up has no
whole answer's score, and the others alone would look surer than the reference."""

MOST_WAITING = 10_000
"""Changes that may wait for a broken ledger; later ones are known to this process alone."""

_SERVING: dict[OnDrift, str] = {
    "warn": "answers are kept as before",
    "tighten": "a stricter threshold is in force, which half as many of the held-out answers reach",
    "escalate": "all that may leave the machine is escalated",
}
_TOLD = {
    "scores": "the uncertainties of live answers are not those the calibration was tested on",
    "calibration": "P(correct) is not what audited answers turn out to be",
}


@dataclass(frozen=True, slots=True)
class LiveState:
    """All that is remembered of live traffic under one calibration; the same for all gateways.

    `scores` is None where too few answers were held out to compare with.
    """

    control: ControllerState
    scores: ScoreDriftState | None
    labels: CalibrationDriftState

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "control": self.control.to_dict(),
            "scores": None if self.scores is None else self.scores.to_dict(),
            "labels": self.labels.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LiveState:
        """Rebuild a state from `to_dict`'s output.

        Raises
        ------
        CalibrationError
            When a field is missing or impossible.
        """
        if set(data) != {"control", "scores", "labels"}:
            raise CalibrationError(f"a live state has three parts, not {sorted(data)}")
        scores = data["scores"]
        return cls(
            ControllerState.from_dict(data["control"]),
            None if scores is None else ScoreDriftState.from_dict(scores),
            CalibrationDriftState.from_dict(data["labels"]),
        )


Step = Callable[[LiveState], LiveState]
"""What a query or a label changes, on whichever state it comes to be added to."""


@dataclass(frozen=True, slots=True)
class LiveReport:
    """Where things stand under one calibration; `control` and `scores` are None where not done."""

    control: ControlReport | None
    on_drift: OnDrift
    scores: DriftReport | None
    labels: DriftReport

    def to_dict(self) -> dict[str, Any]:
        """Return what ``GET /v1/calibration`` shows."""
        return {
            "control": None if self.control is None else asdict(self.control),
            "drift": {
                "on_drift": self.on_drift,
                "scores": None if self.scores is None else _shown(self.scores),
                "calibration": _shown(self.labels)
                | {"gap": None if self.labels.gap is None else self.labels.gap._asdict()},
            },
        }


class Charge:
    """An escalation that was charged as expected, until its price is known."""

    def __init__(self, settle: Callable[[float], None]) -> None:
        self._settle = settle

    def settle(self, usd: float) -> None:
        """Say what it cost in the end."""
        self._settle(usd)


class Watch:
    """Live traffic under one calibration. Made by `Live.follow`.

    `changed` is called after each change that a ledger is to be told of; None where there is none.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        control: bool,
        on_drift: OnDrift,
        alpha: float,
        rng: random.Random,
        changed: Callable[[Watch], None] | None = None,
    ) -> None:
        self.name = f"live:{calibration.id}"
        self.on_drift = on_drift
        self._first_look = calibration.first_look
        self._control = control_of(calibration) if control else None
        self._scores = score_drift_of(calibration, alpha)
        self._labels = CalibrationDrift(alpha=alpha)
        self._tightened = tightened(calibration)
        self._rng = rng
        self._changed = changed
        self._alarmed: set[str] = set()
        self._waiting: list[Step] = []
        self._stored: Mapping[str, Any] | None = None
        self._stance: Stance | None = None
        self.state = self._start()

    @property
    def drifted(self) -> bool:
        """Whether an alarm of drift stands."""
        return bool(self._alarmed)

    def stance(self) -> Stance:
        """Return what the next query is decided by."""
        if self._stance is None:
            self._stance = self._take_stance()
        return self._stance

    def _take_stance(self) -> Stance:
        alarm = self.drifted
        return Stance(
            threshold=None
            if self._control is None
            else self._control.threshold(self.state.control),
            drifted=alarm,
            at_least=self._tightened if alarm and self.on_drift == "tighten" else 0.0,
            escalate=alarm and self.on_drift == "escalate",
        )

    def spot_check(self) -> bool:
        """Draw whether an answer that might be given up is made whole, to be compared."""
        return self._scores is not None and self._rng.random() < SPOT_CHECKS

    def decided(
        self, query: Query, scores: Mapping[str, float], decision: Decision, *, whole: bool
    ) -> Charge | None:
        """Take in a decision by p_correct, with all its scores.

        `whole` says that the answer could not have been given up, whatever it looked like. Returns
        what is to be told the price of an escalation, where money is held.
        """
        if query.mode != "auto" or query.local_only:
            return None
        if query.threshold is not None or query.max_risk is not None:
            return None
        p = math.nan if decision.p_correct is None else decision.p_correct
        escalated = decision.route == "remote"
        # Under a stricter safe mode the decisions aren't the controller's: it waits.
        control = None if self.drifted and self.on_drift != "warn" else self._control
        if decision.budget is not None and decision.budget.threshold_moved:  # nor under a budget's
            control = None
        drift = self._scores if whole and query.sampler == GREEDY else None
        seen = scores.get(self._first_look, math.nan)
        uncertainty = seen if math.isfinite(seen) else math.nan

        def step(state: LiveState) -> LiveState:
            if control is not None:
                after = control.after(state.control, p, escalated=escalated)
                state = replace(state, control=after)
            if drift is not None and state.scores is not None:
                state = replace(state, scores=drift.update(state.scores, uncertainty))
            return state

        if control is not None or drift is not None:
            self._add(step)
        if control is None or control.unit != "usd" or not escalated:
            return None
        held = control
        return Charge(
            lambda usd: self._add(
                lambda state: replace(state, control=held.settled(state.control, p, usd))
            )
        )

    def labelled(self, p_correct: float | None, correct: bool) -> None:
        """Take in an answer that was audited at random."""
        if p_correct is None or math.isnan(p_correct):
            return
        p = p_correct
        self._add(
            lambda state: replace(state, labels=self._labels.update(state.labels, p, correct))
        )

    def report(self) -> LiveReport:
        """Return where things stand."""
        control = self._control
        return LiveReport(
            control=None if control is None else control.report(self.state.control),
            on_drift=self.on_drift,
            scores=self._score_report(),
            labels=self._label_report(),
        )

    @property
    def behind(self) -> bool:
        """Whether the ledger does not know all."""
        return bool(self._waiting)

    async def read(self, ledger: Ledger) -> None:
        """Begin where the ledger's state stands. Raises LedgerError."""
        self._take(await ledger.state(self.name))

    async def write(self, ledger: Ledger) -> None:
        """Add what is new to the ledger's state, and take in what others added to it.

        Raises LedgerError; what could not be written waits for the next time.
        """
        written = 0

        def change(stored: dict[str, Any] | None) -> dict[str, Any]:
            nonlocal written
            written = len(self._waiting)
            if stored != self._stored:  # else the state here is what it leads to
                self._take(stored)
            return self.state.to_dict()

        self._stored = await ledger.update_state(self.name, change)
        del self._waiting[:written]

    def _add(self, step: Step) -> None:
        self.state = step(self.state)
        self._look()
        if self._changed is not None:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(step)
            self._changed(self)

    def _take(self, stored: Mapping[str, Any] | None) -> None:
        """Go on from the ledger's state, with what it does not know yet."""
        self.state = reduce(lambda state, step: step(state), self._waiting, self._read(stored))
        self._stored = stored
        self._look()

    def _read(self, stored: Mapping[str, Any] | None) -> LiveState:
        if stored is None:
            return self._start()
        try:
            state, start = LiveState.from_dict(stored), self._start()
        except CalibrationError as error:
            log.warning("the live state %s in the ledger begins anew: %s", self.name, error)
            return self._start()
        if _n_bins(state.scores) != _n_bins(start.scores):
            log.warning("the score drift of %s in the ledger begins anew", self.name)
            return replace(state, scores=start.scores)
        return state

    def _start(self) -> LiveState:
        scores = None if self._scores is None else self._scores.start()
        return LiveState(ControllerState(), scores, self._labels.start())

    def _look(self) -> None:
        """Notice an alarm, and say so once; it stays until another calibration is in use."""
        self._stance = None
        tests = {"scores": self._score_report(), "calibration": self._label_report()}
        for test, seen in tests.items():
            if seen is not None and seen.alarm and test not in self._alarmed:
                self._alarmed.add(test)
                self._tell(test, seen)

    def _tell(self, test: str, seen: DriftReport) -> None:
        log.warning(
            "drift: %s (evidence 10^%.1f after %d). What was certified does not hold any more; "
            "on_drift = %s: %s. Calibrate on recent traffic (`router recalibrate`, or `router "
            "calibrate`), then POST /v1/calibration/reload",
            _TOLD[test],
            seen.log10_evidence,
            seen.n,
            self.on_drift,
            _SERVING[self.on_drift],
            extra={"test": test, "calibration": self.name.removeprefix("live:")},
        )

    def _score_report(self) -> DriftReport | None:
        if self._scores is None or self.state.scores is None:
            return None
        return score_report(self._scores, self.state.scores)

    def _label_report(self) -> DriftReport:
        return label_report(self._labels, self.state.labels)


def _shown(report: DriftReport) -> dict[str, Any]:
    return {"evidence": report.evidence, "alarm": report.alarm, "n": report.n}


def _n_bins(state: ScoreDriftState | None) -> int | None:
    return None if state is None else len(state.counts)
