"""What the engine observed of one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uq.signals import (
    SIGNALS,
    HiddenStates,
    OptionScores,
    Packed,
    Sample,
    packed,
    restored,
    unpacked,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything the engine saw while it produced one answer of ``n`` tokens.

    The statistics describe the model's own distribution at each step: after softmax over the raw
    logits, before temperature, penalties and filters. A request's sampler therefore does not change
    what they mean. The end-of-generation token is not one of the ``n`` tokens; its log-probability
    is kept apart in `end_logprob`.

    Parameters
    ----------
    text : str
        The answer as the user sees it, stop strings removed.
    tokens : int array of shape (n,)
        The tokens that contribute to `text`.
    offsets : int array of shape (n,)
        Index into `text` of the first character that each token contributes to.
    logprobs : float array of shape (n,)
        Natural log of the probability of each chosen token, in (-inf, 0].
    entropies : float array of shape (n,)
        Entropy of each step's distribution in nats, in [0, ln(vocabulary size)].
    margins : float array of shape (n,)
        Probability of the most likely token minus that of the second, in [0, 1].
    top_ids, top_logprobs : arrays of shape (n, k)
        The k most likely tokens of each step, most likely first; k may be 0.
    end_logprob : float
        Log-probability of the end-of-generation token that ended the answer; NaN when something
        else (a stop string, the token limit) ended it.
    finish_reason : str
        ``"stop"`` or ``"length"``, ``"tool_calls"`` of one that calls tools; or, of an answer given
        up, ``"gated"`` (never begun) or ``"stopped"`` (broken off).
    n_prompt : int
        Number of prompt tokens.
    hidden, samples, options : see `uq.signals`
        None when they were not asked for.
    p_true : pair of floats
        Log-probabilities of "True" and of "False", the model asked whether its answer is right.
    verbal_2s : str
        What the model said when asked how sure it is of its answer.
    verbal_1s : str
        What it said when asked for the answer and for how sure it is, in one go.
    """

    text: str
    tokens: IntArray
    offsets: IntArray
    logprobs: FloatArray
    entropies: FloatArray
    margins: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray
    end_logprob: float
    finish_reason: str
    n_prompt: int
    hidden: HiddenStates | None = None
    samples: tuple[Sample, ...] | None = None
    options: OptionScores | None = None
    p_true: tuple[float, float] | None = None
    verbal_2s: str | None = None
    verbal_1s: str | None = None

    def __post_init__(self) -> None:
        for name in _FLOAT_FIELDS:
            object.__setattr__(self, name, _frozen(getattr(self, name), np.float64))
        for name in _INT_FIELDS:
            object.__setattr__(self, name, _frozen(getattr(self, name), np.int64))
        n = len(self.tokens)
        for name in ("offsets", "logprobs", "entropies", "margins"):
            if getattr(self, name).shape != (n,):
                raise ValueError(
                    f"trace.{name} has shape {getattr(self, name).shape}, expected ({n},)"
                )
        if self.top_ids.shape != self.top_logprobs.shape or len(self.top_ids) != n:
            raise ValueError(
                f"trace.top_ids {self.top_ids.shape} and trace.top_logprobs "
                f"{self.top_logprobs.shape} must both have shape ({n}, k)"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arrays as bytes, see `uq.signals.packed`."""
        arrays = tuple(packed(getattr(self, name)) for name in _ARRAYS)
        return _unpickled, (arrays, tuple(getattr(self, name) for name in _OTHERS))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse (NaN becomes None)."""
        out: dict[str, Any] = {name: _plain(getattr(self, name)) for name in _ALWAYS}
        if np.isnan(self.end_logprob):
            out["end_logprob"] = None
        for name in SIGNALS:
            value = getattr(self, name)
            if value is not None:
                out[name] = _plain(value)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """Rebuild a trace from `to_dict`'s output. Raises KeyError when a field is missing."""
        values = {name: data[name] for name in _ALWAYS}
        if values["end_logprob"] is None:
            values["end_logprob"] = float("nan")
        n = len(values["tokens"])
        for name in ("top_ids", "top_logprobs"):
            values[name] = np.reshape(np.asarray(values[name]), (n, -1) if n else (0, 0))
        for name in SIGNALS:
            if name in data:
                values[name] = _READ[name](data[name])
        return cls(**values)


_READ: Mapping[str, Callable[[Any], Any]] = {
    "hidden": HiddenStates.from_dict,
    "samples": lambda samples: tuple(Sample.from_dict(sample) for sample in samples),
    "options": OptionScores.from_dict,
    "p_true": lambda pair: (float(pair[0]), float(pair[1])),
    "verbal_2s": str,
    "verbal_1s": str,
}
_ALWAYS = tuple(field.name for field in fields(Trace) if field.name not in SIGNALS)
_FLOAT_FIELDS = ("logprobs", "entropies", "margins", "top_logprobs")
_INT_FIELDS = ("tokens", "offsets", "top_ids")
_ARRAYS = (*_FLOAT_FIELDS, *_INT_FIELDS)
_OTHERS = tuple(field.name for field in fields(Trace) if field.name not in _ARRAYS)


def _unpickled(arrays: tuple[Packed, ...], others: tuple[Any, ...]) -> Trace:
    named = zip(_ARRAYS, map(unpacked, arrays), strict=True)
    return restored(Trace, (*named, *zip(_OTHERS, others, strict=True)))


def _plain(value: Any) -> Any:
    """`value` as JSON knows it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
