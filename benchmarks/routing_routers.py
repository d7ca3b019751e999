"""The routers that `benchmarks/routing.py` compares, each learned from the same rows.

A router is given a population and which of its rows to learn from, and says of each other row how
much it belongs with the large model. It may read that row's question and, where it decides after
the small model, that answer's trace; it never sees the row's outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.calibrators import IsotonicCalibrator
from calibration.choosing import FOLDS, Chooser
from calibration.errors import FitError
from calibration.evaluated_rows import RECORDED, EvaluatedRow
from calibration.folds import stratified_folds
from calibration.learned import CHEAP_STACK, STACK, Learned
from calibration.metrics import BoolArray, FloatArray
from calibration.ranking_metrics import paired_difference, unknown_last
from calibration.stack_fit import MIN_OF_EACH, fit_stack
from calibration.trained import Answers, train
from uq import estimator_names
from uq.estimator import extra_cost
from uq.signals import Signal

INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""What the query-only router's C is chosen from, by log-loss in five folds."""


@dataclass(frozen=True, eq=False)
class Population:
    """Questions that a small model has answered and, most of them, a large one too.

    Attributes
    ----------
    name : what it is.
    rows : n graded answers of the small model.
    texts : the question of each row, as the model was asked it.
    llm : float array of shape (n,)
        1 where the large model's recorded answer is right, 0 where it is wrong, NaN = unknown.
    """

    name: str
    rows: Sequence[EvaluatedRow]
    texts: Sequence[str]
    llm: FloatArray

    @property
    def sets(self) -> NDArray[np.str_]:
        """The data set of each row."""
        return np.array([row.dataset for row in self.rows])

    @property
    def right(self) -> BoolArray:
        """Whether the small model's answer is right."""
        return np.array([row.correct for row in self.rows], dtype=np.bool_)

    @property
    def has_llm(self) -> BoolArray:
        """Whether it is known what the large model does."""
        return np.isfinite(self.llm)

    def scores(self, name: str) -> FloatArray:
        """The uncertainty called `name` of each row; NaN = unknown."""
        return finite([row.scores.get(name, math.nan) for row in self.rows])


@dataclass(frozen=True, eq=False)
class Routed:
    """What a router says of rows that it did not learn from.

    Attributes
    ----------
    uncertainty : float array of shape (rows,)
        Higher = sooner to the large model; NaN = unknown, which goes first.
    looks : what it costs to tell, beyond the small model's answer, in units of that answer.
    chose : what it settled on, for the reader.
    """

    uncertainty: FloatArray
    looks: float = 0.0
    chose: str = ""


Route = Callable[[Population, BoolArray, int], Mapping[str, Routed]]
"""Learn from the rows of a mask, shape (n,), and route the others; the last argument is the seed.
A FitError means that these rows can't be learned from."""


@dataclass(frozen=True)
class Router:
    """A router of the table, or several that are learned together.

    Attributes
    ----------
    names : what `route` returns, in the table's order.
    before : whether it decides before the small model answers, which then only answers what it
        keeps.
    """

    names: tuple[str, ...]
    route: Route
    before: bool = False


QUERY_WRONG, QUERY_GAIN = "query only: SLM wrong", "query only: LLM gains"
PERPLEXITY, UCCI = "perplexity, quantile", "margin, isotonic (UCCI)"
CONFIDENCE = "recorded confidence, quantile"
AUTO, OURS, OURS_CHEAP = "ours: auto", "ours: stack of all", "ours: cheap stack"
OURS_LIGHT = "ours: stack"
OURS_RECORDED = "ours: confidence and question"


LIGHT_SIGNALS: frozenset[Signal] = frozenset({"hidden", "p_true", "options"})
"""What `OURS_LIGHT` reads, as ``router calibrate --signals hidden,p_true,options`` gathers it: 0.37
of an answer together. Samples and stated confidences would be 3.6 answers more."""


def finite(values: Sequence[float]) -> FloatArray:
    """As an array, NaN where not finite."""
    array = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def query_only(
    texts: Sequence[str], label: BoolArray, asked: Sequence[str], seed: int
) -> FloatArray:
    """P(label) of the questions `asked`, by logistic regression on TF-IDF of words and word pairs.

    The form of RouteLLM's routers that see the question alone, with features that need no model.

    Raises
    ------
    FitError
        With fewer than `MIN_OF_EACH` questions of either label, or no word that occurs twice.

    References
    ----------
    Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", ICLR 2025,
    arXiv:2406.18665.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  slow to import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    if min(int(label.sum()), int((~label).sum())) < MIN_OF_EACH:
        raise FitError(
            f"{int(label.sum())} of {len(label)} questions have the label; a query-only router "
            f"needs {MIN_OF_EACH} with and {MIN_OF_EACH} without"
        )
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    try:
        x = words.fit_transform(texts)
    except ValueError as error:
        raise FitError(f"the questions have no words in common: {error}") from error
    folds = stratified_folds(label, FOLDS, seed)
    best, best_loss = INVERSE_PENALTIES[0], math.inf
    for c in INVERSE_PENALTIES:
        loss = 0.0
        for k in range(FOLDS):
            model = LogisticRegression(C=c, max_iter=1000).fit(x[folds != k], label[folds != k])
            p = model.predict_proba(x[folds == k])[:, 1]
            loss -= float(np.log(np.where(label[folds == k], p, 1.0 - p)).sum())
        if loss < best_loss:
            best, best_loss = c, loss
    model = LogisticRegression(C=best, max_iter=1000).fit(x, label)
    return np.asarray(model.predict_proba(words.transform(asked))[:, 1], dtype=np.float64)


def query_scores(
    population: Population, learn: BoolArray, label: BoolArray, asked: BoolArray, seed: int
) -> FloatArray:
    """`query_only` between rows of a population, by masks."""
    return query_only(
        [population.texts[i] for i in np.flatnonzero(learn).tolist()],
        label[learn],
        [population.texts[i] for i in np.flatnonzero(asked).tolist()],
        seed,
    )


def route_by_query(population: Population, learn: BoolArray, seed: int) -> dict[str, Routed]:
    """Two query-only routers: where the small model is wrong, and where the large one gains."""
    wrong, gains = ~population.right, ~population.right & (population.llm == 1.0)
    known = learn & population.has_llm
    return {
        QUERY_WRONG: Routed(query_scores(population, learn, wrong, ~learn, seed)),
        QUERY_GAIN: Routed(query_scores(population, known, gains, ~learn, seed)),
    }


def route_by_score(score: str, name: str) -> Route:
    """Route by one score as it is; a quantile of it is the threshold."""

    def route(population: Population, learn: BoolArray, _seed: int) -> dict[str, Routed]:
        return {name: Routed(population.scores(score)[~learn])}

    return route


def route_by_margin(population: Population, learn: BoolArray, _seed: int) -> dict[str, Routed]:
    """UCCI: the mean margin of an answer's tokens, mapped to P(wrong) by isotonic regression.

    Margins of one level of the regression tie. Raises FitError when the margin does not rank.

    References
    ----------
    Kotte, "UCCI: Calibrated Uncertainty for Cost-Optimal LLM Cascade Routing", arXiv:2605.18796.
    """
    margin, right = population.scores("margin"), population.right
    known = learn & np.isfinite(margin)
    calibrator = IsotonicCalibrator().fit(margin[known], right[known])
    return {UCCI: Routed(1.0 - calibrator.predict(margin[~learn]))}


def route_by_ours(population: Population, learn: BoolArray, seed: int) -> dict[str, Routed]:
    """What `router calibrate` makes of the rows: its stacks, and what ``auto`` decides by.

    Probes and stacks are trained on all rows given, and ``auto`` chooses by their out-of-fold
    scores, as `calibration.fit` does on its fit part.
    """
    scores = {name: population.scores(name) for name in estimator_names()}
    scores = {name: column for name, column in scores.items() if np.isfinite(column).any()}
    traces = [row.record.trace for row in population.rows if row.record is not None]
    # The probes in a stack read every recorded layer, whatever their number in the model.
    answers = Answers(traces, ~population.right, scores, population.sets, n_layer=0)
    learned, honest = train(answers.take(learn), seed=seed)
    asked = np.flatnonzero(~learn).tolist()
    final = [
        learned.score(traces[i], {name: float(column[i]) for name, column in scores.items()})
        for i in asked
    ]
    columns = dict(scores)
    for name, out_of_fold in honest.items():
        columns[name] = np.full(len(learn), np.nan)
        columns[name][learn] = out_of_fold
        columns[name][~learn] = [row[name] for row in final]
    found = {
        label: Routed(columns[name][~learn], extra_cost(learned.needs(name)))
        for label, name in ((OURS, STACK), (OURS_CHEAP, CHEAP_STACK))
        if name in learned.stacks
    }
    if OURS in found and OURS_CHEAP not in found:  # nothing costly was gathered: they are one
        found[OURS_CHEAP] = found[OURS]
    found |= _light_stack(columns, learned, answers, learn, seed)
    folds = stratified_folds(population.right[learn], FOLDS, seed)
    # Ranks are judged here, not P(correct): its calibrators may see the same scores.
    chooser = Chooser(columns, columns, learned, population.right, learn, folds, "auto", seed)
    decision = chooser.decide("auto")
    method, band = decision.choice.method, decision.band
    looks = extra_cost(learned.needs(method)) if band is None else band.cost
    chose = method if band is None else f"{band.method}, in doubt {method}"
    return {AUTO: Routed(1.0 - decision.p[~learn], looks, chose), **found}


def _light_stack(
    columns: Mapping[str, FloatArray],
    learned: Learned,
    answers: Answers,
    learn: BoolArray,
    seed: int,
) -> dict[str, Routed]:
    """`OURS_LIGHT`, over those columns that read `LIGHT_SIGNALS`; nothing when it can't be fitted.

    For what transfers between sets where there are three or more, as `calibration.trained` does.
    """
    names = [n for n in columns if n not in learned.stacks and learned.needs(n) <= LIGHT_SIGNALS]
    rows = {name: columns[name][learn] for name in names}
    groups = answers.groups[learn] if len(np.unique(answers.groups[learn])) >= 3 else None
    try:
        stack = fit_stack(rows, answers.wrong[learn], groups=groups, seed=seed)
    except FitError:
        return {}
    needs = frozenset[Signal]().union(*(learned.needs(name) for name in stack.needs))
    uncertainty = stack.score({name: columns[name][~learn] for name in names})
    return {OURS_LIGHT: Routed(uncertainty, extra_cost(needs))}


def route_by_confidence_and_question(
    population: Population, learn: BoolArray, seed: int
) -> dict[str, Routed]:
    """All that a recorded answer leaves to learn from: its confidence, and the question's words.

    A `calibration.stack.Stack` of the confidence and of a query-only router's P(wrong) where it
    ranks clearly better out of fold, among the rows to learn from; else the confidence alone, as
    P(wrong).
    """
    wrong = ~population.right
    fold = np.full(len(wrong), -1)
    fold[learn] = stratified_folds(wrong[learn], FOLDS, seed)
    question = np.full(len(wrong), np.nan)
    for k in range(-1, FOLDS):
        question[fold == k] = query_scores(population, learn & (fold != k), wrong, fold == k, seed)
    alone = {RECORDED: population.scores(RECORDED)}
    both = {**alone, "question": question}

    def stacked(parts: Mapping[str, FloatArray], fit: BoolArray, asked: BoolArray) -> FloatArray:
        rows = {name: column[fit] for name, column in parts.items()}
        stack = fit_stack(rows, wrong[fit], seed=seed)
        return stack.score({name: column[asked] for name, column in parts.items()})

    def out_of_fold(parts: Mapping[str, FloatArray]) -> FloatArray:
        scores = np.full(len(wrong), np.nan)
        for k in range(FOLDS):
            scores[fold == k] = stacked(parts, learn & (fold != k), fold == k)
        return unknown_last(scores[learn])

    gained = paired_difference(out_of_fold(both), out_of_fold(alone), ~wrong[learn], seed=seed)
    parts, chose = (both, "with the question") if gained.low > 0 else (alone, "confidence alone")
    return {OURS_RECORDED: Routed(stacked(parts, learn, ~learn), chose=chose)}


QUERY_ROUTER = Router((QUERY_WRONG, QUERY_GAIN), route_by_query, before=True)
PERPLEXITY_ROUTER = Router((PERPLEXITY,), route_by_score("perplexity", PERPLEXITY))

ROUTERS = (
    QUERY_ROUTER,
    PERPLEXITY_ROUTER,
    Router((UCCI,), route_by_margin),
    Router((OURS_LIGHT, OURS, OURS_CHEAP, AUTO), route_by_ours),
)
"""For answers whose traces are known."""

RECORDED_ROUTERS = (
    QUERY_ROUTER,
    Router((CONFIDENCE,), route_by_score(RECORDED, CONFIDENCE)),
    Router((OURS_RECORDED,), route_by_confidence_and_question),
)
"""For answers of which a confidence is known and nothing else."""
