"""`router calibrate`: the model over labelled questions, and the decision rule made from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import LARGE_MODEL, MANY_QUESTIONS, settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.items import Item, Question
    from router.cli.labelling import Labelled
    from router.collect import Progress
    from uq.signals import Signal

HOLDOUT = "holdout"
REPORT = "report.html"
EXIT_INTERRUPTED = 130

_NAMED = 5
"""How many of the questions left out are named."""


@click.command(short_help="Measure the model and choose when to trust it.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=(HOLDOUT,),
    metavar="holdout|FILE",
    help="The built-in hold-out, or a JSON Lines file; may be repeated.  [default: holdout]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Ask a sample of N items.")
@click.option("--seed", type=int, default=0, help="Of hold-out, sample, split.  [default: 0]")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("escalation=0.3",),
    metavar="KIND=X",
    help="What the threshold is chosen for; repeated, all at once: escalation=R (share sent to the "
    "large model), risk=R (errors among what is kept), loss=R (right answers of the large model "
    "lost), accuracy=R (of all answers), cost=USD/day or USD/1k, savings=max, threshold=T.  "
    "[default: escalation=0.3]",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    help="Of the certificate of a risk or a loss.  [default: 0.95]",
)
@click.option(
    "--labels",
    type=click.Choice(("gold", "llm")),
    default="gold",
    help="What is right: the answers in the files, or what agrees with the upstream's.  "
    "[default: gold]",
)
@click.option(
    "--judge", is_flag=True, help="With --labels llm: let the upstream judge what no rule can."
)
@click.option(
    "--llm",
    default="",
    metavar="NAME|upstream",
    help="Whose outcomes loss and accuracy are about: a model recorded in the files, or the "
    "upstream, which is asked.  [default: the best recorded one]",
)
@click.option(
    "--queries-per-day",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Expected traffic, for cost=USD/day.",
)
@click.option(
    "--usd-per-escalation",
    type=click.FloatRange(0),
    metavar="USD",
    help="What an escalated query costs.  [default: by the upstream's prices and these questions]",
)
@click.option(
    "--method",
    default="auto",
    metavar="auto|NAME",
    help="The uncertainty score to decide by.  [default: auto, the best one]",
)
@click.option(
    "--signals",
    default="hidden",
    metavar="NAME,...",
    help="What to gather besides each answer: hidden (states), p_true, options, verbal_2s, "
    "verbal_1s, samples; none; or all.  [default: hidden, which all but costs nothing]",
)
@click.option(
    "--calibrator",
    default="auto",
    metavar="auto|NAME",
    help="How the score becomes P(correct).  [default: auto]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the calibration goes.  [default: ./calibration-MODEL]",
)
@click.option("--skip-bad", is_flag=True, help="Leave bad rows of data files out, and count them.")
@click.option("--fresh", is_flag=True, help="Ask everything again, forgetting earlier answers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@settings_options(*MANY_QUESTIONS, *LARGE_MODEL, "upstream_price_in", "upstream_price_out")
def calibrate(
    *,
    datasets: tuple[str, ...],
    limit: int | None,
    seed: int,
    targets: tuple[str, ...],
    confidence: float,
    labels: str,
    judge: bool,
    llm: str,
    queries_per_day: float | None,
    usd_per_escalation: float | None,
    method: str,
    signals: str,
    calibrator: str,
    out: Path | None,
    skip_bad: bool,
    fresh: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Ask the model labelled questions, and learn from its answers when to trust it.

    The answers are kept in FOLDER as they come: after an interruption the same command goes on
    where it stopped, and another --target or --method asks nothing again.
    """
    # Imported here, so that `calibrate --help` is quick.
    from calibration.targets import parse_targets  # noqa: PLC0415
    from router.cli.labelling import (  # noqa: PLC0415
        Wanted,
        ask_and_label,
        check_cost,
        cost_model,
    )

    goals = parse_targets(targets)
    _check_certainty(confidence, labels=labels, judge=judge, llm=llm)
    check_cost(goals, settings, queries_per_day, usd_per_escalation)
    gathered = _parse_signals(signals)
    _check_method(method, gathered)
    _check_calibrator(calibrator)
    questions = questions_of(
        datasets, limit=limit, seed=seed, skip_bad=skip_bad, answered=labels == "gold"
    )
    wanted = Wanted(gathered, labels == "llm", judge, llm, {goal.kind for goal in goals})
    seen: list[Progress] = []
    with going_on_later(seen):
        labelled = asyncio.run(
            ask_and_label(
                questions.questions,
                wanted,
                settings,
                lambda model: out or Path(default_folder(model)),
                fresh=fresh,
                seen=seen,
            )
        )
        result = _fit(
            labelled,
            questions,
            method=method,
            calibrator=calibrator,
            seed=seed,
            target=goals,
            confidence=confidence,
            cost=cost_model(goals, labelled, settings, queries_per_day, usd_per_escalation),
        )
    if as_json:
        click.echo(json.dumps(result))
    else:
        from router.cli.calibrate_summary import summary  # noqa: PLC0415

        folder = labelled.answers.folder
        click.echo(summary(result))
        click.echo(f"\n{folder / REPORT} shows the curves. Use it with\n")
        click.echo(f"  {_serve_command(folder, settings)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions: items where they have answers, else without.

    `description` tells how they were chosen, `population` what they are a sample of.
    """

    questions: Sequence[Item] | Sequence[Question]
    description: Mapping[str, Any]
    population: str

    @property
    def items(self) -> list[Item]:
        """Those with answers."""
        from calibration.items import Item  # noqa: PLC0415

        return [question for question in self.questions if isinstance(question, Item)]


@contextlib.contextmanager
def going_on_later(seen: Sequence[Progress]) -> Iterator[None]:
    """Tell who interrupts how far it came, the last of `seen`, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        done = f" after {seen[-1].done} of {seen[-1].total} questions" if seen else ""
        say(f"interrupted{done}; the answers are kept, the same command goes on from there")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def _check_certainty(confidence: float, *, labels: str, judge: bool, llm: str) -> None:
    """Refuse a confidence that is none, and flags that the kind of labels leaves no room for."""
    if math.isnan(confidence):
        raise click.BadParameter("it must be between 0 and 1", param_hint="--confidence")
    if labels == "llm" and llm:
        raise click.BadParameter(
            "with --labels llm the upstream's answers are the right ones; leave it out",
            param_hint="--llm",
        )
    if judge and labels != "llm":
        raise click.BadParameter(
            "the upstream judges where labels are its own; add --labels llm", param_hint="--judge"
        )


def _parse_signals(names: str) -> frozenset[Signal]:
    from uq.signals import SIGNALS  # noqa: PLC0415

    if names == "all":
        return frozenset(SIGNALS)
    wanted = {name.strip() for name in names.split(",")} - {"none", ""}
    unknown = sorted(wanted.difference(SIGNALS))
    if unknown:
        raise click.BadParameter(
            f"there is no signal {unknown[0]!r}; there are {', '.join(SIGNALS)}, none and all",
            param_hint="--signals",
        )
    return frozenset(signal for signal in SIGNALS if signal in wanted)


def _check_method(method: str, signals: frozenset[Signal]) -> None:
    """Refuse a method that is unknown, or reads what is not gathered."""
    from calibration.learned import CHEAP_STACK, STACK  # noqa: PLC0415
    from calibration.trained import STACKED_PROBES  # noqa: PLC0415
    from uq import estimator_names, get_estimator  # noqa: PLC0415

    learned = (*STACKED_PROBES, CHEAP_STACK, STACK)
    if method not in ("auto", *estimator_names(), *learned):
        raise click.BadParameter(
            f"there is no score {method!r}; there are {', '.join((*estimator_names(), *learned))}",
            param_hint="--method",
        )
    needs: frozenset[Signal] = frozenset()
    if method in STACKED_PROBES:
        needs = frozenset({"hidden"})
    elif method in estimator_names():
        needs = get_estimator(method).needs
    if not needs <= signals:
        lacking = ", ".join(sorted(needs - signals))
        raise click.BadParameter(
            f"{method} reads {lacking}; add it to --signals", param_hint="--method"
        )


def _check_calibrator(name: str) -> None:
    from calibration.calibrators import CALIBRATORS  # noqa: PLC0415

    if name not in ("auto", *CALIBRATORS):
        raise click.BadParameter(
            f"there is no calibrator {name!r}; there are auto, {', '.join(CALIBRATORS)}",
            param_hint="--calibrator",
        )


def questions_of(
    datasets: Sequence[str],
    *,
    limit: int | None,
    seed: int,
    skip_bad: bool = False,
    answered: bool = True,
) -> Asked:
    """Return a spread sample of the questions in `datasets`, and what to note of them."""
    from calibration.datasets import builtin, read_items, read_questions  # noqa: PLC0415
    from calibration.datasets.sampling import spread  # noqa: PLC0415

    files = [name for name in datasets if name != HOLDOUT]
    items: list[Any] = list(builtin.generate(seed)) if HOLDOUT in datasets else []
    if items and not answered:
        raise click.BadParameter(
            "the built-in questions have answers; name a file of your own questions with --dataset",
            param_hint="--labels",
        )
    skipped: Sequence[str] = ()
    repeated = 0
    if files and answered:
        read = read_items(files, skip_bad=skip_bad)
        items += read.items
        skipped = read.skipped
    elif files:
        unanswered = read_questions(files, skip_bad=skip_bad)
        items += unanswered.questions
        skipped, repeated = unanswered.skipped, unanswered.repeated
    if skipped:
        say(f"{len(skipped)} bad rows are left out:")
        _list(skipped)
    order = spread(items, seed)[:limit]
    names = [Path(name).name for name in dict.fromkeys(datasets)]
    description = {
        "datasets": names,
        "available": len(items),
        "asked": len(order),
        "seed": seed,
        "skipped_rows": len(skipped),
    }
    if repeated:
        description["repeated"] = repeated
    of = ["the built-in hold-out" if name == HOLDOUT else name for name in names]
    different = "different " if repeated else ""
    return Asked(order, description, f"the {len(items):,} {different}questions of {', '.join(of)}")


def _fit(
    labelled: Labelled,
    questions: Asked,
    **choices: Any,
) -> dict[str, Any]:
    """Fit, save calibration and report, and return the figures."""
    from calibration.errors import FitError, InfeasibleTarget  # noqa: PLC0415
    from calibration.fit import fit_calibration  # noqa: PLC0415
    from calibration.report import write_report  # noqa: PLC0415
    from router.cli.collecting import RECORDS  # noqa: PLC0415

    answers = labelled.answers
    if answers.too_long:
        say(f"{len(answers.too_long)} questions do not fit the context and are left out:")
        _list(answers.too_long)
    try:
        calibration, report = fit_calibration(
            answers.records,
            binding=answers.binding,
            n_layer=answers.n_layer,
            truth=labelled.truth,
            population=questions.population + labelled.part,
            holdout={
                **questions.description,
                "too_long": len(answers.too_long),
                **labelled.description,
            },
            **choices,
        )
    except (FitError, InfeasibleTarget):
        say(f"the answers are kept in {answers.folder / RECORDS}; trying again asks none of them")
        raise
    claim = labelled.claim(calibration)
    calibration.save(answers.folder)
    write_report(answers.folder / REPORT, calibration, report, claim=claim)
    return {**report.to_json(), "claim": claim, "artifact": str(answers.folder)}


def default_folder(model_path: str) -> str:
    """Name the folder for a model's calibration: ``calibration-smollm2-135m-instruct-q4_1``."""
    name = re.sub(r"[^a-z0-9_]+", "-", Path(model_path).stem.lower()).strip("-")
    return f"calibration-{name}"


def _serve_command(folder: Path, settings: Settings) -> str:
    words = ["router", "serve", "--calibration", str(folder)]
    if settings.model != Settings.model_fields["model"].default:
        words += ["--model", settings.model]
    return shlex.join(words)


def _list(entries: Sequence[str]) -> None:
    for entry in entries[:_NAMED]:
        say(f"  {entry}")
    if len(entries) > _NAMED:
        say(f"  ... and {len(entries) - _NAMED} more")


def say(message: str) -> None:
    """Tell people, without disturbing what is printed as the result."""
    click.echo(message, err=True)
