"""The built-in hold-out by two seeds, and how its questions are taken apart."""

from __future__ import annotations

import re

from calibration.datasets import builtin
from calibration.items import LETTERS, Item

ITEMS = builtin.generate(0)
OTHERS = builtin.generate(1)
DOMAINS = {
    *("arithmetic", "word_problems", "facts", "reading"),
    *("commonsense", "logic", "language", "symbols"),
}


def of(family: str) -> list[Item]:
    found = [item for item in (*ITEMS, *OTHERS) if item.family == family]
    assert found
    return found


def right(item: Item) -> str:
    """The text of the right option, or the answer."""
    return item.answer if item.choices is None else item.choices[LETTERS.index(item.answer)]


def numbers(words: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", words)]


def matched(pattern: str, words: str) -> tuple[str, ...]:
    found = re.search(pattern, words)
    assert found is not None, (pattern, words)
    return tuple(group or "" for group in found.groups())
