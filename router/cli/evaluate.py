"""`router evaluate`: which uncertainty to trust on a model, over one or many question sets."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import MANY_QUESTIONS, settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.evaluated_rows import EvaluatedRow
    from calibration.evaluation_results import Evaluation
    from calibration.items import Item
    from calibration.leave_one_out_results import LeaveOneOut
    from router.collect import Progress
    from uq.signals import Signal

HOLDOUT = "holdout"
RESULTS = "evaluation.json"
REPORT = "report.html"
CARRIED = "leave-one-out.json"
ALL = "all"
FREE = "perplexity,mean_token_entropy,margin,min_probability,answer_span_mean"
"""What --leave-one-out compares by default: it costs nothing beyond the answers."""
EXIT_INTERRUPTED = 130

_NEIGHBOURS: frozenset[Signal] = frozenset({"hidden"})
"""What tells which questions are similar."""

_NAMED = 5
"""How many of the questions left out are named."""


@click.command(short_help="Compare uncertainty estimators over question sets.")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="holdout|FILE",
    help="A JSON Lines file of labelled questions, or the built-in hold-out; may be repeated, or "
    "more files may follow it.",
)
@click.option(
    "--methods",
    metavar="all|NAME,...",
    help="The estimators to compare; what they need is asked of the model.  [default: all; with "
    f"--leave-one-out {FREE}]",
)
@click.option(
    "--leave-one-out",
    is_flag=True,
    help="Instead: set thresholds without each set in turn, and tell what they escalate of it: as "
    "they are, on ranks among the answers to similar questions, and by the online controller.",
)
@click.option(
    "--holdout",
    "with_holdout",
    is_flag=True,
    help="As --dataset holdout. With --leave-one-out thresholds are set on it as well.",
)
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="With --leave-one-out: the part of the other sets that is the hold-out.  [default: 0.1]",
)
@click.option(
    "--upstream-outcomes",
    "upstream",
    default="",
    metavar="NAME",
    help="Whose recorded outcomes stand for the large model (its name or the beginning of it).  "
    "[default: in each set the one most often right]",
)
@click.option(
    "--recorded-slm",
    metavar="NAME",
    help="Ask no model: take this one's recorded outcomes and confidences as the small model's.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take a sample of N items a set."
)
@click.option("--seed", type=int, default=0, help="Of samples, resamples, folds.  [default: 0]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where answers, figures and report go.  [default: ./evaluation-MODEL]",
)
@click.option("--skip-bad", is_flag=True, help="Leave bad rows of data files out, and count them.")
@click.option("--fresh", is_flag=True, help="Ask everything again, forgetting earlier answers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@settings_options(*MANY_QUESTIONS)
def evaluate(
    *,
    files: tuple[str, ...],
    datasets: tuple[str, ...],
    methods: str | None,
    leave_one_out: bool,
    with_holdout: bool,
    share: float | None,
    upstream: str,
    recorded_slm: str | None,
    limit: int | None,
    seed: int,
    out: Path | None,
    skip_bad: bool,
    fresh: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Measure how well each uncertainty estimator tells the model's right from its wrong answers.

    The answers are kept in FOLDER as they come: after an interruption the same command goes on
    where it stopped, and more sets or methods ask only what is new.
    """
    if not datasets and not files and not with_holdout:
        raise click.UsageError("name at least one file of questions: --dataset FILE")
    if fresh and recorded_slm:
        raise click.UsageError("--fresh asks a model again, and --recorded-slm asks none")
    if share is not None and not leave_one_out:
        raise click.UsageError("--share is the hold-out's, which --leave-one-out builds")
    names = _methods(methods or (FREE if leave_one_out else ALL))
    if leave_one_out:
        _check_carried(names)
    built_in = [HOLDOUT] if with_holdout else []
    items = _items([*datasets, *files, *built_in], limit=limit, seed=seed, skip_bad=skip_bad)
    seen: list[Progress] = []
    try:
        if recorded_slm is None:
            signals = _signals(names) | (_NEIGHBOURS if leave_one_out else frozenset())
            asked = _ask(items, names, signals, settings, out, fresh=fresh, seen=seen)
        else:
            asked = _recorded(items, recorded_slm, out)
        if leave_one_out:
            carried = _carry_over(asked, names, share=share, upstream=upstream, seed=seed)
            results = {"model": asked.model, **carried.to_json()}
            _write(asked.folder / CARRIED, results)
        else:
            evaluation = _evaluate(asked, names, upstream=upstream, seed=seed)
            results = {"model": asked.model, **evaluation.to_json()}
            _write(asked.folder / RESULTS, results)
            _write_report(asked, evaluation)
    except KeyboardInterrupt:
        done = f" after {seen[-1].done} of {seen[-1].total} questions" if seen else ""
        _say(f"interrupted{done}; the answers are kept, the same command goes on from there")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        click.echo(json.dumps(results))
        return
    if leave_one_out:
        from router.cli.leave_one_out_table import carried_tables  # noqa: PLC0415

        click.echo(carried_tables(carried))
        click.echo(f"\n{asked.folder / CARRIED} holds all.")
        return
    from router.cli.evaluation_table import tables  # noqa: PLC0415

    click.echo(tables(evaluation))
    click.echo(f"\n{asked.folder / REPORT} shows the curves, {asked.folder / RESULTS} holds all.")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Scored answers, of which model, and the folder for what is made of them."""

    folder: Path
    model: str
    rows: Sequence[EvaluatedRow]
    n_layer: int = 0


def _methods(methods: str) -> tuple[str, ...]:
    from calibration.trainers import TRAINED  # noqa: PLC0415
    from uq import estimator_names  # noqa: PLC0415

    known = (*estimator_names(), *TRAINED)
    if methods == ALL:
        return known
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",")))
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"there is no estimator {name!r}; there are {', '.join(known)}",
                param_hint="--methods",
            )
    if not _registered(names):
        raise click.BadParameter(
            "there are trained estimators only; add one to compare with, such as perplexity",
            param_hint="--methods",
        )
    return names


def _registered(methods: Sequence[str]) -> list[str]:
    """Those of `methods` that need no training."""
    from calibration.trainers import TRAINED  # noqa: PLC0415

    return [name for name in methods if name not in TRAINED]


def _signals(methods: Sequence[str]) -> frozenset[Signal]:
    from calibration.trainers import TRAINED  # noqa: PLC0415
    from uq import get_estimator  # noqa: PLC0415

    needs = frozenset(
        signal for name in _registered(methods) for signal in get_estimator(name).needs
    )
    return needs | {"hidden"} if set(methods) & set(TRAINED) else needs


def _items(names: Sequence[str], *, limit: int | None, seed: int, skip_bad: bool) -> list[Item]:
    """Read the files; of each set keep a sample of `limit`, which every larger one contains."""
    from calibration.datasets import builtin, read_items  # noqa: PLC0415
    from calibration.datasets.sampling import spread  # noqa: PLC0415

    files = [name for name in dict.fromkeys(names) if name != HOLDOUT]
    found = list(builtin.generate(seed)) if HOLDOUT in names else []
    if files:
        read = read_items(files, skip_bad=skip_bad)
        found += read.items
        if read.skipped:
            _say(f"{len(read.skipped)} bad rows are left out:")
            _list(read.skipped)
    sets: dict[str, list[Item]] = {}
    for item in found:
        sets.setdefault(item.dataset, []).append(item)
    return [item for items in sets.values() for item in spread(items, seed)[:limit]]


def _recorded(items: Sequence[Item], slm: str, out: Path | None) -> _Asked:
    from calibration.evaluated_rows import recorded_rows  # noqa: PLC0415

    rows = recorded_rows(items, slm)
    if len(rows) < len(items):
        _say(f"{len(items) - len(rows)} of {len(items)} rows hold no outcome of {slm}: left out")
    return _Asked(out or Path(default_folder(slm)), slm, rows)


def _ask(
    items: Sequence[Item],
    methods: Sequence[str],
    signals: frozenset[Signal],
    settings: Settings,
    out: Path | None,
    *,
    fresh: bool,
    seen: list[Progress],
) -> _Asked:
    """Ask what the record log does not hold yet, and score all."""
    from calibration.evaluated_rows import rows_of_records  # noqa: PLC0415
    from router.cli.collecting import ask  # noqa: PLC0415

    def folder(model_path: str) -> Path:
        return out or Path(default_folder(model_name(model_path)))

    answers = asyncio.run(ask(items, signals, settings, folder, fresh=fresh, seen=seen))
    if answers.too_long:
        _say(f"{len(answers.too_long)} questions do not fit the context and are left out:")
        _list(answers.too_long)
    rows = rows_of_records(answers.records, items, _registered(methods))
    return _Asked(answers.folder, model_name(answers.model_path), rows, answers.n_layer)


def model_name(model_path: str) -> str:
    """Call a model by its file: ``SmolLM2-135M-Instruct-Q4_1``."""
    return Path(model_path).name.removesuffix(".gguf")


def _evaluate(asked: _Asked, methods: Sequence[str], *, upstream: str, seed: int) -> Evaluation:
    from calibration.evaluation import evaluate_records  # noqa: PLC0415
    from calibration.trainers import TRAINED, trainers  # noqa: PLC0415
    from uq import get_estimator  # noqa: PLC0415
    from uq.estimator import extra_cost  # noqa: PLC0415
    from uq.signals import SIGNAL_COST  # noqa: PLC0415

    costs = {name: extra_cost(get_estimator(name).needs) for name in _registered(methods)}
    costs |= dict.fromkeys(TRAINED, SIGNAL_COST["hidden"])
    costs["stack"] = extra_cost(_signals(methods))
    left_out, in_domain = trainers(methods, n_layer=asked.n_layer, seed=seed)
    traced = any(row.record is not None for row in asked.rows)
    return evaluate_records(
        asked.rows,
        upstream=upstream,
        trained=left_out if traced else None,
        in_domain=in_domain if traced else None,
        costs=costs,
        seed=seed,
    )


def _check_carried(methods: Sequence[str]) -> None:
    from calibration.trainers import IN_DOMAIN  # noqa: PLC0415

    for name in set(methods) & set(IN_DOMAIN):
        raise click.BadParameter(
            f"{name} is fitted on a set's own answers, which --leave-one-out does without",
            param_hint="--methods",
        )


def _carry_over(
    asked: _Asked, methods: Sequence[str], *, share: float | None, upstream: str, seed: int
) -> LeaveOneOut:
    """Leave each set out; repairs, and what is trained, are fitted on the hold-out."""
    from calibration.datasets import builtin  # noqa: PLC0415
    from calibration.evaluated_rows import RECORDED  # noqa: PLC0415
    from calibration.holdout import SHARE  # noqa: PLC0415
    from calibration.leave_one_out import Repair, leave_one_out, out_of_fold  # noqa: PLC0415
    from calibration.trainers import among_neighbours, trainers  # noqa: PLC0415

    traced = any(row.record is not None for row in asked.rows)
    names = _registered(methods) if traced else [RECORDED]
    trained, _ = trainers(methods, n_layer=asked.n_layer, seed=seed)
    repairs: dict[str, Repair] = {}
    if traced:
        repairs = {
            f"{name}, among neighbours": among_neighbours(name, asked.n_layer) for name in names
        }
    repairs |= {name: out_of_fold(fit, seed=seed) for name, fit in trained.items()}
    return leave_one_out(
        [row for row in asked.rows if row.dataset != builtin.DATASET],
        names,
        builtin=[row for row in asked.rows if row.dataset == builtin.DATASET],
        repairs=repairs,
        control=names[0],
        share=SHARE if share is None else share,
        upstream=upstream,
        seed=seed,
    )


def _write(file: Path, results: dict[str, Any]) -> None:
    from calibration.errors import DataError  # noqa: PLC0415

    partial = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(results, allow_nan=False, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise DataError(f"can't write to {file.parent}: {error.strerror}") from error


def _write_report(asked: _Asked, evaluation: Evaluation) -> None:
    from calibration.errors import DataError  # noqa: PLC0415
    from calibration.evaluation_report import write_evaluation_report  # noqa: PLC0415

    try:
        write_evaluation_report(asked.folder / REPORT, evaluation, model=asked.model)
    except OSError as error:
        raise DataError(f"can't write to {asked.folder}: {error.strerror}") from error


def default_folder(model: str) -> str:
    """Name the folder for a model's evaluation: ``evaluation-smollm2-135m-instruct-q4_1``."""
    return "evaluation-" + re.sub(r"[^a-z0-9_]+", "-", model.lower()).strip("-")


def _list(entries: Sequence[str]) -> None:
    for entry in entries[:_NAMED]:
        _say(f"  {entry}")
    if len(entries) > _NAMED:
        _say(f"  ... and {len(entries) - _NAMED} more")


def _say(message: str) -> None:
    click.echo(message, err=True)
