"""How well live control and drift detection do on real answers of kinds no one calibrated on.

    .venv/bin/python -m benchmarks.live            # 3 to 6 minutes on one core
    .venv/bin/python -m benchmarks.live --quick    # under a minute, few runs

Answers are SmolLM2-135M's to 16 data sets, scores alone, as the tests keep them; --records takes a
record log, as `router evaluate` writes it, of any other model and sets. No model is run, and
nothing depends on the machine: the same seed gives the same figures.

The controller (`calibration.controller`) is asked for ratios from 0.1 to 0.9 on each set, and after
a switch from each set to each other one, starting from the scores of sets that are neither. The
tests of drift (`calibration.drift`) are watched while nothing drifts, and when one set follows on
another. `benchmarks/live_control.py` and `benchmarks/live_drift.py` have the details.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

if __name__ == "__main__":  # run as a file, this one would hide the package uq
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import live_control, live_drift
from benchmarks.live_scores import Sets, read_records, read_scores
from benchmarks.live_table import tables
from calibration.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
SCORES = ROOT / "tests" / "calibration" / "slm_scores.json"
SCORE = "perplexity"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated.

    Attributes
    ----------
    draws : streams of each set and wanted ratio, and of each mix.
    switch_draws : of each switch and ratio.
    switch_ratios : of `live_control.RATIOS`, every so many are asked for where sets switch.
    alarms : streams without drift, for each test and reference.
    length : answers of each of them.
    shifts : streams of each shift from one set to another.
    """

    draws: int = 10
    switch_draws: int = 3
    switch_ratios: int = 1
    alarms: int = 2000
    length: int = 3000
    shifts: int = 5


FULL = Size()
QUICK = Size(draws=2, switch_draws=1, switch_ratios=3, alarms=200, shifts=1)


def measure(sets: Sets, size: Size, seed: int) -> dict[str, Any]:
    """Return all figures, JSON-ready; each part draws from a generator of its own."""
    return {
        "sets": {
            name: {
                "n": len(answers.correct),
                "unknown": int(np.isnan(answers.uncertainty).sum()),
                "right": float(answers.correct.mean()),
                "auroc": None if math.isnan(answers.auroc) else answers.auroc,
            }
            for name, answers in sets.items()
        },
        "controller": _controller(sets, size, seed),
        "drift": _drift(sets, size, seed),
    }


def _controller(sets: Sets, size: Size, seed: int) -> dict[str, Any]:
    on_sets, on_switches, on_mixes = (np.random.default_rng([seed, i]) for i in range(3))
    ratios = live_control.RATIOS
    _tell("controller: each set")
    gaps, caught = live_control.alone(sets, ratios, size.draws, on_sets)
    _tell("controller: each switch")
    every = ratios[:: size.switch_ratios]
    gaps += live_control.switches(sets, every, size.switch_draws, on_switches)
    _tell("controller: what it costs")
    quality = live_control.quality(sets, caught, ratios, size.draws, on_mixes)
    return {**live_control.summarise(gaps), "quality": quality}


def _drift(sets: Sets, size: Size, seed: int) -> dict[str, Any]:
    calm, shifts = (np.random.default_rng([seed, i]) for i in (3, 4))
    _tell("drift: false alarms")
    alarms = live_drift.false_alarms(sets, size.alarms, size.length, calm)
    scores: dict[str, dict[str, Any]] = {}
    labels: dict[str, dict[str, Any]] = {}
    for n_calm in (0, live_drift.CALM):
        _tell(f"drift: shifts after {n_calm} calm answers")
        for n in live_drift.REFERENCES:
            found = live_drift.delays_of_scores(sets, n, n_calm, size.shifts, shifts)
            rows = live_drift.by_size(found, live_drift.DISTANCES)
            scores.setdefault(f"{n}", {})[f"{n_calm}"] = rows
        late = live_drift.delays_of_labels(sets, n_calm, size.shifts, shifts)
        labels[f"{n_calm}"] = live_drift.by_size(late, live_drift.GAPS)
    return {
        "horizon": live_drift.HORIZON,
        "alarms": alarms,
        "scores": scores,
        "labels": labels,
        "gaps": live_drift.delays_of_gaps(size.alarms // 4, shifts),
    }


def _tell(what: str) -> None:
    print(what, file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--scores", type=Path, default=SCORES, metavar="FILE")
    source.add_argument("--records", type=Path, metavar="FILE", help="a record log instead")
    parser.add_argument("--score", default=SCORE, metavar="NAME", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures there, as JSON")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    start = perf_counter()
    try:
        sets = (
            read_records(options.records, options.score)
            if options.records
            else read_scores(options.scores, options.score)
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = QUICK if options.quick else FULL
    given = sys.argv[1:] if arguments is None else arguments
    report = {
        "command": shlex.join([".venv/bin/python", "-m", "benchmarks.live", *given]),
        "settings": {
            "source": (options.records or options.scores).name,
            "score": options.score,
            "seed": options.seed,
            **asdict(size),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("seek-stronger", "numpy")},
        },
        **measure(sets, size, options.seed),
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print("\n".join(tables(report)))
    print(f"{perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
