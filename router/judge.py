"""Keep or escalate: policy, uncertainty and calibration -> a Decision."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from calibration.artifact import Calibration
from calibration.certificates import Certificate
from router.answer import BudgetNote, Decision, Query, Reason
from router.engine.messages import GREEDY, Exits
from uq import Trace, estimator_names, get_estimator, score_all
from uq.signals import Signal


@dataclass(frozen=True, slots=True)
class Stance:
    """What live traffic asks for beyond the calibration; the default is nothing.

    Attributes
    ----------
    threshold : in place of the calibration's own, to hold a budget; None for that one.
    drifted : the calibration is in doubt, and certifies nothing any more.
    at_least : the least that its own thresholds may be.
    escalate : everything is to be escalated that may be.
    at_most : the most that any threshold may be, so that money lasts; None for no such limit.
    whole : answers are not given up, since nothing may be there to take their place.
    budget : what is to be said of the money.
    """

    threshold: float | None = None
    drifted: bool = False
    at_least: float = 0.0
    escalate: bool = False
    at_most: float | None = None
    whole: bool = False
    budget: BudgetNote | None = None

    def lowers(self, threshold: float) -> bool:
        """Whether money makes it less than `threshold`."""
        return self.at_most is not None and self.at_most < threshold


AS_CALIBRATED = Stance()


class Judge:
    """Decides by one calibration. Without one nothing is confident."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration

    def escalate(self, reason: Reason) -> Decision:
        """The decision to ask the upstream where no local answer was made."""
        calibration = self._calibration
        return Decision(
            route="remote",
            reason=reason,
            threshold=calibration.threshold if calibration else None,
            calibration=calibration.id if calibration else None,
        )

    def scores(self, trace: Trace) -> dict[str, float]:
        """All uncertainty scores of `trace`, those learned by the calibration among them."""
        return score_all(trace) if self._calibration is None else self._calibration.scores(trace)

    def signals(self, query: Query) -> frozenset[Signal]:
        """What to gather with every answer: what the calibration reads and the query asks for."""
        asked = frozenset(
            signal for name in query.estimators or () for signal in get_estimator(name).needs
        )
        return asked if self._calibration is None else asked | self._calibration.signals

    def closer_signals(self, query: Query, trace: Trace) -> frozenset[Signal]:
        """What to gather besides for an answer that leaves doubt; nothing where none is left."""
        calibration = self._calibration
        if calibration is None or not calibration.closer_signals or query.mode != "auto":
            return frozenset()
        closer = calibration.looks_closer(calibration.scores(trace))
        return calibration.closer_signals if closer else frozenset()

    def may_look_early(self, query: Query) -> bool:
        """Whether the beginning of an answer can be judged as a whole one is.

        Not where the calibration reads what is gathered after an answer, such as its follow-ups.
        """
        calibration = self._calibration
        if calibration is None or query.mode != "auto":
            return False
        return (calibration.signals | calibration.closer_signals) <= {"hidden"}

    def exits(self, query: Query, stance: Stance = AS_CALIBRATED) -> Exits | None:
        """When to give up on an answer that would be escalated anyway.

        They were set for the calibration's own threshold and sampler, so a query that brings
        another has none; nor where the threshold is moved by the scores, which it has to see.
        """
        calibration = self._calibration
        if calibration is None or query.threshold is not None or query.max_risk is not None:
            return None
        if query.sampler != GREEDY or query.mode != "auto" or query.local_only:
            return None
        gate, early_stop = calibration.gate, calibration.early_stop
        if stance.threshold is not None or (gate is None and early_stop is None):
            return None
        if stance.whole or stance.lowers(calibration.threshold):
            return None
        return Exits(
            gate=None if gate is None else calibration.learned.probes[gate.probe],
            gate_above=1.0 if gate is None else gate.above,
            checkpoints=() if early_stop is None else early_stop.checkpoints,
        )

    def given_up(self, trace: Trace, stance: Stance = AS_CALIBRATED) -> Decision | None:
        """The decision that an answer which the engine gave up leads to; None for a whole one."""
        if trace.finish_reason not in ("gated", "stopped"):
            return None
        decision = self.escalate("gated" if trace.finish_reason == "gated" else "stopped")
        if self._calibration is None or stance.drifted:
            return decision
        certificate = self._calibration.operating_point.certificate
        return _certified(decision, certificate)

    def decide(
        self,
        query: Query,
        scores: Mapping[str, float],
        stance: Stance = AS_CALIBRATED,
        *,
        exits: Exits | None = None,
        usable: bool = True,
    ) -> Decision:
        """Keep the local answer iff its p_correct reaches the threshold.

        Unknown is not confident: a p_correct that is NaN escalates, and so does a `max_risk` that
        no threshold reaches.

        Parameters
        ----------
        query : Query
        scores : mapping
            As `scores` gives them for its answer.
        stance : Stance
            What live traffic asks for.
        exits : Exits, optional
            By which the answer might have been given up.
        usable : bool
            Whether the answer has the form that was asked for; of one that has not, p_correct is
            unknown, however sure the model was.
        """
        shown = (
            _known(scores)
            if query.estimators is None
            else {name: scores[name] for name in query.estimators}
        )
        calibration = self._calibration
        known_by = calibration if usable else None
        p_correct = math.nan if known_by is None else known_by.p_correct(scores)
        known = None if math.isnan(p_correct) else p_correct
        kept_by_policy = self.by_policy(query, uncertainty=shown, p_correct=known)
        if calibration is None:
            if query.mode == "local" or query.local_only:
                return kept_by_policy
            return dataclasses.replace(kept_by_policy, route="remote", reason="uncalibrated")
        return _by_rule(query, kept_by_policy, _rule(query, calibration, stance, exits), stance)

    def by_policy(
        self,
        query: Query,
        *,
        uncertainty: Mapping[str, float] | None = None,
        p_correct: float | None = None,
    ) -> Decision:
        """That of an answer which is kept whatever its scores turn out to be."""
        calibration = self._calibration
        return Decision(
            route="local",
            reason="policy",
            p_correct=p_correct,
            threshold=calibration.threshold if calibration else None,
            uncertainty=uncertainty or {},
            calibration=calibration.id if calibration else None,
            calibrated_sampler=query.sampler == GREEDY,
        )


def uncertified(decision: Decision) -> Decision:
    """The decision by a rule that nothing is certain of."""
    return dataclasses.replace(decision, certificate=None)


def degraded(wanted: Decision, reason: Reason) -> Decision:
    """The local answer in place of the remote one that was wanted."""
    return dataclasses.replace(
        wanted, route="local", reason=reason, degraded=True, certificate=None
    )


def _known(scores: Mapping[str, float]) -> dict[str, float]:
    """Those that are known, and those that every answer has, known or not."""
    always = _needing_nothing(estimator_names())
    return {name: score for name, score in scores.items() if math.isfinite(score) or name in always}


@functools.lru_cache(maxsize=4)  # asked of every answer
def _needing_nothing(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in names if not get_estimator(name).needs)


def _by_rule(
    query: Query, kept: Decision, rule: tuple[float | None, Certificate | None], stance: Stance
) -> Decision:
    """What becomes of the answer that is `kept` by policy so far."""
    threshold, certificate = rule
    p_correct = math.nan if kept.p_correct is None else kept.p_correct
    reached = threshold is not None and p_correct >= threshold
    may_leave = query.mode == "auto" and not query.local_only
    if may_leave and query.threshold is None and threshold is not None:
        threshold = max(threshold, stance.at_least)
    if threshold != kept.threshold:
        kept = dataclasses.replace(kept, threshold=threshold)
    if query.mode == "local":
        return kept
    if may_leave and stance.budget is not None:
        wanted = math.inf if threshold is None or stance.escalate else threshold
        if stance.lowers(wanted):
            return _by_money(kept, stance.budget, stance.at_most)
        kept = dataclasses.replace(kept, budget=stance.budget)
    if may_leave and (stance.escalate or (reached and p_correct < (threshold or 0.0))):
        return dataclasses.replace(kept, route="remote", reason="drift")
    if reached:
        return _certified(dataclasses.replace(kept, reason="confident"), certificate)
    if query.local_only:
        return dataclasses.replace(kept, degraded=True)
    return _certified(dataclasses.replace(kept, route="remote", reason="uncertain"), certificate)


def _by_money(kept: Decision, budget: BudgetNote, threshold: float | None) -> Decision:
    """What becomes of an answer by the threshold that makes the money last."""
    note = dataclasses.replace(budget, threshold_moved=True, threshold_wanted=kept.threshold)
    kept = dataclasses.replace(kept, threshold=threshold, budget=note, reason="confident")
    if kept.p_correct is not None and threshold is not None and kept.p_correct >= threshold:
        return kept
    return dataclasses.replace(kept, route="remote", reason="uncertain")


def _rule(
    query: Query, calibration: Calibration, stance: Stance, exits: Exits | None
) -> tuple[float | None, Certificate | None]:
    """The threshold for the query, without safe mode, and what is certain of it as it is used."""
    if query.threshold is not None:
        return query.threshold, None
    if query.max_risk is not None:
        point = calibration.point_for_risk(query.max_risk)
        if point is None:
            return None, None
    else:
        if stance.threshold is not None:
            return stance.threshold, None
        point = calibration.operating_point
    # The calibration's own threshold was certified behind its gate, all others without one.
    as_certified = query.max_risk is not None or calibration.gate is None or exits is not None
    holds = as_certified and not stance.drifted and query.sampler == GREEDY
    return point.threshold, point.certificate if holds else None


def _certified(decision: Decision, certificate: Certificate | None) -> Decision:
    """The decision with what is certain of the rule that made it."""
    if certificate is None:
        return decision
    return dataclasses.replace(decision, certificate=certificate.to_dict())
