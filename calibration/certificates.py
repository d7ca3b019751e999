"""Finite-sample statements about a threshold, from rows that nothing was fitted on.

A threshold is tested, not estimated. For each threshold t of a grid that the fit part alone has
set, the hypothesis "the error rate at t is above the bound" has the exact binomial p-value
P(Bin(n, bound) <= errors seen). The grid is gone through in a fixed order: from the threshold where
the fit part promises most towards laxer ones, for as long as p <= delta. The first hypothesis that
holds, if any, is passed with probability at most delta, and nothing beyond it is reached unless it
is: so with confidence 1 - delta every threshold passed keeps the bound, the last one among them. No
correction for their number is needed, and the error may rise and fall with the threshold as it
likes.

What doesn't work, and why there is an order at all: taking the laxest threshold whose own bound is
below the target. Each such bound is right 95 times in 100, but the laxest of 40 is picked for the
luck of its sample (a test shows it).

Several claims at once are tested as one hypothesis, "one of the bounds is broken at t", whose
p-value is the largest of theirs (Berger, "Multiparameter hypothesis testing and acceptance
sampling", Technometrics 24, 1982): all hold together with confidence 1 - delta, which need not be
split among them.

References
----------
Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then test: calibrating predictive algorithms to
achieve risk control" (2021; arXiv 2110.01052): fixed sequences.
Bates, Angelopoulos, Lei, Malik and Jordan, "Distribution-free, risk-controlling prediction sets",
JACM 68 (2021): losses that are monotone in the threshold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from calibration.bounds import BOUND_CONFIDENCE, p_at_most
from calibration.errors import FitError, InfeasibleTarget
from calibration.infeasible import Tested, not_certified
from calibration.metrics import FloatArray, IntArray
from calibration.parts import Grid, HeldOutPart, Labels, counts_kept, name_of
from calibration.targets import CERTIFIED, Target, TargetKind, join_targets

Test = Literal["fixed-sequence exact binomial", "monotone loss, exact binomial upper bound"]

_SEQUENCE: Test = "fixed-sequence exact binomial"
_MONOTONE: Test = "monotone loss, exact binomial upper bound"

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """One bound that a threshold keeps.

    Attributes
    ----------
    kind : ``risk``, the share of wrong answers among those kept, or ``loss``, the share of all
        queries on which a wrong answer is kept though the large model's would be right.
    target : as it was asked for, ``risk=0.1``.
    bound : the number in it.
    n : held-out rows; for a loss those of known outcome of the large model.
    n_kept, n_errors : rows of them kept, and errors counted among those.
    p_value : P(so few errors) if the rate were just at the bound.
    test : how it was tested.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["risk", "loss"]
    target: str
    bound: float
    n: int
    n_kept: int
    n_errors: int
    p_value: float
    test: Test


@dataclass(frozen=True, slots=True)
class Certificate:
    """With `confidence`, all `claims` hold for `threshold` on questions drawn like `population`.

    It is about the threshold, over repeated drawing of the held-out rows: of all certificates so
    made, a share of at most 1 - `confidence` is wrong. It says nothing of questions of another
    kind, of a changed model, or of a threshold beside it, not even a stricter one.

    Attributes
    ----------
    threshold : keep iff p_correct >= threshold.
    claims : at least one.
    confidence : of all claims together.
    population : what the held-out rows were drawn from.
    labels : who said what is right; see `calibration.parts.Labels`.
    """

    __pydantic_config__ = _STRICT

    threshold: float
    claims: tuple[Claim, ...]
    confidence: float
    population: str
    labels: Labels

    def describe(self) -> str:
        """Return it as a sentence or two for people."""
        said = " and ".join(map(_say, self.claims))
        text = (
            f"With {100 * self.confidence:.6g}% confidence, {said}, for questions drawn like "
            f"{self.population}; nothing is said of questions of another kind."
        )
        if self.labels == "llm":
            text += " An answer counts as wrong when it disagrees with the large model's."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {**asdict(self), "claims": [asdict(claim) for claim in self.claims]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Rebuild a certificate from `to_dict`'s output.

        Raises
        ------
        ValueError
            When a field is missing, unknown or of the wrong type; the message names it.
        """
        try:
            return _certificate_type().validate_json(json.dumps(dict(data)), strict=True)
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ValueError(f"not a certificate: {'; '.join(problems)}") from error


def read_certificate(data: Any) -> Certificate | None:
    """Rebuild a certificate or None, for pydantic: raises ValueError for what is neither."""
    if data is None or isinstance(data, Certificate):
        return data
    if not isinstance(data, Mapping):
        raise ValueError("a certificate is an object or null")
    return Certificate.from_dict(data)


CertificateField = Annotated[
    Certificate | None,
    PlainValidator(read_certificate),
    PlainSerializer(lambda certificate: certificate and certificate.to_dict()),
]


def certify_risk(
    grid: Grid, held_out: HeldOutPart, risk: float, confidence: float = BOUND_CONFIDENCE
) -> Certificate:
    """Return the laxest threshold at which at most `risk` of the kept answers are wrong: `certify`.

    How many rows it takes when no kept answer is wrong, at 95%: 59 for a risk of 0.05, 29 for 0.1,
    14 for 0.2; for an 80% chance to get it where the true risk is half of that, 361, 179 and 82.
    """
    return certify(grid, held_out, [Target("risk", risk)], confidence)


def certify_loss(
    grid: Grid, held_out: HeldOutPart, loss: float, confidence: float = BOUND_CONFIDENCE
) -> Certificate:
    """Return the laxest threshold that loses at most `loss` against always asking: `certify`.

    The loss of a query is 1 when its answer is kept and wrong while the large model's is right,
    else 0. So its mean bounds the accuracy lost from above: what the small model alone gets right
    is not set against it. It only grows as the threshold falls, so going through the grid from its
    strictest threshold is the bound of Bates et al.
    """
    return certify(grid, held_out, [Target("loss", loss)], confidence)


def certify(
    grid: Grid,
    held_out: HeldOutPart,
    targets: Sequence[Target],
    confidence: float = BOUND_CONFIDENCE,
) -> Certificate:
    """Return the laxest threshold of `grid` at which all `targets` hold with `confidence`.

    The targets are to be chosen before the held-out rows are looked at. Trying one after another on
    the same rows until one passes is what the confidence does not cover.

    Parameters
    ----------
    grid : Grid
    held_out : HeldOutPart
        No row of it may be one that the grid was set by. Where the large model's outcome is known
        for some rows only, those must be a random choice.
    targets : sequence of Target
        A risk, a loss, or both.
    confidence : float
        1 - delta, in (0, 1), for all together.

    Raises
    ------
    InfeasibleTarget
        When no threshold passes; the message says what would.
    FitError
        When `held_out` is no HeldOutPart or shares a row with the grid's fit part, `confidence` is
        impossible, or a loss is asked for without outcomes of the large model.
    """
    certificate = attempt(grid, held_out, targets, confidence)
    if certificate is None:
        raise _infeasible(grid, held_out, targets, confidence)
    return certificate


def attempt(
    grid: Grid,
    held_out: HeldOutPart,
    targets: Sequence[Target],
    confidence: float = BOUND_CONFIDENCE,
) -> Certificate | None:
    """Return what `certify` does, but None where it would say what is feasible instead.

    Raises
    ------
    FitError
        As `certify`.
    """
    _check_parts(grid, held_out, confidence)
    wanted = {target.kind: target.value for target in targets}
    if not wanted or len(wanted) < len(targets) or not set(wanted) <= set(CERTIFIED):
        raise FitError(
            f"{join_targets(targets) or 'no target'}: what can be certified is a risk, a loss, or "
            "one of each"
        )
    if "loss" in wanted and (held_out.llm is None or np.isnan(held_out.llm).all()):
        raise FitError(
            "a loss compares with the large model, but none of its outcomes is recorded for the "
            "held-out questions; give items with an `llm` outcome, ask one with --llm NAME, or "
            "take agreement with it as the label (--labels llm)"
        )
    counts = {kind: _count(kind, grid.thresholds, held_out) for kind in wanted}
    last = _last_passed(grid, counts, wanted, confidence)
    if last is None:
        return None
    return Certificate(
        threshold=float(grid.thresholds[last]),
        claims=tuple(_claim(target, counts[target.kind], last) for target in targets),
        confidence=confidence,
        population=held_out.population,
        labels=held_out.labels,
    )


def smallest_certifiable(
    grid: Grid,
    held_out: HeldOutPart,
    target: Target,
    confidence: float = BOUND_CONFIDENCE,
    *,
    below: float = math.inf,
) -> Target | None:
    """Return the smallest risk (or loss) above `target` that passes, in whole hundredths.

    A hint, not a certificate: it is found by trying bounds on the same rows. None when there is
    none up to 0.99.

    Parameters
    ----------
    grid, held_out, target, confidence : as in `certify`.
    below : float
        Only thresholds up to this count.
    """
    counts = {target.kind: _count(target.kind, grid.thresholds, held_out)}

    def passes(hundredth: int) -> bool:
        last = _last_passed(grid, counts, {target.kind: hundredth / 100}, confidence)
        return last is not None and grid.thresholds[last] <= below

    failing, passing = math.floor(100 * target.value), 99
    if failing >= passing or not passes(passing):
        return None
    while passing - failing > 1:
        middle = (failing + passing) // 2
        if passes(middle):
            passing = middle
        else:
            failing = middle
    return Target(target.kind, passing / 100)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What each threshold of a grid does on the held-out rows; arrays of shape (k,)."""

    n_rows: int
    n_kept: IntArray
    n_tested: IntArray  # how many answers the rate is a share of
    n_errors: IntArray

    def p_values(self, bound: float) -> FloatArray:
        return p_at_most(self.n_errors, self.n_tested, bound)


def _count(kind: TargetKind, thresholds: FloatArray, held_out: HeldOutPart) -> _Counts:
    p, wrong = held_out.p_correct, ~held_out.correct
    if kind == "risk":
        kept = counts_kept(thresholds, p)
        return _Counts(len(p), kept, kept, counts_kept(thresholds, p[wrong]))
    assert held_out.llm is not None  # `certify` has looked
    recorded = ~np.isnan(held_out.llm)
    n_rows = int(recorded.sum())
    return _Counts(
        n_rows,
        counts_kept(thresholds, p[recorded]),
        np.full(len(thresholds), n_rows),
        counts_kept(thresholds, p[wrong & (held_out.llm == 1.0)]),
    )


def _last_passed(
    grid: Grid,
    counts: Mapping[TargetKind, _Counts],
    bounds: Mapping[TargetKind, float],
    confidence: float,
) -> int | None:
    p = np.max([counts[kind].p_values(bound) for kind, bound in bounds.items()], axis=0)
    start = grid.start(bounds, {kind: counts[kind].n_rows for kind in bounds})
    failed = np.flatnonzero(p[start:] > 1.0 - confidence)
    n_passed = int(failed[0]) if len(failed) else len(p) - start
    return start + n_passed - 1 if n_passed else None


def _claim(target: Target, counts: _Counts, last: int) -> Claim:
    risk = target.kind == "risk"
    return Claim(
        kind="risk" if risk else "loss",
        target=str(target),
        bound=target.value,
        n=counts.n_rows,
        n_kept=int(counts.n_kept[last]),
        n_errors=int(counts.n_errors[last]),
        p_value=float(counts.p_values(target.value)[last]),
        test=_SEQUENCE if risk else _MONOTONE,
    )


def _infeasible(
    grid: Grid,
    held_out: HeldOutPart,
    targets: Sequence[Target],
    confidence: float,
) -> InfeasibleTarget:
    alone = {}
    for target in targets:
        count, bounds = _count(target.kind, grid.thresholds, held_out), {target.kind: target.value}
        last = _last_passed(grid, {target.kind: count}, bounds, confidence)
        if last is None:
            start = grid.start(bounds, {target.kind: count.n_rows})
            return not_certified(
                target,
                grid,
                held_out,
                Tested(
                    float(grid.thresholds[start]),
                    int(count.n_tested[start]),
                    int(count.n_errors[start]),
                ),
                confidence=confidence,
                smallest=smallest_certifiable(grid, held_out, target, confidence),
            )
        alone[target] = last
    parts = " and ".join(
        f"{target} from threshold {grid.thresholds[last]:.3f} on" for target, last in alone.items()
    )
    return InfeasibleTarget(
        f"{join_targets(targets)} can't be certified together with {100 * confidence:.6g}% "
        f"confidence, though each can alone: {parts}. At the threshold where the fit part promises "
        "most for both, one of them fails. Ask for a little less of either, or have more held-out "
        "rows",
        target=join_targets(targets),
        feasible=tuple(str(target) for target in targets),
    )


def _check_parts(grid: Grid, held_out: HeldOutPart, confidence: float) -> None:
    if not isinstance(held_out, HeldOutPart):
        raise FitError(
            f"a certificate rests on a HeldOutPart, not on a {type(held_out).__name__}: rows that "
            "anything was fitted on prove nothing about new ones"
        )
    if not isinstance(grid, Grid):
        raise FitError(f"a certificate needs a Grid set by a FitPart, not a {type(grid).__name__}")
    if not grid.fitted_on.isdisjoint(held_out.keys):
        shared = sorted(grid.fitted_on.intersection(held_out.keys))
        raise FitError(
            f"{name_of(shared[0])} is in the fit part and among the held-out rows, one of "
            f"{len(shared)} in both; a certificate needs rows that nothing was fitted on"
        )
    if not 0.0 < confidence < 1.0:
        raise FitError(f"the confidence is {confidence!r}; give a number between 0 and 1")


def _say(claim: Claim) -> str:
    if claim.kind == "risk":
        return f"at most {100 * claim.bound:.4g}% of the answers kept are wrong"
    return (
        f"at most {100 * claim.bound:.4g} in 100 queries keep a wrong answer where the large "
        "model's would be right"
    )


_adapters: list[TypeAdapter[Certificate]] = []


def _certificate_type() -> TypeAdapter[Certificate]:
    if not _adapters:  # built once, on first use
        _adapters.append(TypeAdapter(Certificate))
    return _adapters[0]
