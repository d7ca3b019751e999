"""Everything that can go wrong between labelled questions and a calibration.

CalibrationError
├── DataError              a row of a data set can't be used; names file, line and field
├── FitError               too few records, one class only, or scores that are not numbers
├── InfeasibleTarget       no threshold meets the target on this data
└── ArtifactError          a calibration folder is missing, unreadable or altered
    └── ArtifactMismatch   it was measured on another model, template, sampler or estimator
"""

from __future__ import annotations


class CalibrationError(Exception):
    """Base of all errors that this package raises on purpose."""


class DataError(CalibrationError):
    """A row of a data set can't be used; the message names file, line and field."""


class FitError(CalibrationError):
    """Too few records, one class only, or scores that are not numbers."""


class InfeasibleTarget(CalibrationError):
    """No threshold meets the target on this data; the message says what is feasible.

    Attributes
    ----------
    target : what was asked for; "" when not noted.
    feasible : targets near it that can be met, one of them at a time; indicative, since they were
        found by trying.
    least_escalation : share of queries that any method would have to escalate; None when unknown.
    more_rows : about how many more held-out rows would help; None when no number would, or when
        that is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        feasible: tuple[str, ...] = (),
        least_escalation: float | None = None,
        more_rows: int | None = None,
    ) -> None:
        super().__init__(message)
        self.target = target
        self.feasible = feasible
        self.least_escalation = least_escalation
        self.more_rows = more_rows


class ArtifactError(CalibrationError):
    """A calibration folder is missing, unreadable or altered."""


class ArtifactMismatch(ArtifactError):
    """The calibration was measured on something else; `differences` names each."""

    def __init__(self, differences: tuple[str, ...]) -> None:
        super().__init__(
            "the calibration was not made for what is loaded: "
            + "; ".join(differences)
            + ". Run `router calibrate` for this model, or point `calibration` at a matching folder"
        )
        self.differences = differences
