"""Keep or escalate: policy, uncertainty and calibration -> a Decision."""

from __future__ import annotations

import dataclasses
import math

from calibration.artifact import Calibration
from router.answer import Decision, Query, Reason, Route
from router.engine.messages import GREEDY
from uq import Trace, score_all


class Judge:
    """Decides by one calibration. Without one nothing is confident."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration

    def escalate(self, reason: Reason) -> Decision:
        """The decision to ask the upstream where no local answer was made."""
        return self._decision("remote", reason)

    def decide(self, query: Query, trace: Trace) -> Decision:
        """Keep the local answer iff its p_correct reaches the threshold.

        Unknown is not confident: a p_correct that is NaN escalates, and so does a `max_risk` that
        no threshold reaches.
        """
        scores = score_all(trace)
        shown = scores if query.estimators is None else {n: scores[n] for n in query.estimators}
        kept_by_policy = dataclasses.replace(
            self._decision("local", "policy"),
            uncertainty=shown,
            calibrated_sampler=query.sampler == GREEDY,
        )
        if self._calibration is None:
            if query.mode == "local" or query.local_only:
                return kept_by_policy
            return dataclasses.replace(kept_by_policy, route="remote", reason="uncalibrated")
        p_correct = self._calibration.p_correct(scores)
        threshold = _threshold(query, self._calibration)
        kept_by_policy = dataclasses.replace(
            kept_by_policy,
            p_correct=None if math.isnan(p_correct) else p_correct,
            threshold=threshold,
            certificate=self._certificate(threshold),
        )
        if query.mode == "local":
            return kept_by_policy
        if threshold is not None and p_correct >= threshold:
            return dataclasses.replace(kept_by_policy, reason="confident")
        if query.local_only:
            return dataclasses.replace(kept_by_policy, degraded=True)
        return dataclasses.replace(kept_by_policy, route="remote", reason="uncertain")

    def _decision(self, route: Route, reason: Reason) -> Decision:
        calibration = self._calibration
        threshold = calibration.threshold if calibration else None
        return Decision(
            route=route,
            reason=reason,
            threshold=threshold,
            calibration=calibration.id if calibration else None,
            certificate=self._certificate(threshold),
        )

    def _certificate(self, threshold: float | None) -> dict[str, object] | None:
        """The certificate of the calibration's own threshold; any other one has none."""
        if self._calibration is None or threshold != self._calibration.threshold:
            return None
        certificate = self._calibration.operating_point.certificate
        return None if certificate is None else dict(certificate)


def degraded(wanted: Decision, reason: Reason) -> Decision:
    """The local answer in place of the remote one that was wanted."""
    return dataclasses.replace(wanted, route="local", reason=reason, degraded=True)


def _threshold(query: Query, calibration: Calibration) -> float | None:
    if query.threshold is not None:
        return query.threshold
    if query.max_risk is not None:
        return calibration.threshold_for_risk(query.max_risk)
    return calibration.threshold
