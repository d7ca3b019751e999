"""The founding paper's hold-out: a part of a pool of questions that is as unsure as the pool.

Chuang et al., "Confident or Seek Stronger" (arXiv:2502.04428), section 4: the uncertainty that the
small model has on a pool of data sets is put into M = 30 bins, and a weighted 10% of each bin is
the hold-out. A threshold set on it is meant to serve data that no one has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import FitError
from calibration.metrics import FloatArray, IntArray

N_BINS = 30
SHARE = 0.1
"""The paper's number of bins, and its share of each."""

Binning = Literal["width", "mass"]
"""Bins of equal width between the least and the largest uncertainty, or of equally many answers."""

UNKNOWN = -1
"""The bin of answers whose uncertainty is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Which bin each answer's uncertainty is in.

    Attributes
    ----------
    edges : float array of shape (m + 1,)
        Ascending; bin i is [edges[i], edges[i + 1]), the last one closed. Infinite uncertainty is
        in the outer bins. Empty when no uncertainty is finite, and m = 1 where all are equal.
    of : int array of shape (n,)
        0 to m - 1, or `UNKNOWN`.
    """

    edges: FloatArray
    of: IntArray


def uncertainty_bins(
    uncertainty: ArrayLike, n_bins: int = N_BINS, binning: Binning = "width"
) -> Bins:
    """Divide answers by their uncertainty.

    What we know of the paper says how many bins there are, not how they are cut. Equal widths, the
    usual meaning, are the default. Where few answers are far less sure than the rest they leave
    bins nearly empty, of each of which a hold-out takes one answer, so that it holds more of the
    least sure than the pool; ``mass`` avoids that.

    Parameters
    ----------
    uncertainty : array-like of shape (n,)
        NaN = unknown.
    n_bins : int
        At least 1. Fewer come out of ``mass`` where many answers have the same uncertainty.
    binning : "width" or "mass"

    Raises
    ------
    FitError
        When an argument is not as said here.
    """
    values = np.asarray(uncertainty, dtype=np.float64)
    if values.ndim != 1:
        raise FitError(f"uncertainty has shape {values.shape}, expected (n,)")
    if n_bins < 1:
        raise FitError(f"n_bins is {n_bins}; at least one bin is needed")
    if binning not in get_args(Binning):
        raise FitError(f"there is no binning {binning!r}; there are {', '.join(get_args(Binning))}")
    finite = values[np.isfinite(values)]
    if not len(finite):
        edges = np.empty(0)
    elif binning == "width":
        edges = np.linspace(finite.min(), finite.max(), n_bins + 1)
    else:
        edges = np.quantile(finite, np.linspace(0.0, 1.0, n_bins + 1))
    if len(edges):
        edges = np.unique(edges)
        edges = np.repeat(edges, 2) if len(edges) == 1 else edges
    of = np.searchsorted(edges[1:-1], values, side="right").astype(np.int64)
    of[np.isnan(values)] = UNKNOWN
    return Bins(edges, of)


def build_holdout(
    uncertainty: ArrayLike,
    groups: ArrayLike,
    *,
    n_bins: int = N_BINS,
    share: float = SHARE,
    seed: int = 0,
    binning: Binning = "width",
    ids: Sequence[str] | None = None,
) -> IntArray:
    """Choose a share of each bin of uncertainty, within which all data sets count alike.

    Of a bin of b answers, ``max(1, round(share * b))`` are taken. They are dealt evenly: each data
    set with answers in the bin gives one, in random order, then each gives another, until the bin
    has its share; a set that has no more is passed over. Answers of unknown uncertainty are a bin
    of their own.

    Parameters
    ----------
    uncertainty : array-like of shape (n,)
        Of the answers of the pool; NaN = unknown.
    groups : array-like of shape (n,)
        The data set of each.
    n_bins, binning : see `uncertainty_bins`.
    share : float
        In (0, 1].
    seed : int
    ids : sequence of n str, optional
        Name answers that are alike in uncertainty and data set; with them the choice does not
        depend on the order of rows at all, without them only such answers change places.

    Returns
    -------
    int array of shape (k,)
        Rows, ascending, without repeats.

    Raises
    ------
    FitError
        When there are no answers, or an argument is not as said here.
    """
    values = np.asarray(uncertainty, dtype=np.float64)
    names = np.asarray(groups, dtype=np.str_)
    own = np.asarray(ids if ids is not None else [""] * len(names), dtype=np.str_)
    if not len(values):
        raise FitError("there are no answers to build a hold-out from")
    if not values.shape == names.shape == own.shape:
        raise FitError(
            f"uncertainty {values.shape}, groups {names.shape} and ids {own.shape} must have one "
            "entry each per answer"
        )
    if not 0.0 < share <= 1.0:  # also refuses NaN
        raise FitError(f"share is {share!r}; a number above 0 and up to 1 is expected")
    bins = uncertainty_bins(values, n_bins, binning)
    rng = np.random.default_rng(seed)
    order = np.lexsort((own, values, names))  # whatever order the rows came in
    taken = [
        _dealt(order[bins.of[order] == bin_], names, share, rng) for bin_ in np.unique(bins.of)
    ]
    return np.sort(np.concatenate(taken))


def _dealt(
    members: IntArray,
    names: NDArray[np.str_],
    share: float,
    rng: np.random.Generator,
) -> IntArray:
    """Take `share` of the rows `members` of one bin, one of each set in turn."""
    n_taken = max(1, int(np.floor(share * len(members) + 0.5)))
    shuffled = members[rng.permutation(len(members))]
    sets, of_set = np.unique(names[shuffled], return_inverse=True)
    turn = np.empty(len(shuffled), dtype=np.int64)  # which of its set's answers each is
    for position in range(len(sets)):
        mine = of_set == position
        turn[mine] = np.arange(mine.sum())
    first = rng.permutation(len(sets))[of_set]
    return shuffled[np.lexsort((first, turn))[:n_taken]]
