"""Which router recovers the large model's lead for the fewest calls: ours beside the field.

    .venv/bin/python -m benchmarks.routing --records records.jsonl --data FOLDER
    .venv/bin/python -m benchmarks.routing --limit 80 --data FOLDER --model SPEC    # asks the model

The small model's answers come from a record log, as `router evaluate` writes it; where none is
named the model is asked. What the large one does with a question is recorded in the data files; a
set without such outcomes is only learned from. `mmlu_val` holds two models' recorded outcomes, and
the small one's confidence: there nothing else is known of an answer.

Every learned router learns from the same rows. *Left out*: for each set, from all others. *In
domain*: in five folds over all rows, dealt by set and outcome, from the other four. Perplexity and
the recorded confidence need no training; a threshold on them is a quantile.

APGR is the mean share of the large model's lead that is recovered, over all shares of questions
sent, 0.5 at random. Costs are in calls of the large model; `benchmarks/routing_measures.py` has
the formula. Ours pays for all signals it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, this one would hide the package uq
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_measures import Group, Outcomes, Worth, compare, cost, random_worth, worth
from benchmarks.routing_routers import (
    AUTO,
    OURS,
    OURS_CHEAP,
    OURS_LIGHT,
    OURS_RECORDED,
    RECORDED_ROUTERS,
    ROUTERS,
    Population,
    Router,
)
from benchmarks.routing_table import tables
from calibration.datasets import read_items
from calibration.datasets.sampling import spread
from calibration.errors import DataError, FitError
from calibration.evaluated_rows import (
    EvaluatedRow,
    match_name,
    pick_upstream,
    recorded_rows,
    rows_of_records,
)
from calibration.folds import stratified_folds
from calibration.items import Item
from calibration.metrics import FloatArray
from calibration.records import Record, fingerprint
from calibration.routing_metrics import oracle_uncertainty
from uq import estimator_names

ROOT = Path(__file__).resolve().parents[1]
RECORDED_SET, RECORDED_LLM = "mmlu_val", "gpt-4o"
RECORDED_SLMS = ("llama3.2-1b", "llama3.2-3b", "llama3.1-8b")
RATIO = 0.05
"""What an answer of the small model costs in calls of the large one. About that of the parameters
of a 3B and a 70B model; prices per token are often further apart (1B to gpt-4o: 0.01 or less), and
a smaller one favours every router that asks the small model first."""

AT_LEAST = 10
N_BOOT, N_BOOT_QUICK = 1000, 200
FOLDS = 5
RANDOM, ORACLE = "random", "oracle"
HEADLINES = (OURS_LIGHT, OURS_RECORDED)
"""The one of ours that is compared with every baseline."""

OURS_ALL = frozenset({AUTO, OURS, OURS_CHEAP, OURS_LIGHT, OURS_RECORDED})


@dataclass(frozen=True, eq=False)
class Column:
    """What a router says of every row of a population, each by a fit that did not see the row.

    Attributes
    ----------
    uncertainty, looks : float arrays of shape (n,)
        See `benchmarks.routing_routers.Routed`.
    failed : part that could not be fitted without -> why.
    chose : part -> what was settled on without it.
    """

    uncertainty: FloatArray
    looks: FloatArray
    failed: dict[str, str] = field(default_factory=dict)
    chose: dict[str, str] = field(default_factory=dict)


def read_records(path: Path) -> list[Record]:
    """Read a record log, also one that another process is writing to.

    Raises
    ------
    DataError
        It can't be read, or is no record log.
    """
    try:
        header, *lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last \n is torn
        if "record_log" not in json.loads(header):
            raise ValueError("its first line is no header")
        records = [Record.from_dict(json.loads(line)) for line in lines]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} can't be read as a record log: {error}") from error
    return list({record.key: record for record in records}.values())


def traced_population(
    records: Iterable[Record], items: Sequence[Item], upstream: str, name: str
) -> tuple[Population, dict[str, str]]:
    """Answers with traces, and whose outcomes stand for the large model in each set.

    The large model is chosen by all questions of a set, not by those that were sampled. Records of
    questions that are not among `items`, or were asked in other words, are left out.

    Raises
    ------
    DataError
        No record is left, or `upstream` fits no recorded model.
    """
    of = {(item.dataset, item.id): item for item in items}
    kept = [r for r in records if r.key in of and r.asked in ("", fingerprint(of[r.key]))]
    if not kept:
        raise DataError("no record is of a question in the data folder, asked in these words")
    kept.sort(key=lambda record: record.key)
    sets: dict[str, list[EvaluatedRow]] = {}
    for item in items:
        sets.setdefault(item.dataset, []).append(EvaluatedRow(item.dataset, True, {}, item.llm))
    asked = {record.dataset for record in kept}
    large = pick_upstream({k: rows for k, rows in sets.items() if k in asked}, upstream)
    rows = rows_of_records(kept, items, estimator_names())
    texts = [of[record.key].prompt() for record in kept]
    return Population(name, rows, texts, outcomes_of(rows, large)), large


def recorded_population(items: Sequence[Item], slm: str, llm: str) -> Population:
    """Two recorded models on the same questions. Raises DataError when one is not recorded."""
    rows = recorded_rows(items, slm)
    texts = [item.prompt() for item in items if match_name(slm, item.llm)]
    large = pick_upstream({RECORDED_SET: rows}, llm)
    name = f"{RECORDED_SET}: {slm} before {large[RECORDED_SET]}"
    return Population(name, rows, texts, outcomes_of(rows, large))


def outcomes_of(rows: Sequence[EvaluatedRow], large: Mapping[str, str]) -> FloatArray:
    """Whether the large model is right, as 1 and 0, NaN where that is unknown."""
    outcomes = [row.llm.get(large.get(row.dataset, "")) for row in rows]
    return np.array([np.nan if right is None else float(right) for right in outcomes])


def parts_of(population: Population, seed: int) -> dict[str, NDArray[np.str_]]:
    """Protocol -> which part each row is left out with."""
    sets, right = population.sets, population.right
    labels = np.array([f"{name} {r}" for name, r in zip(sets, right, strict=True)])
    folds = stratified_folds(labels, FOLDS, seed)
    parts = {"in domain": np.array([f"fold {k}" for k in folds])}
    if len(set(sets)) > 1:
        parts = {"left out": sets, **parts}
    return parts


def cross_fit(
    population: Population, routers: Sequence[Router], parts: NDArray[np.str_], seed: int
) -> dict[str, Column]:
    """Let each router learn from all parts but one and route that one."""
    n = len(parts)
    columns = {
        name: Column(np.full(n, np.nan), np.zeros(n)) for router in routers for name in router.names
    }
    for part in np.unique(parts).tolist():
        learn = parts != part
        for router in routers:
            try:
                found = router.route(population, learn, seed)
                why = "there is nothing for it to be learned from"
            except FitError as error:
                found, why = {}, str(error)
            for name in router.names:
                if name not in found:
                    columns[name].failed[part] = why
                    continue
                columns[name].uncertainty[~learn] = found[name].uncertainty
                columns[name].looks[~learn] = found[name].looks
                if found[name].chose:
                    columns[name].chose[part] = found[name].chose
    return columns


@dataclass(frozen=True)
class Settings:
    """How everything is measured."""

    ratio: float = RATIO
    at_least: int = AT_LEAST
    n_boot: int = N_BOOT
    seed: int = 0


def measure(
    population: Population,
    columns: Mapping[str, Column],
    parts: NDArray[np.str_],
    before: frozenset[str],
    how: Settings,
    *,
    dataset: str | None = None,
) -> Group:
    """Measure all routers on one set, or on all rows whose outcomes are known."""
    inside = population.has_llm
    if dataset is not None:
        inside = inside & (population.sets == dataset)
    if not inside.any():
        return Group(0, np.nan, np.nan, {}, "no outcomes of a large model are recorded")
    slm, llm = population.right[inside], population.llm[inside] == 1.0
    outcomes = Outcomes.of(slm, llm, n_boot=how.n_boot, seed=how.seed)
    why = outcomes.why_not(how.at_least)
    if why:
        return Group(len(slm), float(slm.mean()), float(llm.mean()), {}, why)
    routers: dict[str, Worth | str] = {RANDOM: random_worth(outcomes, how.ratio)}
    for name, column in columns.items():
        failed = [column.failed[part] for part in np.unique(parts[inside]) if part in column.failed]
        routers[name] = (
            failed[0]
            if failed
            else worth(
                column.uncertainty[inside],
                outcomes,
                how.ratio,
                looks=float(column.looks[inside].mean()),
                before=name in before,
            )
        )
    routers[ORACLE] = worth(oracle_uncertainty(slm, llm), outcomes, how.ratio)
    return Group(len(slm), float(slm.mean()), float(llm.mean()), routers)


def study(
    population: Population,
    routers: Sequence[Router],
    how: Settings,
    upstream: Mapping[str, str],
) -> dict[str, Any]:
    """Compare routers on a population by each protocol; JSON-ready."""
    before = frozenset(name for router in routers for name in router.names if router.before)
    baselines = {RANDOM, *(name for router in routers for name in router.names)} - OURS_ALL
    protocols = {}
    for protocol, parts in parts_of(population, how.seed).items():
        print(f"{population.name}, {protocol}: {len(set(parts))} fits", file=sys.stderr)
        columns = cross_fit(population, routers, parts, how.seed)
        pooled = measure(population, columns, parts, before, how)
        names = sorted(set(population.sets)) if len(set(population.sets)) > 1 else []
        sets = {
            dataset: measure(population, columns, parts, before, how, dataset=dataset)
            for dataset in names
        }
        protocols[protocol] = {
            "pooled": pooled.to_json(),
            "sets": {name: group.to_json() for name, group in sets.items()},
            "differences": {
                ours: compare(pooled, sets, ours, baselines) for ours in columns if ours in OURS_ALL
            },
            "headline": next((name for name in columns if name in HEADLINES), ""),
            "chose": {name: column.chose for name, column in columns.items() if column.chose},
        }
    return {
        "population": population.name,
        "rows": len(population.rows),
        "upstream": dict(upstream),
        "always": {"local": cost(0.0, how.ratio), "remote": 1.0},
        "protocols": protocols,
    }


def collect(items: Sequence[Item], model: str, folder: Path) -> list[Record]:
    """Ask the model what its record log in `folder` does not hold yet, with every signal."""
    from router.cli.collecting import ask  # noqa: PLC0415  loads the engine
    from router.config_load import load_settings  # noqa: PLC0415
    from uq import get_estimator  # noqa: PLC0415

    signals = frozenset(s for name in estimator_names() for s in get_estimator(name).needs)
    settings = load_settings({"model": model} if model else {})
    asking = ask(items, signals | {"hidden"}, settings, lambda _: folder, fresh=False, seen=[])
    return asyncio.run(asking).records


def sample(items: Sequence[Item], limit: int) -> list[Item]:
    """Of each set a sample that every larger one contains."""
    sets: dict[str, list[Item]] = {}
    for item in items:
        sets.setdefault(item.dataset, []).append(item)
    return [item for of_set in sets.values() for item in spread(of_set)[:limit]]


def recorded_studies(items: Sequence[Item], how: Settings) -> Iterator[dict[str, Any]]:
    """The recorded pairs, where the data folder has them."""
    recorded = [item for item in items if item.dataset == RECORDED_SET]
    for slm in RECORDED_SLMS if recorded else ():
        population = recorded_population(recorded, slm, RECORDED_LLM)
        yield study(population, RECORDED_ROUTERS, how, {RECORDED_SET: RECORDED_LLM})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    data = Path(os.environ.get("ROUTER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=Path, metavar="FILE", help="a record log")
    parser.add_argument("--data", type=Path, default=data, metavar="FOLDER")
    parser.add_argument("--limit", type=int, metavar="N", help="ask the model N questions a set")
    parser.add_argument("--model", default="", help="which to ask; default: as `router serve`")
    parser.add_argument("--folder", type=Path, default=Path("routing-records"), metavar="FOLDER")
    parser.add_argument("--upstream", default="", metavar="NAME", help="default: each set's best")
    parser.add_argument("--ratio", type=float, default=RATIO, help="c_s : c_l, default %(default)s")
    parser.add_argument("--at-least", type=int, default=AT_LEAST, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"{N_BOOT_QUICK} resamples")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures there, as JSON")
    options = parser.parse_args(arguments)
    if not 0.0 <= options.ratio <= 1.0:
        parser.error(f"--ratio must be between 0 and 1, not {options.ratio}")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be at least 1")
    if not sorted(options.data.glob("*.jsonl.gz")):
        parser.error(f"{options.data} holds no *.jsonl.gz; name a folder of questions with --data")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    n_boot = N_BOOT_QUICK if options.quick else N_BOOT
    how = Settings(options.ratio, options.at_least, n_boot, options.seed)
    items = read_items(sorted(options.data.glob("*.jsonl.gz")), skip_bad=True).items
    studies: list[dict[str, Any]] = []
    if options.records or options.limit:
        others = [item for item in items if item.dataset != RECORDED_SET]
        records = (
            read_records(options.records)
            if options.records
            else collect(sample(others, options.limit), options.model, options.folder)
        )
        name = (options.records or options.folder).stem
        population, large = traced_population(records, others, options.upstream, name)
        studies.append(study(population, ROUTERS, how, large))
    studies += recorded_studies(items, how)
    given = sys.argv[1:] if arguments is None else arguments
    report = {
        "command": shlex.join([".venv/bin/python", "-m", "benchmarks.routing", *given]),
        "settings": asdict(how),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("seek-stronger", "numpy", "scipy", "scikit-learn")},
        },
        "studies": studies,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print("\n".join(tables(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
