"""What targets allow: budgets limit the threshold from above, qualities from below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.bounds import MIN_KEPT
from calibration.certificates import Certificate, certify, smallest_certifiable
from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from calibration.metrics import FloatArray
from calibration.parts import (
    ESCALATE_ALL,
    FitPart,
    Grid,
    HeldOutPart,
    candidate_thresholds,
    counts_kept,
)
from calibration.targets import CERTIFIED, CostModel, Target, join_targets


@dataclass(frozen=True, slots=True)
class Budget:
    """The highest escalation ratio that a target allows, and the threshold that uses it.

    `cost` is what turned money into the ratio; None for a ratio that was asked for itself.
    """

    target: Target
    ratio: float
    threshold: float
    cost: CostModel | None

    def raised_to(self, ratio: float) -> Target:
        """Return the target that just allows `ratio`, rounded up to a whole hundredth."""
        value = ratio
        if self.cost is not None:
            value = self.cost.usd(ratio, self.target)
        return replace(self.target, value=math.ceil(100 * value - 1e-9) / 100)


def budget_of(target: Target, fit: FitPart, cost: CostModel | None) -> Budget:
    """Return what an escalation ratio or a cost allows, set on the fit part's `p_served`.

    Raises
    ------
    InfeasibleTarget
        When it pays for less than keeping everything costs.
    CalibrationError
        When the target is a cost, and the prices or the traffic it needs are not known.
    """
    if target.kind == "escalation":
        ratio, cost = target.value, None
    elif cost is None:
        raise CalibrationError(
            f"{target} needs prices: what an escalated query costs and, for a cost per day, how "
            "many queries a day are expected"
        )
    else:
        ratio = cost.ratio(target)
        if ratio < 0:
            least = cost.usd(0.0, target)
            raise InfeasibleTarget(
                f"{target} does not pay for the small model alone, which answers every query for "
                f"{least:.4g} USD per {target.per}; ask for cost={least:.4g}/{target.per} or more",
                target=str(target),
                feasible=(f"cost={least:.4g}/{target.per}",),
            )
    thresholds = candidate_thresholds(fit.p_served)
    escalated = _ratios(thresholds, fit)
    allowed = np.flatnonzero(escalated <= ratio + 1e-9)
    if not len(allowed):
        raise InfeasibleTarget(
            f"{target} allows {ratio:.1%} of the queries to be escalated, but p_correct is unknown "
            f"for {escalated[0]:.1%} of the answers, and such always are; ask for "
            f"escalation={math.ceil(100 * escalated[0]) / 100} or more",
            target=str(target),
            least_escalation=float(escalated[0]),
        )
    return Budget(target, ratio, float(thresholds[allowed[-1]]), cost)


def meet_qualities(
    targets: Sequence[Target],
    budgets: Sequence[Budget],
    fit: FitPart,
    held_out: HeldOutPart,
    confidence: float,
) -> tuple[float, Certificate | None]:
    """Return the lowest threshold that meets risk, loss and accuracy, within the budgets.

    The certificate is that of the risk and the loss; None when neither is asked for. An accuracy
    limits the grid that they are tested on; being met on the fit part alone, it may.

    Raises
    ------
    InfeasibleTarget
        When one can't be met, or needs more than a budget allows.
    FitError
        When outcomes of the large model are needed and not recorded.
    """
    certificate = None
    threshold = 0.0
    asked = [target for target in targets if target.kind == "accuracy"]
    for target in asked:
        threshold = _lowest_at_accuracy(target, fit)
        _check_budgets(asked, threshold, budgets, fit, lambda b: _most_accurate(fit, b.threshold))
    certified = [target for target in targets if target.kind in CERTIFIED]
    if certified:
        if threshold == ESCALATE_ALL:
            raise InfeasibleTarget(
                f"{asked[0]} is met only where everything is escalated; nothing is kept there for "
                f"which {join_targets(certified)} could be certified",
                target=join_targets(targets),
                least_escalation=1.0,
            )
        grid = Grid(fit, at_least=threshold)
        certificate = certify(grid, held_out, certified, confidence)
        threshold = certificate.threshold

        def within(budget: Budget) -> list[Target]:
            found = [
                smallest_certifiable(grid, held_out, target, confidence, below=budget.threshold)
                for target in certified
            ]
            return [target for target in found if target is not None]

        _check_budgets(certified, threshold, budgets, fit, within)
    for target in asked:  # above the lowest such threshold, the accuracy may fall again
        reached = float(_accuracy(np.array([threshold]), fit)[0])
        if reached < target.value - 1e-9:
            raise InfeasibleTarget(
                f"{join_targets(certified)} needs threshold {threshold:.3f}, where the overall "
                f"accuracy is {reached:.3f}, but {target} is asked for: "
                f"{100 * (target.value - reached):.1f} points apart; ask for "
                f"accuracy={math.floor(100 * reached) / 100}, or leave out "
                f"{join_targets(certified)}",
                target=join_targets(targets),
                feasible=(f"accuracy={math.floor(100 * reached) / 100}",),
            )
    return threshold, certificate


def _check_budgets(
    wanted: Sequence[Target],
    threshold: float,
    budgets: Sequence[Budget],
    fit: FitPart,
    within: Callable[[Budget], list[Target]],
) -> None:
    """Raise when `wanted`, which need `threshold`, go beyond a budget.

    `within` finds what could be asked for instead of them within the strictest budget.
    """
    broken = [budget for budget in budgets if budget.threshold < threshold]
    if not broken:
        return
    strictest = min(broken, key=lambda budget: budget.ratio)
    needed = float(_ratios(np.array([threshold]), fit)[0])
    raised = [budget.raised_to(needed) for budget in broken]
    instead = [join_targets(found) for found in (within(strictest), raised) if found]
    verb = "needs" if len(wanted) == 1 else "need"
    raise InfeasibleTarget(
        f"{join_targets(wanted)} {verb} {needed:.0%} escalated, {strictest.target} allows "
        f"{strictest.ratio:.0%}: {100 * (needed - strictest.ratio):.0f} points apart; ask for "
        f"{' or '.join(instead)}",
        target=join_targets([*wanted, *(budget.target for budget in budgets)]),
        feasible=tuple(instead),
        least_escalation=needed,
    )


def _lowest_at_accuracy(target: Target, fit: FitPart) -> float:
    n_known = 0 if fit.llm is None else int(np.sum(~np.isnan(fit.llm)))
    if n_known < MIN_KEPT:
        raise FitError(
            f"{target} counts the large model's answers to what is escalated, but its outcome is "
            f"recorded for {n_known} questions of the fit part, and at least {MIN_KEPT} are "
            "needed; give items with an `llm` outcome, ask one with --llm NAME, or take agreement "
            "with it as the label (--labels llm)"
        )
    thresholds = candidate_thresholds(fit.p_served)
    accuracy = _accuracy(thresholds, fit)
    meets = np.flatnonzero(accuracy >= target.value - 1e-9)
    if len(meets):
        return float(thresholds[meets[0]])
    best = int(np.argmax(accuracy))
    raise InfeasibleTarget(
        f"{target} can't be reached: the highest overall accuracy is {accuracy[best]:.3f}, with "
        f"{_ratios(thresholds, fit)[best]:.0%} escalated; the large model alone has "
        f"{accuracy[-1]:.3f}. Ask for accuracy={math.floor(100 * accuracy[best]) / 100} or less",
        target=str(target),
        feasible=(f"accuracy={math.floor(100 * accuracy[best]) / 100}",),
    )


def _most_accurate(fit: FitPart, at_most: float) -> list[Target]:
    thresholds = candidate_thresholds(fit.p_served)
    best = float(_accuracy(thresholds[thresholds <= at_most], fit).max())
    return [Target("accuracy", math.floor(100 * best) / 100)]


def _accuracy(thresholds: FloatArray, fit: FitPart) -> FloatArray:
    """Overall accuracy at each threshold on the fit part's rows of known outcome."""
    assert fit.llm is not None  # `_lowest_at_accuracy` has looked
    known = ~np.isnan(fit.llm)
    p, by_llm = fit.p_correct, fit.llm == 1.0
    local = counts_kept(thresholds, p[known & fit.correct])
    remote = by_llm.sum() - counts_kept(thresholds, p[by_llm])
    return np.asarray((local + remote) / known.sum(), dtype=np.float64)


def _ratios(thresholds: FloatArray, fit: FitPart) -> FloatArray:
    """Escalation ratio at each threshold on the fit part, by the values that are served."""
    return 1.0 - counts_kept(thresholds, fit.p_served) / len(fit)
