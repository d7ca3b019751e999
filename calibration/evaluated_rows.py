"""Graded and scored answers, what an evaluation is made of.

They come from records of a small model that was asked here, or from items whose outcomes and
confidences others have recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.errors import DataError
from calibration.items import Item
from calibration.records import Key, Record
from uq import score_all

RECORDED = "recorded_confidence"
"""The estimator of rows that others made: one minus the confidence they recorded."""


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """One graded answer of the small model and what the estimators say of it.

    Attributes
    ----------
    dataset : the set it counts in.
    correct : the grader's verdict.
    scores : estimator -> uncertainty, higher = less sure, NaN = unknown.
    llm : recorded outcomes of other models on the same question: name -> was it right.
    record : the answer with its trace, for estimators that are trained on it; None when unknown.
    n_choices : how many options the question has; 0 for one with a free answer.
    """

    dataset: str
    correct: bool
    scores: Mapping[str, float]
    llm: Mapping[str, bool] = field(default_factory=dict)
    record: Record | None = None
    n_choices: int = 0


Trainer = Callable[[Sequence[EvaluatedRow]], Callable[[EvaluatedRow], float]]
"""Fits an estimator to rows, and returns what scores a row it has not seen: an uncertainty, NaN
where it can't tell. A FitError means that these rows can't be learned from."""


def rows_of_records(
    records: Iterable[Record], items: Iterable[Item], methods: Sequence[str]
) -> list[EvaluatedRow]:
    """Score each record with the registered estimators called `methods`.

    What large models are recorded to have done with a question, and how many options it has, is
    taken from its item; a record whose item is not among `items` has no such outcomes, and counts
    as one with a free answer.
    """
    asked: dict[Key, Item] = {(item.dataset, item.id): item for item in items}
    return [_row_of_record(record, asked.get(record.key), methods) for record in records]


def _row_of_record(record: Record, item: Item | None, methods: Sequence[str]) -> EvaluatedRow:
    return EvaluatedRow(
        dataset=record.dataset,
        correct=record.correct,
        scores=score_all(record.trace, methods),
        llm={} if item is None else item.llm,
        record=record,
        n_choices=0 if item is None else len(item.choices or ()),
    )


def recorded_rows(items: Sequence[Item], slm: str) -> list[EvaluatedRow]:
    """Take a recorded model as the small one; its uncertainty is called `RECORDED`.

    Parameters
    ----------
    items : questions with outcomes; those without this model's are left out.
    slm : the model's name in `Item.llm` and `Item.conf`, or its beginning where that fits one name
        alone. Where no confidence is recorded, the uncertainty is unknown.

    Raises
    ------
    DataError
        No model is called so, or several are; lists those there are.
    """
    names = {name: None for item in items for name in item.llm}
    matching = match_name(slm, names)
    if len(matching) != 1:
        problem = "fits several models" if matching else "is not among the recorded models"
        known = ", ".join(matching or sorted(names)) or "none"
        raise DataError(f"{slm!r} {problem}; there are {known}")
    (name,) = matching
    return [
        EvaluatedRow(
            dataset=item.dataset,
            correct=item.llm[name],
            scores={RECORDED: 1.0 - item.conf.get(name, math.nan)},
            llm={other: right for other, right in item.llm.items() if other != name},
            n_choices=len(item.choices or ()),
        )
        for item in items
        if name in item.llm
    ]


def pick_upstream(groups: Mapping[str, Sequence[EvaluatedRow]], wanted: str = "") -> dict[str, str]:
    """Choose, for each set, the recorded model that stands for the large one.

    Parameters
    ----------
    groups : set -> its rows.
    wanted : a recorded model's name, or its beginning where that fits one model of the set alone.
        "": the model with the largest share of right answers, of those recorded on at least half
        as many rows as the best recorded one.

    Returns
    -------
    dict
        Sets without such a model are left out.

    Raises
    ------
    DataError
        `wanted` fits no model of any set, or several of one; lists those there are.
    """
    recorded = {dataset: _recorded(rows) for dataset, rows in groups.items()}
    if not wanted:
        return {dataset: _best_recorded(of) for dataset, of in recorded.items() if of}
    chosen = {}
    for dataset, outcomes in recorded.items():
        matching = match_name(wanted, outcomes)
        if len(matching) > 1:
            raise DataError(
                f"{wanted!r} fits several models whose outcomes {dataset} holds: "
                f"{', '.join(matching)}; name one in full"
            )
        if matching:
            chosen[dataset] = matching[0]
    if not chosen:
        known = sorted({name for outcomes in recorded.values() for name in outcomes})
        raise DataError(
            f"no set holds outcomes of {wanted!r}; "
            + (f"there are {', '.join(known)}" if known else "none holds outcomes of any model")
        )
    return chosen


def match_name(wanted: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the name that is `wanted`, or else all that begin with it, whatever their case."""
    if wanted in names:
        return [wanted]
    return sorted(name for name in names if name.lower().startswith(wanted.lower()))


def _recorded(rows: Sequence[EvaluatedRow]) -> dict[str, list[bool]]:
    outcomes: dict[str, list[bool]] = {}
    for row in rows:
        for name, right in row.llm.items():
            outcomes.setdefault(name, []).append(right)
    return outcomes


def _best_recorded(outcomes: Mapping[str, Sequence[bool]]) -> str:
    most = max(len(of) for of in outcomes.values())
    often = {name: np.mean(of) for name, of in outcomes.items() if 2 * len(of) >= most}
    return max(sorted(often), key=lambda name: often[name])
