"""Labelled questions: files in JSON Lines, and the built-in hold-out in `builtin`."""

from calibration.datasets.readers import (
    MAX_TOKENS,
    Dataset,
    Questions,
    read_items,
    read_questions,
    with_answer,
    write_items,
)

__all__ = [
    "MAX_TOKENS",
    "Dataset",
    "Questions",
    "read_items",
    "read_questions",
    "with_answer",
    "write_items",
]
