"""Estimators that are learned from graded answers: probes on hidden states, and the stack.

A probe's scores of the answers it was trained on are better than it is. Whoever learns from them in
turn, the stack or a calibrator, gets scores of probes that did not see the answer: the answers are
dealt into folds by group, so that they show how a probe does on questions of another kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibration.errors import FitError
from calibration.folds import stratified_folds
from calibration.learned import CHEAP_SIGNALS, CHEAP_STACK, NEIGHBOUR_RANK, STACK, Learned
from calibration.metrics import BoolArray, FloatArray, IntArray
from calibration.neighbours import NeighbourInput, NeighbourRank, fit_neighbours
from calibration.probe_training import OUT_OF_DOMAIN_LR, train_linear_probe, train_probe
from calibration.probes import Place, Probe, ProbeInput
from calibration.stack import Stack
from calibration.stack_fit import fit_stack
from uq import Trace
from uq.signals import Float32Array

TrainProbe = Callable[..., Probe]


@dataclass(frozen=True, slots=True)
class ProbeKind:
    """One way to make a probe.

    Attributes
    ----------
    place : where it reads.
    all_layers : whether it reads the mean over all recorded layers, or the founding paper's one,
        the 8th from the end, alone.
    train : how it is trained.
    """

    place: Place
    all_layers: bool
    train: TrainProbe

    def input(self, layers: Sequence[int], n_layer: int) -> ProbeInput:
        """What it reads of a model of `n_layer` layers whose states after `layers` are recorded."""
        eighth = n_layer - 8
        chosen = tuple(layers) if self.all_layers or eighth not in layers else (eighth,)
        return ProbeInput(self.place, chosen)


PROBES: Mapping[str, ProbeKind] = {
    "p_ik": ProbeKind("prompt_end", True, train_linear_probe),
    "linear_probe": ProbeKind("answer_mean", True, train_linear_probe),
    "trained_probe": ProbeKind("answer_last", False, train_probe),
    "ood_probe": ProbeKind("answer_last", False, partial(train_probe, lr=OUT_OF_DOMAIN_LR)),
}
"""P(IK) (Kadavath et al., arXiv:2207.05221), and three probes on the answer: linear, and the
founding paper's two MLPs, which differ in their learning rate."""

STACKED_PROBES = ("linear_probe", "p_ik")
"""Those whose out-of-fold scores the stack reads: quick to train several times over."""

BASELINES = frozenset({"length"})
"""What every estimator must beat: a part of the stacks, but never chosen to decide alone."""

MAX_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What there is to learn from: `n` graded answers.

    Attributes
    ----------
    traces : of the answers.
    wrong : bool array of shape (n,).
    scores : registered estimators' scores by name, arrays of shape (n,), NaN = unknown.
    groups : what kind of question each is, such as its data set; array of shape (n,).
    n_layer : layers of the model.
    """

    traces: Sequence[Trace]
    wrong: BoolArray
    scores: Mapping[str, FloatArray]
    groups: NDArray[np.str_]
    n_layer: int

    def take(self, rows: BoolArray) -> Answers:
        """The answers that `rows`, a bool array of shape (n,), picks."""
        picked = np.flatnonzero(rows).tolist()
        return Answers(
            [self.traces[i] for i in picked],
            self.wrong[rows],
            {name: column[rows] for name, column in self.scores.items()},
            self.groups[rows],
            self.n_layer,
        )

    def folds(self, seed: int) -> IntArray:
        """A fold for each answer: by group where there are three or more, else stratified."""
        names, sizes = np.unique(self.groups, return_counts=True)
        if len(names) < 3:
            return stratified_folds(self.wrong, MAX_FOLDS, seed)
        load = np.zeros(min(MAX_FOLDS, len(names)), dtype=np.int64)
        fold_of = {}
        shuffled = np.random.default_rng(seed).permutation(len(names))
        for name in names[shuffled[np.argsort(-sizes[shuffled], kind="stable")]]:
            fold = int(load.argmin())
            fold_of[name] = fold
            load[fold] += int((self.groups == name).sum())
        return np.array([fold_of[name] for name in self.groups], dtype=np.int64)


def train_named_probe(name: str, answers: Answers, seed: int = 0) -> Probe:
    """Train the probe called `name` in `PROBES`.

    Raises
    ------
    FitError
        When too few answers have hidden states, or too few of them are right or wrong.
    """
    kind, layers = PROBES[name], _layers(answers.traces)
    reads = kind.input(layers, answers.n_layer)
    states, known = _states(reads, answers.traces)
    return kind.train(states, answers.wrong[known], input=reads, seed=seed)


def out_of_fold_scores(name: str, answers: Answers, folds: IntArray, seed: int = 0) -> FloatArray:
    """Return P(wrong) by probes of that name, each answer's by one that saw nothing of its fold.

    NaN where an answer has no hidden states, or the other folds have too little to learn from.
    """
    scores = np.full(len(answers.wrong), np.nan)
    for fold in np.unique(folds):
        left = folds == fold
        try:
            probe = train_named_probe(name, answers.take(~left), seed)
        except FitError:
            continue
        for i in np.flatnonzero(left).tolist():
            scores[i] = probe.score(answers.traces[i])
    return scores


def train(
    answers: Answers, *, probes: Sequence[str] = STACKED_PROBES, seed: int = 0
) -> tuple[Learned, dict[str, FloatArray]]:
    """Train the probes called `probes`, the stacks over them and the registered estimators, and the
    rank of the fullest stack's score among the answers to similar questions.

    What can't be learned (no hidden states were recorded, no signal ranks) is left out.

    Returns
    -------
    Learned
    dict
        Scores of the same answers by all that was trained, each as of a question of a kind that was
        not trained on: what may be learned from, and what tells which score transfers.
    """
    folds = answers.folds(seed)
    fitted: dict[str, Probe] = {}
    honest: dict[str, FloatArray] = {}
    if any(trace.hidden is not None for trace in answers.traces):
        for name in probes:
            scores = out_of_fold_scores(name, answers, folds, seed)
            try:
                fitted[name] = train_named_probe(name, answers, seed)
            except FitError:
                continue
            honest[name] = scores
    columns = {**answers.scores, **{n: honest[n] for n in STACKED_PROBES if n in honest}}
    stacks: dict[str, Stack] = {}
    trained = Learned(fitted, {})
    for name, parts in _stack_parts(columns, trained).items():
        try:
            stack = _fit_stack(parts, answers, seed)
            honest[name] = _stack_out_of_fold(parts, answers, folds, seed)
        except FitError:
            continue
        stacks[name] = stack
    neighbours: dict[str, NeighbourRank] = {}
    if STACK in stacks:
        with contextlib.suppress(FitError):
            rank, honest[NEIGHBOUR_RANK] = rank_among_neighbours(STACK, honest[STACK], answers)
            neighbours[NEIGHBOUR_RANK] = rank
    return Learned(fitted, stacks, neighbours), honest


def scores_as_served(
    learned: Learned, honest: Mapping[str, FloatArray], answers: Answers, seed: int = 0
) -> dict[str, FloatArray]:
    """Return scores of `answers` as new ones of the same kinds will get them from `learned`.

    Each answer's come from what was trained without a fifth of the answers, its own among them.
    Probes know the kinds of questions that they were trained on better than others, so these scores
    are distributed otherwise than `honest` ones: what turns them into P(correct) is fitted on
    these.

    Parameters
    ----------
    learned, honest : what `train` returned for `answers`.
    """
    folds = stratified_folds(answers.wrong, MAX_FOLDS, seed)
    columns = {
        **answers.scores,
        **{name: out_of_fold_scores(name, answers, folds, seed) for name in learned.probes},
    }
    known = {**answers.scores, **{name: honest[name] for name in learned.probes}}
    for name, stack in learned.stacks.items():
        parts = {part: known[part] for part in stack.needs}
        columns[name] = _stack_out_of_fold(parts, answers, folds, seed, columns)
    for name, rank in learned.neighbours.items():
        columns[name] = _ranks_out_of_fold(rank, honest[rank.base], columns, answers, folds)
    return {name: columns[name] for name in learned.names}


def rank_among_neighbours(
    base: str, scores: FloatArray, answers: Answers
) -> tuple[NeighbourRank, FloatArray]:
    """Fit `calibration.neighbours.fit_neighbours` to answers with these `scores` by `base`.

    Similar are answers whose states after the last recorded layer point the same way, at the
    prompt's end above all.

    Raises
    ------
    FitError
        When too few answers have hidden states and a known score.
    """
    reads = NeighbourInput(_layers(answers.traces)[-1])
    states, known = _states(reads, answers.traces)
    rank, ranks = fit_neighbours(base, reads, states, scores[known], answers.groups[known])
    every = np.full(len(scores), np.nan)
    every[known] = ranks
    return rank, every


def _stack_parts(
    columns: Mapping[str, FloatArray], trained: Learned
) -> dict[str, dict[str, FloatArray]]:
    """The columns of each stack; no stack of one, no cheap one that would be the same."""
    known = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    cheap = {name: column for name, column in known.items() if trained.needs(name) <= CHEAP_SIGNALS}
    stacks = {STACK: known} if len(cheap) == len(known) else {STACK: known, CHEAP_STACK: cheap}
    return {name: parts for name, parts in stacks.items() if len(parts) > 1}


def _fit_stack(parts: Mapping[str, FloatArray], answers: Answers, seed: int) -> Stack:
    """Fit for what transfers between kinds of questions, or failing that for these kinds."""
    if len(np.unique(answers.groups)) >= 3:
        with contextlib.suppress(FitError):
            return fit_stack(parts, answers.wrong, groups=answers.groups, seed=seed)
    return fit_stack(parts, answers.wrong, seed=seed)


def _stack_out_of_fold(
    parts: Mapping[str, FloatArray],
    answers: Answers,
    folds: IntArray,
    seed: int,
    served: Mapping[str, FloatArray] | None = None,
) -> FloatArray:
    """Scores by stacks fitted to the other folds of `parts`, read from `served` or from `parts`."""
    read = parts if served is None else served
    scores = np.full(len(answers.wrong), np.nan)
    for fold in np.unique(folds):
        left = folds == fold
        rest = {name: column[~left] for name, column in parts.items()}
        try:
            stack = _fit_stack(rest, answers.take(~left), seed)
        except FitError:  # too few of the others, or nothing ranks them: unknown
            continue
        scores[left] = stack.score({name: read[name][left] for name in parts})
    return scores


def _ranks_out_of_fold(
    rank: NeighbourRank,
    reference: FloatArray,
    columns: Mapping[str, FloatArray],
    answers: Answers,
    folds: IntArray,
) -> FloatArray:
    ranks = np.full(len(folds), np.nan)
    for fold in np.unique(folds):
        left = folds == fold
        try:
            of_others, _ = rank_among_neighbours(rank.base, reference[~left], answers.take(~left))
        except FitError:
            continue
        for i in np.flatnonzero(left).tolist():
            ranks[i] = of_others.score(answers.traces[i], float(columns[rank.base][i]))
    return ranks


def _layers(traces: Sequence[Trace]) -> tuple[int, ...]:
    """The layers that the traces hold states of. Raises FitError when they differ, or none is."""
    found = {trace.hidden.layers for trace in traces if trace.hidden is not None}
    if len(found) != 1:
        problem = "different layers" if found else "no hidden states"
        raise FitError(f"the answers hold {problem}; a probe can't be trained on them")
    return found.pop()


def _states(
    reads: ProbeInput | NeighbourInput, traces: Sequence[Trace]
) -> tuple[Float32Array, BoolArray]:
    """The states that a probe reads, and of which traces they are."""
    states = [reads.read(trace) for trace in traces]
    known = np.array([state is not None for state in states])
    if not known.any():
        raise FitError("no answer has the hidden states that the probe reads")
    return np.array([state for state in states if state is not None]), known
