"""The built-in hold-out: questions that we wrote, made afresh from a seed.

A calibration needs labelled questions that the small model sometimes answers and sometimes fails,
in the mix a user of an app would ask. The families are graded in difficulty inside themselves
(one-digit to three-digit sums, well-known to remote capitals), so that being right depends on the
question and not on its family alone. Texts and tables are our own; no data set was copied.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from calibration.datasets.builtin import (
    arithmetic,
    commonsense,
    facts,
    language,
    logic,
    reading,
    symbols,
    word_problems,
)
from calibration.datasets.builtin.family import Family
from calibration.items import Item

__all__ = ["DATASET", "FAMILIES", "Family", "generate"]

DATASET = "holdout"
"""The items' data set, and the first part of their ids."""

FAMILIES: tuple[Family, ...] = (
    *arithmetic.FAMILIES,
    *word_problems.FAMILIES,
    *facts.FAMILIES,
    *reading.FAMILIES,
    *commonsense.FAMILIES,
    *logic.FAMILIES,
    *language.FAMILIES,
    *symbols.FAMILIES,
)
"""All families, by domain."""

_DRAWS_PER_ITEM = 400


def generate(seed: int = 0) -> tuple[Item, ...]:
    """Return the hold-out for `seed`: the same items in every process and Python version.

    Families draw from generators of their own, so adding one leaves the items of the others as they
    are. No two items ask the same: a question comes back only where its options make the
    difference, and then never with the same options.

    Parameters
    ----------
    seed : int
        Any whole number. Other seeds draw other numbers, names and places; families that ask about
        the world draw other entries of the same tables.

    Returns
    -------
    tuple of Item
        In the order of `FAMILIES`, `Family.size` items each; ids like ``holdout-capital-0007``.
    """
    return tuple(item for family in FAMILIES for item in _draw(family, seed))


def _draw(family: Family, seed: int) -> list[Item]:
    # A string seed goes through SHA-512, not through hash(), which differs from process to process.
    rng = Random(f"{family.name}:{seed}")
    items: list[Item] = []
    seen: set[tuple[str | None, str, tuple[str, ...]]] = set()
    for _ in range(_DRAWS_PER_ITEM * family.size):
        drawn = family.make(rng)
        options = tuple(sorted(drawn.choices or ())) if family.asks_options else ()
        key = (drawn.context, drawn.question, options)
        if key in seen:
            continue
        seen.add(key)
        items.append(
            replace(
                drawn,
                id=f"{DATASET}-{family.name}-{len(items):04d}",
                dataset=DATASET,
                domain=family.domain,
                family=family.name,
            )
        )
        if len(items) == family.size:
            return items
    raise RuntimeError(
        f"the family {family.name!r} has {len(items)} different questions, but {family.size} are "
        "wanted; give it more material or a smaller size"
    )
