"""What an uncertainty estimator is, and the registry of those there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from uq.signals import SIGNAL_COST, Signal
from uq.trace import Trace

Access = Literal["text", "logprobs", "hidden"]
"""What of the model an estimator must see: its words, its probabilities, its inner states."""


class AnswerOnly:
    """What estimators declare that read the answer's own log-probabilities and nothing more."""

    needs: ClassVar[frozenset[Signal]] = frozenset()
    access: ClassVar[Access] = "logprobs"


@runtime_checkable
class Estimator(Protocol):
    """Turns a trace into one number: how unsure the model is of its answer.

    `score` is a pure function. It returns a float, higher = less sure, and NaN when the trace does
    not hold what the estimator needs: unknown is not confident, and NaN escalates.
    """

    name: str
    """Unique, snake_case, the field's own term: ``perplexity``, ``mean_token_entropy``."""

    version: int
    """Raised when the same trace would score differently; calibrations are bound to it."""

    @property
    def needs(self) -> frozenset[Signal]:
        """The signals it reads besides the answer's own statistics."""

    @property
    def access(self) -> Access:
        """What of the model it must see."""

    def score(self, trace: Trace) -> float:
        """Return the uncertainty of the answer in `trace`; NaN when it can't be told."""


E = TypeVar("E", bound=Estimator)

_registry: dict[str, Estimator] = {}


def register(estimator: E) -> E:
    """Add `estimator` to the registry and return it. Raises ValueError when its name is taken."""
    if estimator.name in _registry:
        raise ValueError(f"an estimator named {estimator.name!r} is already registered")
    _registry[estimator.name] = estimator
    return estimator


def get_estimator(name: str) -> Estimator:
    """Return the estimator called `name`. Raises KeyError that lists the known names."""
    if name not in _registry:
        raise KeyError(f"no estimator named {name!r}; there are {', '.join(sorted(_registry))}")
    return _registry[name]


def estimator_names() -> tuple[str, ...]:
    """Return the names of all registered estimators, in the order of registration."""
    return tuple(_registry)


def score_all(trace: Trace, names: Iterable[str] | None = None) -> dict[str, float]:
    """Score `trace` with the named estimators (default: all). NaN where one can't tell."""
    chosen = _registry if names is None else {name: get_estimator(name) for name in names}
    return {name: estimator.score(trace) for name, estimator in chosen.items()}


def extra_cost(signals: Iterable[Signal]) -> float:
    """Compute of gathering `signals` on top of an answer, in units of one greedy answer."""
    return sum(SIGNAL_COST[signal] for signal in set(signals))
