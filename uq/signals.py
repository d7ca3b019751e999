"""What the engine can observe beyond an answer: hidden states, samples, follow-ups, options.

Each is asked for by name, costs what `SIGNAL_COST` says, and is None in a trace that lacks it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Signal = Literal["hidden", "p_true", "options", "verbal_2s", "verbal_1s", "samples"]

SIGNALS: tuple[Signal, ...] = get_args(Signal)

Float32Array = NDArray[np.float32]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class HiddenStates:
    """The residual stream after chosen layers, at three places of one conversation.

    Parameters
    ----------
    layers : tuple of L ints
        Which layers, counted from 0 at the input.
    prompt_end : float array of shape (L, d)
        At the prompt's last token: before anything is generated.
    answer_last : float array of shape (L, d)
        At the last token of the answer that the model read back (from there it chose to end).
        NaN when it read none back: an answer of one token, cut by the token limit.
    answer_mean : float array of shape (L, d)
        Mean over all such tokens; NaN likewise.
    """

    layers: tuple[int, ...]
    prompt_end: Float32Array
    answer_last: Float32Array
    answer_mean: Float32Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        for name in _PLACES:
            states = _frozen(getattr(self, name), np.float32)
            if states.ndim != 2 or len(states) != len(self.layers):
                raise ValueError(
                    f"hidden.{name} has shape {states.shape}, expected ({len(self.layers)}, width)"
                )
            object.__setattr__(self, name, states)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the states as bytes, see `packed`."""
        return _unpickled, (self.layers, *(packed(getattr(self, name)) for name in _PLACES))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; states are kept in half precision, in base64."""
        states = np.stack([getattr(self, name) for name in _PLACES])
        # A state beyond half precision's range comes back as infinite, which no probe believes.
        with np.errstate(over="ignore"):
            half = states.astype("<f2")
        return {
            "layers": list(self.layers),
            "states": base64.b64encode(half.tobytes()).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HiddenStates:
        """Rebuild from `to_dict`'s output, up to half precision's rounding."""
        layers = tuple(data["layers"])
        raw = np.frombuffer(base64.b64decode(data["states"]), "<f2").astype(np.float32)
        return cls(layers, *raw.reshape(len(_PLACES), len(layers), -1))


_PLACES = ("prompt_end", "answer_last", "answer_mean")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Another answer to the same prompt, drawn at temperature 1.

    Parameters
    ----------
    text : str
    logprobs : float array of shape (n,)
        Natural log of the probability of each of its tokens, before temperature.
    """

    text: str
    logprobs: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "logprobs", _frozen(self.logprobs, np.float64))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {"text": self.text, "logprobs": self.logprobs.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sample:
        """Rebuild from `to_dict`'s output."""
        return cls(data["text"], data["logprobs"])


@dataclass(frozen=True, slots=True, eq=False)
class OptionScores:
    """How likely the model finds each of the k options of a multiple-choice question.

    Parameters
    ----------
    letters : float array of shape (k,)
        Log-probability of each option's letter as the beginning of the answer.
    texts : float array of shape (k,)
        Log-likelihood of each option's text as the answer to the question asked without its
        options (cloze): the sum over its tokens.
    lengths : int array of shape (k,)
        How many tokens each option's text has.
    chosen : int
        Index of the option that the answer chose; -1 when it can't be told.
    """

    letters: NDArray[np.float64]
    texts: NDArray[np.float64]
    lengths: NDArray[np.int64]
    chosen: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "letters", _frozen(self.letters, np.float64))
        object.__setattr__(self, "texts", _frozen(self.texts, np.float64))
        object.__setattr__(self, "lengths", _frozen(self.lengths, np.int64))
        k = len(self.letters)
        if self.texts.shape != (k,) or self.lengths.shape != (k,) or not -1 <= self.chosen < k:
            raise ValueError(
                f"option scores of {k} letters, {len(self.texts)} texts, {len(self.lengths)} "
                f"lengths and the choice {self.chosen} don't go together"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {
            "letters": self.letters.tolist(),
            "texts": self.texts.tolist(),
            "lengths": self.lengths.tolist(),
            "chosen": self.chosen,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OptionScores:
        """Rebuild from `to_dict`'s output."""
        return cls(data["letters"], data["texts"], data["lengths"], data["chosen"])


SIGNAL_COST: Mapping[Signal, float] = {
    "hidden": 0.07,
    "p_true": 0.07,
    "verbal_2s": 0.25,
    "options": 0.23,
    "verbal_1s": 1.1,
    "samples": 2.2,
}
"""Extra compute of each signal, in units of one greedy answer of 64 tokens, as `benchmarks/uq.py`
measured it on 2 CPU cores (docs/uncertainty.md)."""


Packed = tuple[bytes, str, tuple[int, ...]]
"""An array's bytes, type and shape."""


def packed(array: NDArray[Any]) -> Packed:
    """Return what `unpacked` makes an equal, read-only array of.

    With every answer a trace comes from the engine's process. numpy's own pickles of its arrays
    take five times as long to read.
    """
    return array.tobytes(), array.dtype.str, array.shape


def unpacked(array: Packed) -> NDArray[Any]:
    """Return the array that was `packed`."""
    raw, dtype, shape = array
    return np.ndarray(shape, dtype, raw)


def restored(kind: type[T], values: Iterable[tuple[str, Any]]) -> T:
    """Return a frozen object with these fields, which were checked when it was first made."""
    made = object.__new__(kind)
    for name, value in values:
        object.__setattr__(made, name, value)
    return made


def _unpickled(layers: tuple[int, ...], *states: Packed) -> HiddenStates:
    named = zip(_PLACES, map(unpacked, states), strict=True)
    return restored(HiddenStates, [("layers", layers), *named])


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
