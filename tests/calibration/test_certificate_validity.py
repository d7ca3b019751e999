"""Certificates against known worlds: are they wrong no more often than they say?

A world says how often each score occurs and how often an answer with it is wrong, so the true risk
of any threshold is known. In each case 2,000 held-out parts are drawn, and the share of draws in
which a certificate is issued for a threshold that breaks its bound is held against delta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from calibration.bounds import binomial_interval, p_at_most
from calibration.certificates import attempt
from calibration.metrics import FloatArray
from calibration.parts import FitPart, Grid, HeldOutPart, counts_kept
from calibration.targets import Target, TargetKind

# Thousands of draws over lines that other tests cover: tracing them would take longest.
pytestmark = pytest.mark.no_cover

DRAWS = 2000
PER_GRID = 100  # draws that share a fit part
CONFIDENCE = 0.95
LEVELS = 200


@dataclass(frozen=True)
class World:
    """Scores `p` (k,), the surest first, and what is true at each of them.

    `llm` is P(the large model is right | the local answer is wrong). A share `unknown` of the rows
    has no score, a share `unrecorded` no outcome of the large model, and of a share `noise` of the
    rows the label is the wrong way round.
    """

    error: FloatArray
    p: FloatArray = field(default_factory=lambda: np.linspace(0.99, 0.01, LEVELS))
    llm: float = 0.8
    unknown: float = 0.0
    unrecorded: float = 0.0
    noise: float = 0.0

    @property
    def labelled_error(self) -> FloatArray:
        return self.error * (1 - self.noise) + (1 - self.error) * self.noise

    def risk(self, threshold: float) -> float:
        return float(self.labelled_error[self.p >= threshold].mean())

    def loss(self, threshold: float) -> float:
        lost = np.where(self.p >= threshold, self.labelled_error * self.llm, 0.0)
        return float(lost.mean() * (1 - self.unknown))

    def draw(self, rng: np.random.Generator, n: int, draws: int) -> _Rows:
        level = rng.integers(len(self.p), size=(draws, n))
        wrong = rng.random((draws, n)) < self.error[level]
        wrong ^= rng.random((draws, n)) < self.noise
        llm = np.where(wrong, rng.random((draws, n)) < self.llm, 1.0)
        llm[rng.random((draws, n)) < self.unrecorded] = np.nan
        p = self.p[level]
        p[rng.random((draws, n)) < self.unknown] = np.nan
        return _Rows(p, ~wrong, llm)


@dataclass(frozen=True)
class _Rows:
    p: FloatArray
    right: np.typing.NDArray[np.bool_]
    llm: FloatArray


@dataclass(frozen=True)
class Case:
    """A world, the bounds asked for in it, and sizes.

    `often`: in at least this share of the draws there is a certificate, so that the case says
    something of those, too.
    """

    world: World
    values: tuple[float, ...]
    n: int = 200
    n_fit: int = 300
    often: float = 0.0
    told: World | None = None  # what the fit part is drawn from, where it is another world


Rule = Callable[..., float | None]


def broken_and_issued(case: Case, rule: Rule, breaks: Callable[[float], bool]) -> tuple[int, int]:
    """Return in how many draws `rule` gave a threshold that breaks its bound, and gave any."""
    rng = np.random.default_rng(20240501)
    keys = tuple(("held-out", str(i)) for i in range(case.n))
    fit_keys = tuple(("fit", str(i)) for i in range(case.n_fit))
    broken = issued = 0
    for _ in range(DRAWS // PER_GRID):
        told = (case.told or case.world).draw(rng, case.n_fit, 1)
        fit = FitPart(keys=fit_keys, p_correct=told.p[0], correct=told.right[0], llm=told.llm[0])
        grid = Grid(fit)
        rows = case.world.draw(rng, case.n, PER_GRID)
        for p, right, llm in zip(rows.p, rows.right, rows.llm, strict=True):
            held_out = HeldOutPart(
                keys=keys, p_correct=p, correct=right, llm=llm, population="draws"
            )
            threshold = rule(grid, held_out, *case.values)
            if threshold is not None:
                issued += 1
                broken += breaks(threshold)
    return broken, issued


def certified(*kinds: TargetKind) -> Rule:
    def rule(grid: Grid, held_out: HeldOutPart, *values: float) -> float | None:
        targets = [Target(kind, value) for kind, value in zip(kinds, values, strict=True)]
        certificate = attempt(grid, held_out, targets, CONFIDENCE)
        return None if certificate is None else certificate.threshold

    return rule


def by_pointwise_bound(grid: Grid, held_out: HeldOutPart, risk: float) -> float | None:
    """The rule that looks right and is not: the laxest threshold whose own bound is kept."""
    kept = counts_kept(grid.thresholds, held_out.p_correct)
    wrong = counts_kept(grid.thresholds, held_out.p_correct[~held_out.correct])
    passed = np.flatnonzero(p_at_most(wrong, kept, risk) <= 1 - CONFIDENCE)
    return float(grid.thresholds[passed[-1]]) if len(passed) else None


def stays_under_delta(broken: int) -> bool:
    """Whether the exact 95% interval of the share is not wholly above delta."""
    return binomial_interval(broken, DRAWS)[0] <= 1 - CONFIDENCE


def flat(error: float) -> FloatArray:
    return np.full(LEVELS, error)


def then(*pieces: tuple[float, float]) -> FloatArray:
    """Errors by shares of the answers, the surest first: ``(0.5, 0.02), (0.5, 0.3)``."""
    return np.concatenate([np.full(round(share * LEVELS), error) for share, error in pieces])


TIES = (np.array([0.02, 0.1, 0.21, 0.3, 0.6]), np.array([0.9, 0.8, 0.6, 0.4, 0.2]))
INFORMATIVE = 0.02 + 0.6 * np.linspace(0, 1, LEVELS) ** 2
# The surest 45% err in 2%; just behind them the error among kept answers jumps above 10%.
JUMP = then((0.45, 0.02), (0.05, 0.87), (0.5, 0.105))
U_SHAPED = then((0.1, 0.5), (0.5, 0.01), (0.4, 0.3))
WAVES = np.where(np.arange(LEVELS) // 10 % 2 == 0, 0.0, 0.21)

RISKS = {
    "scores that tell nothing": Case(World(flat(0.105)), (0.1,)),
    "nothing, by a hair, of 500 rows": Case(World(flat(0.1005)), (0.1,), n=500),
    "scores that tell much": Case(World(INFORMATIVE), (0.1,), often=0.3),
    "a jump right below the start": Case(World(JUMP), (0.1,), n=300, often=0.9),
    "the surest answers are wrong": Case(World(U_SHAPED), (0.13,), n=300),
    "errors in waves": Case(World(WAVES), (0.1,)),
    "a fit part that misleads": Case(World(flat(0.105)), (0.1,), told=World(INFORMATIVE)),
    "a fit part that has it backwards": Case(
        World(INFORMATIVE), (0.2,), told=World(INFORMATIVE[::-1])
    ),
    "60 rows that tell nothing": Case(World(flat(0.205)), (0.2,), n=60, n_fit=90),
    "60 rows that tell much": Case(World(INFORMATIVE), (0.2,), n=60, n_fit=90, often=0.4),
    "five values of the score": Case(World(*TIES), (0.1,)),
    "noisy labels": Case(World(INFORMATIVE, noise=0.05), (0.15,)),
    "scores that are missing": Case(World(flat(0.105), unknown=0.3), (0.1,)),
}

LOSSES = {
    "scores that tell nothing": Case(World(flat(0.13), llm=0.8), (0.1,)),
    "too much from the start": Case(World(then((0.025, 1.0), (0.975, 0.0)), llm=0.85), (0.02,)),
    "scores that tell much": Case(World(INFORMATIVE), (0.05,), often=0.95),
    "a jump": Case(World(JUMP, llm=1.0), (0.05,), n=300),
    "the surest answers are wrong": Case(World(U_SHAPED), (0.05,), n=300),
    "60 rows": Case(World(INFORMATIVE), (0.1,), n=60, n_fit=90),
    "outcomes that are missing": Case(World(INFORMATIVE, unrecorded=0.4), (0.05,), n=300),
    "noisy labels": Case(World(INFORMATIVE, noise=0.05), (0.05,)),
    "five values of the score": Case(World(*TIES), (0.05,)),
}

BOTH = {
    "both bind": Case(World(INFORMATIVE), (0.1, 0.05), n=300, often=0.5),
    "each breaks for other thresholds": Case(World(U_SHAPED), (0.12, 0.06), n=300),
    "scores that tell nothing": Case(World(flat(0.105), llm=0.95), (0.1, 0.1), n=300),
}


@pytest.mark.parametrize("name", RISKS)
def test_risks_are_broken_no_more_often_than_said(name: str) -> None:
    case = RISKS[name]
    broken, issued = broken_and_issued(
        case, certified("risk"), lambda t: case.world.risk(t) > case.values[0]
    )
    assert issued >= case.often * DRAWS
    assert stays_under_delta(broken)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_broken_no_more_often_than_said(name: str) -> None:
    case = LOSSES[name]
    broken, issued = broken_and_issued(
        case, certified("loss"), lambda t: case.world.loss(t) > case.values[0]
    )
    assert issued >= case.often * DRAWS
    assert stays_under_delta(broken)


@pytest.mark.parametrize("name", BOTH)
def test_two_claims_hold_together_as_often_as_one(name: str) -> None:
    case = BOTH[name]
    broken, issued = broken_and_issued(
        case,
        certified("risk", "loss"),
        lambda t: case.world.risk(t) > case.values[0] or case.world.loss(t) > case.values[1],
    )
    assert issued >= case.often * DRAWS
    assert stays_under_delta(broken)


def test_noise_in_the_labels_makes_certificates_stricter() -> None:
    # What is certified is the error by the labels: above the true one while that is under a half.
    case = RISKS["noisy labels"]
    clean = replace(case.world, noise=0.0)
    broken, issued = broken_and_issued(
        case, certified("risk"), lambda t: clean.risk(t) > case.values[0]
    )
    assert issued > 0.1 * DRAWS
    assert broken < 0.005 * DRAWS


@pytest.mark.parametrize("name", ["scores that tell nothing", "nothing, by a hair, of 500 rows"])
def test_a_pointwise_bound_fails_the_same_test(name: str) -> None:
    case = RISKS[name]
    broken, _ = broken_and_issued(
        case, by_pointwise_bound, lambda t: case.world.risk(t) > case.values[0]
    )
    assert not stays_under_delta(broken)


def test_a_start_chosen_on_the_held_out_rows_fails_the_same_test() -> None:
    def rule(_: Grid, held_out: HeldOutPart, risk: float) -> float | None:
        same = FitPart(
            keys=tuple(("fit", name) for _, name in held_out.keys),
            p_correct=held_out.p_correct,
            correct=held_out.correct,
        )
        return certified("risk")(Grid(same), held_out, risk)

    case = RISKS["scores that tell nothing"]
    broken, _ = broken_and_issued(case, rule, lambda t: case.world.risk(t) > case.values[0])
    assert not stays_under_delta(broken)
