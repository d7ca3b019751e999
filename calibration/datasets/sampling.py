"""An order of questions that is representative from the first on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from calibration.items import Item


def spread(items: Iterable[Item], seed: int = 0) -> list[Item]:
    """Return `items` so ordered that every beginning is a sample stratified by data set and family.

    Each stratum is shuffled and laid out evenly over the whole length, so the first k items hold
    each stratum in proportion, up to one item. A larger sample contains every smaller one of the
    same seed: what was answered for the one serves the other.

    Parameters
    ----------
    items : in any order, which does not matter.
    seed : of the shuffle; the same in every process and Python version.
    """
    strata: dict[tuple[str, str], list[tuple[str, Item]]] = defaultdict(list)
    for item in items:
        key = f"{seed}:{item.dataset}:{item.id}"
        strata[item.dataset, item.family or ""].append((_hash(key), item))
    placed = []
    for members in strata.values():
        members.sort(key=lambda member: member[0])
        placed += [((i + 0.5) / len(members), *member) for i, member in enumerate(members)]
    placed.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in placed]


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
