"""Labelled questions: files in JSON Lines, and the built-in hold-out in `builtin`."""

from calibration.datasets.readers import MAX_TOKENS, Dataset, read_items, write_items

__all__ = ["MAX_TOKENS", "Dataset", "read_items", "write_items"]
