"""What a fit measures: the figures behind a calibration, for its report and for `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from calibration.certificates import Certificate
from calibration.exits import EarlyStop, Gate
from calibration.figures import BrierScores, EceScores, EstimatorQuality
from calibration.parts import Labels


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers of similar confidence (one of ten groups of equal size) on the test part.

    A share `accuracy` of the `n` answers is right, with the exact 95% binomial interval
    `low` to `high`, where their mean `confidence` says how many should be.
    """

    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """Counts of right and of wrong answers by their uncertainty, all records of known score.

    `edges` (bins + 1) are evenly spaced from the lowest score to the 99th percentile; scores above
    count in the last bin.
    """

    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupQuality:
    """How one family or data set fares: `accuracy` on its `n` records, the rest on its test part.

    `accuracy_kept` is None when none of its `n_test` answers was kept, `escalation_ratio` when it
    has none.
    """

    n: int
    accuracy: float
    n_test: int
    escalation_ratio: float | None
    accuracy_kept: float | None


@dataclass(frozen=True, slots=True)
class MethodValue:
    """Why a method was or was not chosen.

    `auroc` is that of its scores on the fit part (of a learned one, out of fold), unknown ones
    ranking last; `cost` its extra compute in units of one greedy answer; `value` what decides:
    (auroc - 0.5) / (1 + cost), the alignment above chance that a unit of compute buys.
    """

    auroc: float
    cost: float
    value: float


@dataclass(frozen=True, slots=True)
class CostedQuality:
    """What an average query costs, in units of one greedy answer, and the AUROC of P(correct).

    The AUROC is None where all answers are right, or all wrong.
    """

    cost: float
    auroc: float | None


@dataclass(frozen=True, slots=True)
class Spending:
    """What a costly score costs and buys, measured on the test part.

    `cheapest` is P(correct) by the score `cheap` alone, `everything` by `costly` for every answer;
    `adaptive` reads `costly` for the share `share` of the answers, those about which `cheap` leaves
    doubt, and so for that share of the extra cost. Of what `everything` gains in AUROC over
    `cheapest`, `adaptive` gains `share_of_gain` (None where nothing is gained).
    """

    cheap: str
    costly: str
    share: float
    cheapest: CostedQuality
    adaptive: CostedQuality
    everything: CostedQuality
    share_of_gain: float | None


@dataclass(frozen=True)
class FitReport:
    """What was fitted and what it measures. Shares are in [0, 1]; intervals are 95%.

    Attributes
    ----------
    n : number of records.
    accuracy : share of them answered right.
    estimators : AUROC of each raw score with its bootstrap interval, on all records.
    ece, brier : before (the naive confidence exp(mean log p)) and after, on the test part.
    target, threshold : the threshold that was chosen, and for what.
    escalation_ratio, accuracy_kept, risk_upper, n_kept, loss, accuracy_overall : what it does on
        the test part, see `calibration.thresholds.OperatingPoint`.
    certificate : what is certain of it; None when nothing is.
    labels, labelled_by, population : see `calibration.artifact.Calibration`.
    n_feedback : answers of live traffic that the calibrator was fitted on as well.
    accuracy_test : share of right answers on the test part, the `accuracy_kept` of keeping all.
    method, calibrator : the estimator and the kind of calibrator that were chosen or asked for.
    mean_width : of the interval that a Venn-Abers calibrator gives P(correct), on the fit part;
        None for another kind.
    cv_brier : cross-validated Brier score on the fit part of each method that could be fitted.
    methods : what speaks for each of them.
    spending : what looking closer costs and buys, whether it is used or not; None without a costly
        score that ranks.
    gate, early_stop : when an answer is given up; None for never.
    n_fit, n_test : sizes of the parts.
    n_unknown : records whose score by `method` is unknown: not fitted on, counted as escalated.
    groups : by family, or by data set where a record has no family.
    warnings : sentences on what makes these figures weak; empty when nothing does.
    reliability_before, reliability_after, scores : what the report's plots show.
    """

    n: int
    accuracy: float
    estimators: Mapping[str, EstimatorQuality]
    ece: EceScores
    brier: BrierScores
    target: str
    threshold: float
    escalation_ratio: float
    accuracy_kept: float | None
    risk_upper: float | None
    n_kept: int
    loss: float | None
    accuracy_overall: float | None
    certificate: Certificate | None
    labels: Labels
    labelled_by: str
    population: str
    n_feedback: int
    accuracy_test: float
    method: str
    calibrator: str
    mean_width: float | None
    cv_brier: Mapping[str, float]
    methods: Mapping[str, MethodValue]
    spending: Spending | None
    gate: Gate | None
    early_stop: EarlyStop | None
    n_fit: int
    n_test: int
    n_unknown: int
    groups: Mapping[str, GroupQuality]
    warnings: tuple[str, ...]
    reliability_before: tuple[ReliabilityBin, ...]
    reliability_after: tuple[ReliabilityBin, ...]
    scores: ScoreHistogram

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; the data of the plots is left out."""
        content = asdict(self)
        for name in ("reliability_before", "reliability_after", "scores"):
            del content[name]
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
        return plain
