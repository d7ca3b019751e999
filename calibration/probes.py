"""Probes: small networks that read from the model's hidden states whether its answer is wrong.

They are trained with torch (`calibration.probe_training`), run with numpy, and kept on disk by
`calibration.probe_file`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from calibration.errors import ArtifactError
from calibration.metrics import FloatArray
from uq.estimator import Access
from uq.signals import Float32Array, HiddenStates, Signal
from uq.trace import Trace

Place = Literal["prompt_end", "answer_last", "answer_mean"]
"""Where in the conversation a probe reads; see `uq.signals.HiddenStates`."""


@dataclass(frozen=True, slots=True)
class ProbeInput:
    """What a probe reads of a trace: the mean over some layers of the states at one place.

    A mean over layers tells right from wrong better than any last layer (RouterXBench,
    arXiv:2602.11877: AUROC 0.68 against 0.54).

    Parameters
    ----------
    place : ``"prompt_end"`` (known before anything is generated), ``"answer_last"`` or
        ``"answer_mean"``.
    layers : which layers, named as in `uq.signals.HiddenStates`; at least one, none twice.
    """

    place: Place
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.place not in get_args(Place):
            raise ValueError(
                f"a probe can't read at {self.place!r}; places are {', '.join(get_args(Place))}"
            )
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(
                f"a probe's layers must be different numbers from 0 on, not {self.layers}"
            )

    def read(self, trace: Trace) -> Float32Array | None:
        """Return the states of `trace` that the probe reads, of shape (d,).

        None when the trace has no hidden states, lacks one of the layers, or holds a state there
        that is not finite.
        """
        return None if trace.hidden is None else self.read_states(trace.hidden)

    def read_states(self, hidden: HiddenStates) -> Float32Array | None:
        """Return what `read` does of a trace with these states."""
        if self.layers != hidden.layers and not set(self.layers) <= set(hidden.layers):
            return None
        states: Float32Array = getattr(hidden, self.place)
        if self.layers != hidden.layers:
            states = states[[hidden.layers.index(layer) for layer in self.layers]]
        mean: FloatArray = np.add.reduce(states.astype(np.float64), axis=0) / len(self.layers)
        # One that is not finite makes its mean so; a sum of finite ones in single precision isn't.
        return mean.astype(np.float32) if np.isfinite(mean).all() else None


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    r"""A multilayer perceptron from hidden states to the log-odds that the answer is wrong.

    .. math:: h_0 = (x - \mathrm{mean}) / \mathrm{scale}, \quad
              h_i = \mathrm{LeakyReLU}(W_i h_{i-1} + b_i), \quad
              \mathrm{logit} = W_k h_{k-1} + b_k

    With one layer it is a linear probe.

    Parameters
    ----------
    input : what it reads of a trace.
    mean, scale : float arrays of shape (d,)
        Of the states it was trained on; scale > 0.
    weights : tuple of k >= 1 pairs (W, b)
        W of shape (outputs, inputs), b of shape (outputs,); the last layer has one output.
    slope : float
        Of LeakyReLU below 0, in [0, 1].

    Raises
    ------
    ArtifactError
        When the shapes don't go together or a number is not finite.

    References
    ----------
    Azaria and Mitchell, "The Internal State of an LLM Knows When It's Lying", EMNLP 2023,
    arXiv:2304.13734. Chuang et al., "Confident or Seek Stronger", arXiv:2502.04428 ("Trained
    Probe", "OOD Probe": four layers).
    """

    input: ProbeInput
    mean: Float32Array
    scale: Float32Array
    weights: tuple[tuple[Float32Array, Float32Array], ...]
    slope: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _frozen(self.mean))
        object.__setattr__(self, "scale", _frozen(self.scale))
        weights = tuple((_frozen(matrix), _frozen(bias)) for matrix, bias in self.weights)
        object.__setattr__(self, "weights", weights)
        problem = self._problem()
        if problem:
            raise ArtifactError(f"probe: {problem}; train it again, or restore its file")

    def _problem(self) -> str | None:
        """What makes it unusable; None when nothing does."""
        width = self.width
        if self.mean.shape != (width,) or self.scale.shape != (width,) or width == 0:
            return f"mean {self.mean.shape} and scale {self.scale.shape} must both be (d,), d >= 1"
        inputs = width
        for number, (matrix, bias) in enumerate(self.weights, start=1):
            if matrix.shape != (bias.size, inputs) or bias.shape != (bias.size,):
                return (
                    f"layer {number} has weights {matrix.shape} and biases {bias.shape}, "
                    f"but {inputs} inputs"
                )
            inputs = bias.size
        if not self.weights or inputs != 1:
            return "its last layer must have one output"
        arrays = [self.mean, self.scale, *(array for pair in self.weights for array in pair)]
        finite = all(np.isfinite(array).all() for array in arrays)
        if not finite or not (self.scale > 0).all() or not 0.0 <= self.slope <= 1.0:
            return "numbers must be finite, scales positive, and the slope from 0 to 1"
        return None

    @property
    def width(self) -> int:
        """d, how many numbers it reads."""
        return self.mean.size

    def predict(self, states: ArrayLike) -> FloatArray:
        """Return the log-odds of being wrong, of shape (n,).

        Parameters
        ----------
        states : array-like of shape (n, d)
            Rows as `ProbeInput.read` returns them. A row that is not finite gets NaN, as does one
            so far off that single precision can't tell.

        Raises
        ------
        ValueError
            When `states` has another shape.
        """
        x = np.asarray(states, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ValueError(f"states have shape {x.shape}, but this probe reads (n, {self.width})")
        logit = self._logits(x).astype(np.float64)
        return np.where(np.isfinite(logit) & np.isfinite(x).all(axis=1), logit, np.nan)

    def _logits(self, x: Float32Array) -> Float32Array:
        with np.errstate(over="ignore", invalid="ignore"):
            h = (x - self.mean) / self.scale
            for matrix, bias in self.weights[:-1]:
                h = h @ matrix.T + bias
                h = np.where(h > 0, h, np.float32(self.slope) * h)
            matrix, bias = self.weights[-1]
            return np.asarray((h @ matrix.T + bias)[:, 0])

    def score(self, trace: Trace) -> float:
        """Return P(wrong) in [0, 1]; NaN when the trace lacks what the probe reads."""
        return math.nan if trace.hidden is None else self.score_states(trace.hidden)

    def score_states(self, hidden: HiddenStates) -> float:
        """Return what `score` does of a trace with these states."""
        states = self.input.read_states(hidden)
        if states is None or states.shape != (self.width,):
            return math.nan
        logit = float(self._logits(states[np.newaxis])[0])
        return _sigmoid(logit) if math.isfinite(logit) else math.nan


class ProbeEstimator:
    """A probe as an estimator: the probability, by hidden states, that the answer is wrong.

    Range [0, 1]; higher = less sure. Reads the hidden states; costs their gathering.

    Parameters
    ----------
    name, version : see `uq.estimator.Estimator`.
    probe : the trained probe.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({"hidden"})
    access: ClassVar[Access] = "hidden"

    def __init__(self, name: str, version: int, probe: Probe) -> None:
        self.name = name
        self.version = version
        self.probe = probe

    def score(self, trace: Trace) -> float:
        """Return P(wrong) in [0, 1]; NaN when the trace lacks what the probe reads."""
        return self.probe.score(trace)


def _sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit))."""
    small = math.exp(-abs(logit))
    return (1.0 if logit >= 0.0 else small) / (1.0 + small)


def _frozen(values: ArrayLike) -> Float32Array:
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array
