"""From an uncertainty to P(correct).

Both calibrators follow scikit-learn's conventions: what is learned ends in ``_``, `fit` returns
self, NaN and a single class are errors. Both are monotone: a higher uncertainty never gets a higher
p_correct. Neither ever answers 0 or 1: no finite sample makes an answer certain. An uncertainty
that is NaN or infinite gets NaN: unknown stays unknown.

scikit-learn is imported where something is fitted, not at the top: a gateway only predicts, and
would wait more than a second for it at every start and give it 100 MB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import ArtifactError, FitError
from calibration.metrics import BoolArray, FloatArray, check_pairs

FOLDS = 5
"""Folds of the cross-validation in `choose_calibrator`."""

_NOT_RANKING = "the score does not rank these answers: {}. Use another estimator, or more answers"


class Calibrator(Protocol):
    """What turns an uncertainty into P(correct), once fitted."""

    kind: ClassVar[str]
    """``"isotonic"`` or ``"platt"``; its name in settings and artifacts."""

    def fit(self, uncertainty: ArrayLike, correct: ArrayLike) -> Calibrator:
        """Learn from labelled answers, arrays of shape (n,), and return self. Raises FitError."""

    def predict(self, uncertainty: ArrayLike) -> FloatArray:
        """Return p_correct in (0, 1), of the shape of `uncertainty`; NaN where that is unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned, ready for JSON; `calibrator_from_dict` is the exact inverse."""


class IsotonicCalibrator:
    """Non-increasing regression of correctness on uncertainty: pool adjacent violators.

    The fit is piecewise linear between the levels it finds and constant beyond the first and the
    last. Its two outer levels are often pure, m answers all right or all wrong, which plain
    isotonic regression turns into certainty. Here a pure level takes Laplace's estimate,
    (m + 1) / (m + 2) or 1 / (m + 2), but never passes its neighbour's level.

    Attributes
    ----------
    x_ : float array of shape (k,)
        Uncertainties at the corners of the fit, strictly increasing.
    y_ : float array of shape (k,)
        p_correct there, non-increasing, in (0, 1).
    n_ : int
        Number of answers it was fitted on.

    References
    ----------
    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates", KDD 2002. The fit is scikit-learn's `IsotonicRegression`.

    Examples
    --------
    >>> calibrator = IsotonicCalibrator().fit([1, 2, 3, 4], [True, True, False, False])
    >>> [float(p) for p in calibrator.predict([0, 1.5, 2.5, 9])]
    [0.75, 0.75, 0.5, 0.25]
    """

    kind: ClassVar[str] = "isotonic"

    x_: FloatArray
    y_: FloatArray
    n_: int

    def fit(self, uncertainty: ArrayLike, correct: ArrayLike) -> IsotonicCalibrator:
        """Fit to labelled answers.

        Parameters
        ----------
        uncertainty : array-like of shape (n,)
            Finite; higher = less sure.
        correct : array-like of shape (n,)
            Whether each answer is right.

        Raises
        ------
        FitError
            On one class only, on scores that are not finite, and when the best non-increasing fit
            is constant, so that the score does not rank.
        """
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415  see the module's docstring

        u, right = check_pairs(uncertainty, correct, both=True)
        model = IsotonicRegression(increasing=False).fit(u, right.astype(np.float64))
        x = np.asarray(model.X_thresholds_, dtype=np.float64)
        y = np.asarray(model.y_thresholds_, dtype=np.float64)
        if y[0] <= y[-1]:
            raise FitError(
                _NOT_RANKING.format("the best non-increasing fit of correctness on it is constant")
            )
        self.x_ = x
        self.y_ = _soften_pure_levels(x, y, u)
        self.n_ = len(u)
        return self

    def predict(self, uncertainty: ArrayLike) -> FloatArray:
        """Return p_correct in (0, 1), of the shape of `uncertainty`; NaN where that is not finite.

        Raises
        ------
        FitError
            Before `fit`.
        """
        x, y = _fitted(self, "x_"), _fitted(self, "y_")
        u = _known(uncertainty)
        # A rounding error of the interpolation must not pass the corner it leads to.
        after = np.clip(np.searchsorted(x, u, side="right"), 1, len(x) - 1)
        return np.asarray(np.clip(np.interp(u, x, y), y[after], y[after - 1]))

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned, ready for JSON; `from_dict` is the exact inverse."""
        x, y = _fitted(self, "x_"), _fitted(self, "y_")
        return {"kind": self.kind, "x": x.tolist(), "y": y.tolist(), "n": self.n_}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> IsotonicCalibrator:
        """Rebuild from `to_dict`'s output.

        Raises
        ------
        ArtifactError
            When a field is missing or the corners are not those of a fit.
        """
        self = cls()
        self.x_, self.y_ = _numbers(data, "x"), _numbers(data, "y")
        self.n_ = _count(data)
        x, y = self.x_, self.y_
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or np.any(np.diff(x) <= 0):
            raise ArtifactError("isotonic calibrator: x and y are not the corners of a function")
        if np.any(np.diff(y) > 0) or y[0] >= 1 or y[-1] <= 0:
            raise ArtifactError("isotonic calibrator: y must not increase and lie inside (0, 1)")
        return self


class PlattCalibrator:
    r"""Logistic regression of correctness on the uncertainty: Platt scaling.

    .. math:: p = \sigma(b + a \, (u - \mathrm{mean}) / \mathrm{scale}), \quad a < 0

    fitted to Platt's targets, (n+ + 1) / (n+ + 2) for right answers and 1 / (n- + 2) for wrong
    ones, which keep the slope finite where the score separates the two; the L2 penalty is next to
    nothing (C = 1e6). p is kept within [1 / (n + 2), (n + 1) / (n + 2)]: far outside the scores
    seen, the curve would otherwise round to 0 or 1.

    Attributes
    ----------
    mean_, scale_ : float
        Mean and standard deviation of the uncertainties fitted on.
    slope_, intercept_ : float
        a and b; a < 0.
    n_ : int
        Number of answers it was fitted on.

    References
    ----------
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999. The fit is scikit-learn's
    `LogisticRegression`.
    """

    kind: ClassVar[str] = "platt"

    mean_: float
    scale_: float
    slope_: float
    intercept_: float
    n_: int

    def fit(self, uncertainty: ArrayLike, correct: ArrayLike) -> PlattCalibrator:
        """Fit to labelled answers.

        Parameters
        ----------
        uncertainty : array-like of shape (n,)
            Finite; higher = less sure.
        correct : array-like of shape (n,)
            Whether each answer is right.

        Raises
        ------
        FitError
            On one class only, on scores that are not finite or all equal, and when p_correct would
            rise with uncertainty, so that the score does not rank.
        """
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  as for isotonic

        u, right = check_pairs(uncertainty, correct, both=True)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(u.mean()), float(u.std())
        if u.min() == u.max() or not 0.0 < scale < math.inf:
            raise FitError(_NOT_RANKING.format("it hardly varies, or too much to be standardised"))
        n, n_right = len(u), int(right.sum())
        target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n - n_right + 2))
        z = np.tile((u - mean) / scale, 2)[:, np.newaxis]
        # A target t between 0 and 1 is one row of each class, weighing t and 1 - t.
        model = LogisticRegression(C=1e6, solver="newton-cholesky", tol=1e-8).fit(
            z, np.repeat([1, 0], n), sample_weight=np.concatenate([target, 1 - target])
        )
        slope = float(model.coef_[0, 0])
        if slope >= 0.0:
            raise FitError(_NOT_RANKING.format("the less sure ones are not more often wrong"))
        self.mean_, self.scale_, self.n_ = mean, scale, n
        self.slope_, self.intercept_ = slope, float(model.intercept_[0])
        return self

    def predict(self, uncertainty: ArrayLike) -> FloatArray:
        """Return p_correct in (0, 1), of the shape of `uncertainty`; NaN where that is not finite.

        Raises
        ------
        FitError
            Before `fit`.
        """
        slope, n = _fitted(self, "slope_"), self.n_
        u = _known(uncertainty)
        # An infinite logit ends in the bounds below, a NaN stays one; neither is worth a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            logit = self.intercept_ + slope * ((u - self.mean_) / self.scale_)
            p = np.exp(-np.logaddexp(0.0, -logit))
        return np.asarray(np.clip(p, 1 / (n + 2), (n + 1) / (n + 2)))

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned, ready for JSON; `from_dict` is the exact inverse."""
        return {
            "kind": self.kind,
            "slope": _fitted(self, "slope_"),
            "intercept": self.intercept_,
            "mean": self.mean_,
            "scale": self.scale_,
            "n": self.n_,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlattCalibrator:
        """Rebuild from `to_dict`'s output.

        Raises
        ------
        ArtifactError
            When a field is missing or not one that a fit can leave.
        """
        self = cls()
        self.slope_, self.intercept_, self.mean_, self.scale_ = (
            _number(data, name) for name in ("slope", "intercept", "mean", "scale")
        )
        self.n_ = _count(data)
        if self.slope_ >= 0.0 or self.scale_ <= 0.0:
            raise ArtifactError("platt calibrator: slope must be negative and scale positive")
        return self


CALIBRATORS: Mapping[str, type[IsotonicCalibrator] | type[PlattCalibrator]] = {
    "isotonic": IsotonicCalibrator,
    "platt": PlattCalibrator,
}
"""The calibrators by their kind."""


def calibrator_from_dict(data: Mapping[str, Any]) -> IsotonicCalibrator | PlattCalibrator:
    """Rebuild the calibrator whose `to_dict` gave `data`; predictions are the same to the bit.

    Raises
    ------
    ArtifactError
        When the kind is unknown or a field is missing or impossible.
    """
    kind = str(data.get("kind"))
    if kind not in CALIBRATORS:
        raise ArtifactError(
            f"unknown kind of calibrator {kind!r}; known are {', '.join(sorted(CALIBRATORS))}"
        )
    return CALIBRATORS[kind].from_dict(data)


def choose_calibrator(uncertainty: ArrayLike, correct: ArrayLike, seed: int) -> str:
    """Return the kind of calibrator that predicts unseen answers better.

    Both are fitted and judged by log-loss in a stratified cross-validation of `FOLDS` folds (fewer
    when the rarer class has fewer answers). A fold on which a fit finds that the score does not
    rank is predicted by its share of right answers. A tie, or a rarer class of one answer, goes to
    ``"platt"``, which has two parameters.

    Parameters
    ----------
    uncertainty : array-like of shape (n,)
        Finite; higher = less sure.
    correct : array-like of shape (n,)
    seed : int
        Draws the folds.

    Raises
    ------
    FitError
        When neither can be fitted to all the answers; see the two `fit` methods.
    """
    u, right = check_pairs(uncertainty, correct, both=True)
    kinds, failure = [], None
    for kind in ("platt", "isotonic"):
        try:
            CALIBRATORS[kind]().fit(u, right)
            kinds.append(kind)
        except FitError as error:
            failure = error
    if not kinds and failure is not None:
        raise failure
    rarer = int(min(right.sum(), (~right).sum()))
    if len(kinds) == 1 or rarer < 2:
        return kinds[0]
    return min(kinds, key=lambda kind: _cross_validated_loss(kind, u, right, rarer, seed))


def _cross_validated_loss(
    kind: str, u: FloatArray, right: BoolArray, rarer: int, seed: int
) -> float:
    """Mean log-loss in nats per answer."""
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415  as above

    folds = StratifiedKFold(min(FOLDS, rarer), shuffle=True, random_state=seed)
    total = 0.0
    for train, test in folds.split(u, right):
        try:
            p = CALIBRATORS[kind]().fit(u[train], right[train]).predict(u[test])
        except FitError:
            p = np.full(len(test), right[train].mean())
        total -= np.log(np.where(right[test], p, 1.0 - p)).sum()
    return float(total / len(u))


def _soften_pure_levels(x: FloatArray, y: FloatArray, u: FloatArray) -> FloatArray:
    """Pull a first level of 1 and a last level of 0 off certainty; see `IsotonicCalibrator`."""
    top, bottom = y == 1.0, y == 0.0
    out = y.copy()
    if top.any():
        m = np.count_nonzero(u <= x[top][-1])
        out[top] = max((m + 1) / (m + 2), y[~top].max(initial=0.0))
    if bottom.any():
        m = np.count_nonzero(u >= x[bottom][0])
        out[bottom] = min(1 / (m + 2), y[~bottom].min(initial=1.0))
    return out


def _known(uncertainty: ArrayLike) -> FloatArray:
    u = np.asarray(uncertainty, dtype=np.float64)
    return np.where(np.isfinite(u), u, np.nan)


def _fitted(calibrator: object, attribute: str) -> Any:
    if not hasattr(calibrator, attribute):
        raise FitError(f"{type(calibrator).__name__} is not fitted yet; call fit first")
    return getattr(calibrator, attribute)


def _numbers(data: Mapping[str, Any], field: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(data[field], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"calibrator: {field!r} is missing or not of numbers") from error
    if not np.isfinite(values).all():
        raise ArtifactError(f"calibrator: {field!r} is not finite")
    return values


def _number(data: Mapping[str, Any], field: str) -> float:
    value = _numbers(data, field)
    if value.ndim != 0:
        raise ArtifactError(f"calibrator: {field!r} is not a single number")
    return float(value)


def _count(data: Mapping[str, Any]) -> int:
    n = data.get("n")
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise ArtifactError(f"calibrator: 'n' must be a whole number of at least 2, not {n!r}")
    return n
