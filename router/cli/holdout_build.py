"""`router holdout build`: ask the pool, choose from it, write the choice and what it is made of."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from calibration.datasets import read_items, write_items
from calibration.errors import DataError
from calibration.holdout import UNKNOWN, Binning, Bins, build_holdout, uncertainty_bins
from calibration.items import Item
from calibration.metrics import FloatArray, IntArray
from router.cli.collecting import Answers, ask
from router.cli.evaluate import EXIT_INTERRUPTED, default_folder, model_name
from router.config import Settings
from uq import estimator_names, get_estimator

if TYPE_CHECKING:
    from router.collect import Progress

_NAMED = 5
"""How many of the questions left out are named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a hold-out is to be built; see `calibration.holdout.build_holdout`."""

    method: str
    n_bins: int
    binning: Binning
    share: float
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Answered questions, their uncertainty and its bins; rows of which are `taken`."""

    items: Sequence[Item]
    uncertainty: FloatArray
    bins: Bins
    taken: IntArray

    @property
    def chosen(self) -> list[Item]:
        return [self.items[i] for i in self.taken]


def build_from(
    files: Sequence[str],
    wanted: Wanted,
    out: Path,
    settings: Settings,
    *,
    folder: Path | None,
    skip_bad: bool,
    fresh: bool,
) -> None:
    """Build a hold-out from `files`, write it to `out` with its provenance, and sum it up.

    Parameters
    ----------
    folder : where answers are kept; None: where `router evaluate` keeps the model's.

    Raises
    ------
    click.BadParameter
        No registered estimator is called so.
    DataError
        A file can't be read or written, or nothing in it fits the model's context.
    """
    if wanted.method not in estimator_names():
        raise click.BadParameter(
            f"there is no estimator {wanted.method!r}; there are {', '.join(estimator_names())}",
            param_hint="--method",
        )
    read = read_items(list(dict.fromkeys(files)), skip_bad=skip_bad)
    _tell_left_out("bad rows are left out", read.skipped)
    seen: list[Progress] = []
    signals = get_estimator(wanted.method).needs
    try:
        answers = asyncio.run(
            ask(
                read.items,
                signals,
                settings,
                lambda path: folder or Path(default_folder(model_name(path))),
                fresh=fresh,
                seen=seen,
            )
        )
    except KeyboardInterrupt:
        done = f" after {seen[-1].done} of {seen[-1].total} questions" if seen else ""
        _say(f"interrupted{done}; the answers are kept, the same command goes on from there")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    _tell_left_out("questions do not fit the context and are left out", answers.too_long)
    pool = _choose(read.items, answers, wanted)
    write_items(pool.chosen, out)
    side_file = provenance_file(out)
    _write_json(side_file, _provenance(pool, answers, wanted, files))
    click.echo(_summary(pool, wanted))
    click.echo(
        f"{len(pool.taken)} questions written to {out}, what they are made of to {side_file}"
    )


def provenance_file(out: Path) -> Path:
    """Name the side file: ``hold.jsonl.gz`` has ``hold.provenance.json``."""
    name = out.name.removesuffix(".gz")
    return out.with_name(f"{name.removesuffix('.jsonl')}.provenance.json")


def _choose(items: Sequence[Item], answers: Answers, wanted: Wanted) -> _Pool:
    score = get_estimator(wanted.method).score
    scores = {record.key: score(record.trace) for record in answers.records}
    answered = [item for item in items if (item.dataset, item.id) in scores]
    if not answered:
        raise DataError("no question of the pool fits the context; raise --context")
    uncertainty = np.array([scores[item.dataset, item.id] for item in answered])
    taken = build_holdout(
        uncertainty,
        [item.dataset for item in answered],
        ids=[item.id for item in answered],
        n_bins=wanted.n_bins,
        share=wanted.share,
        seed=wanted.seed,
        binning=wanted.binning,
    )
    bins = uncertainty_bins(uncertainty, wanted.n_bins, wanted.binning)
    return _Pool(answered, uncertainty, bins, taken)


def _provenance(
    pool: _Pool, answers: Answers, wanted: Wanted, files: Sequence[str]
) -> dict[str, Any]:
    binding = answers.binding
    sets = _per_set(pool)
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": Path(answers.model_path).name,
        "model_sha256": binding.model_sha256,
        "quantisation": binding.quantisation,
        "template_sha256": binding.template_sha256,
        "sampler": dict(binding.sampler),
        "engine_build": binding.engine_build,
        "estimator": {"name": wanted.method, "version": get_estimator(wanted.method).version},
        "construction": {
            "paper": "arXiv:2502.04428, section 4",
            **{key: value for key, value in asdict(wanted).items() if key != "method"},
        },
        "files": list(dict.fromkeys(files)),
        "n": {"taken": len(pool.taken), "pool": len(pool.items), "too_long": len(answers.too_long)},
        "sets": {name: {"taken": taken, "pool": n} for name, (taken, n) in sets.items()},
        "edges": pool.bins.edges.tolist(),
        "bins": [
            {"bin": "unknown" if bin_ == UNKNOWN else bin_, "taken": taken, "pool": n}
            for bin_, taken, n in _per_bin(pool)
        ],
    }


def _per_set(pool: _Pool) -> dict[str, tuple[int, int]]:
    """How many of each set are taken, and of how many."""
    taken = Counter(item.dataset for item in pool.chosen)
    return {name: (taken[name], n) for name, n in Counter(i.dataset for i in pool.items).items()}


def _per_bin(pool: _Pool) -> list[tuple[int, int, int]]:
    """The bins that hold answers: which, how many are taken, and of how many."""
    found, sizes = np.unique(pool.bins.of, return_counts=True)
    taken = Counter(pool.bins.of[pool.taken].tolist())
    return [(bin_, taken[bin_], n) for bin_, n in zip(found.tolist(), sizes.tolist(), strict=True)]


def _summary(pool: _Pool, wanted: Wanted) -> str:
    from router.cli.evaluation_table import aligned  # noqa: PLC0415 - loads what evaluates

    rows = [[name, str(taken), str(n)] for name, (taken, n) in _per_set(pool).items()]
    rows.append(["all", str(len(pool.taken)), str(len(pool.items))])
    lines = aligned(["", "taken", "pool"], rows)
    bins = _per_bin(pool)
    known = [entry for entry in bins if entry[0] != UNKNOWN]
    if known and len(pool.bins.edges):
        n_empty = max(len(pool.bins.edges) - 1, 1) - len(known)
        taken = [count for _, count, _ in known]
        lines.append(
            f"{wanted.method} from {pool.bins.edges[0]:.4g} to {pool.bins.edges[-1]:.4g}: "
            f"{len(known)} bins of equal {wanted.binning} hold answers ({n_empty} are empty), "
            f"{min(taken)} to {max(taken)} taken of each"
        )
    lines += [
        f"{n} answers are of unknown {wanted.method}, {taken} taken"
        for bin_, taken, n in bins
        if bin_ == UNKNOWN
    ]
    lines.append(
        "uncertainty at 10%, 50%, 90%: "
        + ", ".join(
            f"{name} {_quantiles(values)}"
            for name, values in (
                ("pool", pool.uncertainty),
                ("taken", pool.uncertainty[pool.taken]),
            )
        )
    )
    return "\n".join(lines)


def _quantiles(values: FloatArray) -> str:
    known = values[np.isfinite(values)]
    found = np.quantile(known, (0.1, 0.5, 0.9)) if len(known) else [math.nan] * 3
    return " ".join(f"{value:.4g}" for value in found)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_text(json.dumps(content, allow_nan=False, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror}") from error


def _tell_left_out(what: str, entries: Sequence[str]) -> None:
    if not entries:
        return
    _say(f"{len(entries)} {what}:")
    for entry in entries[:_NAMED]:
        _say(f"  {entry}")
    if len(entries) > _NAMED:
        _say(f"  ... and {len(entries) - _NAMED} more")


def _say(message: str) -> None:
    click.echo(message, err=True)
