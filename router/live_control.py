"""Which target of a calibration live traffic is held to, and by what controller."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from calibration.artifact import Calibration
from calibration.controller import ControllerState, EscalationController
from calibration.targets import BUDGETS, CostModel, Target

Unit = Literal["escalations", "usd"]


@dataclass(frozen=True, slots=True)
class ControlReport:
    """Where a controlled target stands.

    Attributes
    ----------
    target : as the calibration has it, ``escalation=0.3``.
    unit : of the next and the last two: escalations, or USD.
    allowed : for a query on average.
    threshold : for the next query.
    n : queries counted.
    ratio : for a query on average so far; None before the first.
    bound : farthest that `ratio` may be from `allowed` by now; see `EscalationController`.
    """

    target: str
    unit: Unit
    allowed: float
    threshold: float
    n: int
    ratio: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class Control:
    """A budget, and the controller that holds it; made by `control_of`."""

    target: Target
    unit: Unit
    controller: EscalationController

    def threshold(self, state: ControllerState) -> float:
        """Return the threshold for the next query."""
        return self.controller.threshold(state)

    def after(self, state: ControllerState, score: float, *, escalated: bool) -> ControllerState:
        """Return the state after a decision; an escalation is charged as is expected of one."""
        return self.controller.after(state, score, self.controller.cost if escalated else 0.0)

    def settled(self, state: ControllerState, score: float, usd: float) -> ControllerState:
        """Return the state once an escalation charged by `after` is known to cost `usd`.

        One of unknown `score` stays charged as expected: it was no choice of the controller's.
        """
        controller = self.controller
        back, deficit = controller.cost - usd, state.deficit
        if not math.isnan(score):
            most = 2.0 * controller.slack * controller.cost + controller.allowance
            deficit = min(deficit + back, max(deficit, most))
        return replace(state, deficit=deficit, spent=max(state.spent - back, 0.0))

    def report(self, state: ControllerState) -> ControlReport:
        """Return where the target stands."""
        return ControlReport(
            target=str(self.target),
            unit=self.unit,
            allowed=self.controller.allowance,
            threshold=self.threshold(state),
            n=state.n,
            ratio=state.spent / state.n if state.n else None,
            bound=self.controller.bound(state.n) if state.n else None,
        )


def control_of(calibration: Calibration) -> Control | None:
    """Return what holds the calibration's budget on live traffic; of two, the tighter one.

    None where a target limits what may be kept (its threshold is measured, and not to be moved),
    where there is no budget, or where escalating costs nothing.
    """
    targets = calibration.targets
    if any(target.kind not in BUDGETS for target in targets) or not calibration.reference.n:
        return None
    tightest = min(targets, key=lambda target: _ratio(target, calibration.cost))
    unknown = calibration.reference.n - len(calibration.reference.p_correct)
    reference = [*calibration.reference.p_correct, *[math.nan] * unknown]
    if tightest.kind == "escalation":
        controller = EscalationController(tightest.value, reference)
        return Control(tightest, "escalations", controller)
    cost = calibration.cost
    if cost is None or cost.escalated_usd == 0.0:
        return None
    # A cost of 1 means shares to the controller, which are at most 1.
    each = math.nextafter(1.0, 2.0) if cost.escalated_usd == 1.0 else cost.escalated_usd
    controller = EscalationController(_usd_per_query(tightest, cost), reference, cost=each)
    return Control(tightest, "usd", controller)


def _ratio(target: Target, cost: CostModel | None) -> float:
    if target.kind == "escalation":
        return target.value
    return math.inf if cost is None or cost.escalated_usd == 0.0 else cost.ratio(target)


def _usd_per_query(target: Target, cost: CostModel) -> float:
    """What the large model may cost a query on average, the small one's answer being paid for."""
    queries = (cost.usd(1.0, target) - cost.usd(0.0, target)) / cost.escalated_usd
    return max(target.value - cost.usd(0.0, target), 0.0) / queries
