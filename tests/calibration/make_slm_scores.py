"""Writes slm_scores.json: a small model's own signals of its answers, and which were right.

The tests of thresholds, controllers and drift need scores as they really are distributed, data set
by data set, but no model and no texts. To make the file again, from the records of SmolLM2-135M
over the data sets::

    python -m tests.calibration.make_slm_scores RECORDS.jsonl
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from calibration.records import Record
from uq import score_all

FIXTURE = Path(__file__).with_name("slm_scores.json")
METHODS = (
    "perplexity",
    "mean_token_entropy",
    "min_probability",
    "length",
    "option_letter",
    "lowest_window_confidence",
    "answer_span_min",
)
Scores = dict[str, dict[str, list[float | None]]]


def main() -> None:
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    FIXTURE.write_text(json.dumps(scores_by_set(lines)) + "\n")


def scores_by_set(lines: list[str]) -> Scores:
    """Data set -> "correct" or method -> one value an answer; unknown is None."""
    sets: Scores = {}
    for line in lines:
        data = json.loads(line)
        if "trace" not in data:  # the header
            continue
        record = Record.from_dict(data)
        scores = score_all(record.trace, METHODS)
        columns = sets.setdefault(record.dataset, {name: [] for name in ("correct", *METHODS)})
        columns["correct"].append(int(record.correct))
        for name in METHODS:
            score = scores[name]
            columns[name].append(None if math.isnan(score) else round(score, 6))
    return sets


if __name__ == "__main__":
    main()
