"""How probes are trained.

torch and scikit-learn are imported where something is trained: whoever only runs a probe needs
neither. What is trained on the same rows with the same seed is the same, on one kind of machine;
the global random state is neither read nor changed.

Training takes one thread, whatever torch and BLAS are set to, and leaves their settings as they
were. A step is too small to share out: on two busy cores, two threads that waited for each other
took 82 s for what one does in 2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import FitError
from calibration.folds import stratified_folds
from calibration.metrics import BoolArray, FloatArray
from calibration.probes import Probe, ProbeInput
from calibration.threads import one_blas_thread
from uq.signals import Float32Array

if TYPE_CHECKING:
    from torch import Tensor

IN_DOMAIN_LR = 5e-4
"""The paper's learning rate for questions like those it is trained on."""

OUT_OF_DOMAIN_LR = 1e-4
"""The paper's learning rate for a probe that is to serve other data sets than its own."""

HIDDEN = (128, 64, 32)
"""Widths of the MLP's hidden layers; the paper gives the number of layers, not their widths."""

WEIGHT_DECAYS = (0.01, 3.0, 10.0, 30.0)
"""What the MLP's weight decay is chosen from. At lr 5e-4 and a thousand steps they shrink a weight
that nothing holds up by 0.5 %, 78 %, 99 % and more."""

INVERSE_PENALTIES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)
"""What the linear probe's C is chosen from."""

MIN_OF_EACH = 10
"""Fewer right or fewer wrong answers than this train nothing."""

_SLOPE = 0.01
_BATCH = 32
_FOLDS = 5


def train_probe(
    states: ArrayLike,
    wrong: ArrayLike,
    *,
    input: ProbeInput,
    lr: float = IN_DOMAIN_LR,
    seed: int = 0,
    epochs: int = 20,
    hidden: Sequence[int] = HIDDEN,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    validation: float = 0.15,
    patience: int = 5,
) -> Probe:
    """Train the paper's probe: an MLP of four layers with LeakyReLU.

    A stratified part of the rows is set aside for validation. For each weight decay an AdamW run
    on the others goes on until the validation log-loss has not fallen for `patience` epochs, and
    keeps its best epoch; the run whose best is lowest wins. Both classes weigh the same in
    training; the probe's logit is then shifted back to the share of wrong answers it was shown.

    Parameters
    ----------
    states : array-like of shape (n, d)
        Rows as `ProbeInput.read` returns them; finite.
    wrong : array-like of shape (n,)
        Whether each answer is wrong.
    input : where the states were read.
    lr : float
        Of AdamW: `IN_DOMAIN_LR` or `OUT_OF_DOMAIN_LR`.
    seed : int
        Draws the validation part, the first weights and the order of the rows.
    epochs : int
        At most so many passes over the rows.
    hidden : sequence of ints
        Width of each hidden layer.
    weight_decays : sequence of floats
        What is tried.
    validation : float
        Share of the rows, in (0, 1).
    patience : int
        Epochs without progress after which a run stops.

    Raises
    ------
    FitError
        When torch is not installed, when shapes don't fit or a number is not finite, and on fewer
        than `MIN_OF_EACH` right or wrong answers.

    References
    ----------
    Chuang et al., "Confident or Seek Stronger", arXiv:2502.04428: four layers, LeakyReLU, 20
    epochs, lr 5e-4, and 1e-4 out of domain. Loshchilov and Hutter, "Decoupled Weight Decay
    Regularization", ICLR 2019, arXiv:1711.05101.
    """
    x, y = _check(states, wrong)
    held_out = _validation_part(y, validation, seed)
    mean, scale, live = _standardisation(x[~held_out])
    z = np.where(live, (x - mean) / scale, 0.0).astype(np.float32)
    runs = [
        _Run(z, y, held_out, hidden, seed=seed, lr=lr, weight_decay=decay)
        for decay in weight_decays
    ]
    with _one_torch_thread():
        for run in runs:
            run.train(epochs, patience)
    best = min(runs, key=lambda run: run.best_loss)
    return Probe(input, mean, scale, _blind(best.weights(), live), _SLOPE)


def train_linear_probe(
    states: ArrayLike,
    wrong: ArrayLike,
    *,
    input: ProbeInput,
    seed: int = 0,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
) -> Probe:
    """Train a linear probe: L2-logistic regression on standardised states.

    C is the one of `inverse_penalties` with the least log-loss in a stratified cross-validation of
    5 folds; a tie goes to the smaller, the stronger penalty. On a few thousand rows or fewer this
    often beats the MLP (`benchmarks/probes.py`).

    Parameters
    ----------
    states : array-like of shape (n, d)
        Rows as `ProbeInput.read` returns them; finite.
    wrong : array-like of shape (n,)
        Whether each answer is wrong.
    input : where the states were read.
    seed : int
        Draws the folds.
    inverse_penalties : sequence of floats
        What is tried for C, scikit-learn's inverse of the penalty.

    Raises
    ------
    FitError
        When shapes don't fit or a number is not finite, and on fewer than `MIN_OF_EACH` right or
        wrong answers.

    References
    ----------
    Alain and Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016,
    arXiv:1610.01644.
    """
    x, y = _check(states, wrong)
    mean, scale, live = _standardisation(x)
    z = np.where(live, (x - mean) / scale, 0.0)
    candidates = sorted(inverse_penalties)
    with one_blas_thread():
        w, b = _cross_validated(z, y, candidates, seed)
    layer = (w[np.newaxis].astype(np.float32), np.array([b], dtype=np.float32))
    return Probe(input, mean, scale, _blind([layer], live), _SLOPE)


def out_of_fold(
    train: Callable[[Float32Array, BoolArray], Probe],
    states: ArrayLike,
    wrong: ArrayLike,
    folds: ArrayLike,
) -> FloatArray:
    """Return each row's logit by a probe that was trained without the row's fold.

    Parameters
    ----------
    train : callable
        Takes states of shape (m, d) and wrong of shape (m,), returns a probe.
    states : array-like of shape (n, d)
    wrong : array-like of shape (n,)
    folds : int array-like of shape (n,)
        Which fold each row is in; at least two different ones. Data sets as folds give what the
        probe says out of domain.

    Returns
    -------
    float array of shape (n,)

    Raises
    ------
    FitError
        When shapes don't fit or there is one fold only; and whatever `train` raises.
    """
    x, y = _check(states, wrong)
    fold = np.asarray(folds)
    if fold.shape != y.shape or len(np.unique(fold)) < 2:
        raise FitError(
            f"folds has shape {fold.shape} and {len(np.unique(fold))} different values; there "
            f"must be one of at least two folds for each of the {len(y)} rows"
        )
    logits = np.empty(len(y))
    for k in np.unique(fold):
        here = fold == k
        logits[here] = train(x[~here], y[~here]).predict(x[here])
    return logits


class _Run:
    """One training of the MLP, with one weight decay."""

    def __init__(
        self,
        z: Float32Array,
        wrong: BoolArray,
        held_out: BoolArray,
        hidden: Sequence[int],
        *,
        seed: int,
        lr: float,
        weight_decay: float,
    ) -> None:
        self._torch = torch = _import_torch()
        self._x, self._y = self._pair(z, wrong, ~held_out)
        self._x_val, self._y_val = self._pair(z, wrong, held_out)
        self._wrong_share = float(wrong[~held_out].mean())
        self._generator = torch.Generator().manual_seed(seed)
        sizes = (z.shape[1], *hidden, 1)
        self._parameters: list[Tensor] = []
        for inputs, outputs in pairwise(sizes):
            matrix = torch.empty(outputs, inputs, dtype=torch.float32)
            torch.nn.init.kaiming_uniform_(matrix, a=_SLOPE, generator=self._generator)
            bias = torch.zeros(outputs, dtype=torch.float32)
            self._parameters += [matrix.requires_grad_(), bias.requires_grad_()]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": self._parameters[0::2], "weight_decay": weight_decay},
                {"params": self._parameters[1::2], "weight_decay": 0.0},
            ],
            lr=lr,
        )
        self.epochs_run = 0
        self.best_loss = float("inf")
        self._best: list[Float32Array] = []

    def train(self, epochs: int, patience: int) -> None:
        """Train until `epochs` are over, or `patience` of them brought nothing."""
        best_epoch = 0
        for epoch in range(1, epochs + 1):
            with self._torch.enable_grad():
                self._one_epoch()
            loss = self._validation_loss()
            self.epochs_run = epoch
            if not self._best or loss < self.best_loss:
                self.best_loss, best_epoch = loss, epoch
                self._best = [p.detach().numpy().copy() for p in self._parameters]
            if epoch - best_epoch >= patience:
                return

    def weights(self) -> list[tuple[Float32Array, Float32Array]]:
        """The layers at the best epoch, the last bias moved to the share of wrong answers."""
        pairs = list(zip(self._best[0::2], self._best[1::2], strict=True))
        matrix, bias = pairs[-1]
        shift = np.float32(np.log(self._wrong_share / (1.0 - self._wrong_share)))
        return [*pairs[:-1], (matrix, bias + shift)]

    def _one_epoch(self) -> None:
        torch = self._torch
        order = torch.randperm(len(self._y), generator=self._generator)
        for rows in order.split(_BATCH):
            self._optimizer.zero_grad()
            loss = self._loss(self._x[rows], self._y[rows])
            torch.autograd.backward(loss)
            self._optimizer.step()

    def _validation_loss(self) -> float:
        with self._torch.no_grad():
            return float(self._loss(self._x_val, self._y_val))

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean log-loss, both classes weighing the same."""
        share = self._torch.where(y > 0.5, self._wrong_share, 1.0 - self._wrong_share)
        entropy = self._torch.nn.functional.binary_cross_entropy_with_logits
        loss: Tensor = entropy(self._forward(x), y, weight=0.5 / share)
        return loss

    def _forward(self, x: Tensor) -> Tensor:
        functional = self._torch.nn.functional
        pairs = list(zip(self._parameters[0::2], self._parameters[1::2], strict=True))
        for matrix, bias in pairs[:-1]:
            x = functional.leaky_relu(functional.linear(x, matrix, bias), _SLOPE)
        logit: Tensor = functional.linear(x, *pairs[-1])[:, 0]
        return logit

    def _pair(self, z: Float32Array, wrong: BoolArray, rows: BoolArray) -> tuple[Tensor, Tensor]:
        labels = wrong[rows].astype(np.float32)
        return self._torch.from_numpy(z[rows]), self._torch.from_numpy(labels)


def _import_torch() -> Any:
    try:
        import torch  # noqa: PLC0415  see the module's docstring
    except ImportError as error:
        raise FitError(
            "training a probe needs torch, which is not installed: "
            "pip install seek-stronger[probes]"
        ) from error
    return torch


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    torch = _import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(states: ArrayLike, wrong: ArrayLike) -> tuple[Float32Array, BoolArray]:
    x, labels = np.asarray(states, dtype=np.float32), np.asarray(wrong)
    if x.ndim != 2 or x.shape[1] == 0 or labels.shape != x.shape[:1]:
        raise FitError(
            f"states have shape {x.shape} and wrong {labels.shape}; they must be (n, d) and (n,)"
        )
    broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(broken):
        raise FitError(
            f"{len(broken)} of {len(x)} rows of states are not finite, the first is row "
            f"{broken[0]}; leave those rows out before"
        )
    if not np.isin(labels, (0, 1)).all():
        raise FitError("wrong must hold only True and False, or 1 and 0")
    y = labels.astype(np.bool_)
    n_wrong = int(y.sum())
    if min(n_wrong, len(y) - n_wrong) < MIN_OF_EACH:
        raise FitError(
            f"a probe needs at least {MIN_OF_EACH} right and {MIN_OF_EACH} wrong answers, but "
            f"there are {len(y) - n_wrong} right and {n_wrong} wrong; collect more"
        )
    return x, y


def _validation_part(wrong: BoolArray, share: float, seed: int) -> BoolArray:
    """Which rows are set aside: `share` of either class, at least one."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(wrong), dtype=np.bool_)
    for label in (False, True):
        rows = rng.permutation(np.flatnonzero(wrong == label))
        held_out[rows[: max(1, round(share * len(rows)))]] = True
    return held_out


def _standardisation(x: Float32Array) -> tuple[Float32Array, Float32Array, BoolArray]:
    """Mean and scale of each column, and whether it varies; the scale of one that doesn't is 1."""
    wide = x.astype(np.float64)
    mean, scale = wide.mean(axis=0), wide.std(axis=0)
    live = scale > 1e-6 * (np.abs(mean) + 1e-6)
    return mean.astype(np.float32), np.where(live, scale, 1.0).astype(np.float32), live


def _blind(
    weights: Sequence[tuple[Float32Array, Float32Array]], live: BoolArray
) -> tuple[tuple[Float32Array, Float32Array], ...]:
    """`weights` without a look at the columns that never varied: nothing was learned of them."""
    (matrix, bias), *rest = weights
    return (np.where(live, matrix, np.float32(0.0)), bias), *rest


def _cross_validated(
    z: FloatArray, y: BoolArray, candidates: Sequence[float], seed: int
) -> tuple[FloatArray, float]:
    """Weights and intercept at the C, of ascending ones, with the least log-loss."""
    fold = stratified_folds(y, _FOLDS, seed)
    losses = np.zeros(len(candidates))
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        for i, (w, b) in enumerate(_logistic_path(z[train], y[train], candidates)):
            losses[i] += _log_loss(z[test] @ w + b, y[test]).sum()
    return _logistic_path(z, y, candidates[: int(np.argmin(losses)) + 1])[-1]


def _logistic_path(
    z: NDArray[np.floating[Any]], wrong: BoolArray, inverse_penalties: Sequence[float]
) -> list[tuple[FloatArray, float]]:
    """Weights and intercept for each C, ascending; each starts from the one before."""
    from sklearn import config_context  # noqa: PLC0415  see the docstring
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    model = LogisticRegression(warm_start=True, max_iter=5000)
    path = []
    # Checks of what was checked before take longer than a small fit itself.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for c in inverse_penalties:
            model.C = c
            model.fit(z, wrong)
            path.append((model.coef_[0].astype(np.float64), float(model.intercept_[0])))
    return path


def _log_loss(logit: FloatArray, wrong: BoolArray) -> FloatArray:
    return np.asarray(np.logaddexp(0.0, np.where(wrong, -logit, logit)))
