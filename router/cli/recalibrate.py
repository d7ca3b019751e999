"""`router recalibrate`: the hold-out once more, with what live traffic has taught since."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.options import settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.artifact import Calibration
    from calibration.feedback import LabelledAnswer
    from router.collect import Progress
    from router.ledger import Decided, Label

SECONDS_A_DAY = 86_400.0

SAME_SCORES = "recalibrated_from"
"""Where a calibration notes the ids of those it succeeded."""


@click.command(short_help="Learn from live feedback beside the hold-out.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=("holdout",),
    metavar="holdout|FILE",
    help="The questions that the calibration in use was made from; may be repeated.  "
    "[default: holdout]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="As it was made with.")
@click.option(
    "--half-life",
    "half_life_days",
    type=click.FloatRange(0, min_open=True),
    default=14.0,
    metavar="DAYS",
    help="After so many days a label counts half.  [default: 14]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the new calibration goes.  [default: the folder in use, or ./calibration-MODEL "
    "in place of the shipped one]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@settings_options(
    "model", "calibration", "ledger", "redis_url", "threads", "n_gpu_layers", "context", "slots"
)
def recalibrate(
    *,
    datasets: tuple[str, ...],
    limit: int | None,
    half_life_days: float,
    out: Path | None,
    as_json: bool,
    settings: Settings,
) -> None:
    """Fit P(correct) anew to the hold-out and to labelled live answers, for the same targets.

    Labels come from POST /v1/feedback and from audits; each weighs by how likely an answer like it
    was to be labelled, and by its age. Score, probes and targets stay. The answers to the hold-out
    are taken from the folder where they are there, else the model is asked. The calibration before
    stays in FOLDER/previous: `router calibration rollback` brings it back.
    """
    from calibration.difference import difference  # noqa: PLC0415
    from calibration.feedback import Feedback  # noqa: PLC0415
    from calibration.fit import fit_calibration  # noqa: PLC0415
    from calibration.report import write_report  # noqa: PLC0415
    from router.cli.calibrate import REPORT, default_folder, questions_of  # noqa: PLC0415
    from router.cli.calibration import find_calibration  # noqa: PLC0415
    from router.cli.collecting import ask  # noqa: PLC0415
    from router.errors import ConfigError  # noqa: PLC0415

    old = find_calibration(settings)
    if old.labels != "gold":
        raise ConfigError(
            "this calibration rests on labels by an LLM; make it anew with `router calibrate "
            "--labels llm` on recent traffic"
        )
    labelled = asyncio.run(_labelled(settings))
    usable = usable_answers(old, labelled, now=time.time())
    feedback = Feedback.of(usable, half_life_days=half_life_days) if usable else None
    questions = questions_of(datasets, limit=limit, seed=old.seed)
    in_use = Path(settings.calibration) if settings.calibration else None
    seen: list[Progress] = []
    answers = asyncio.run(
        ask(
            questions.items,
            old.signals | old.closer_signals | {"hidden"},
            settings,
            lambda model: out or in_use or Path(default_folder(model)),
            fresh=False,
            seen=seen,
        )
    )
    new, report = fit_calibration(
        answers.records,
        binding=answers.binding,
        target=old.targets,
        method=old.method,
        confidence=old.confidence,
        cost=old.cost,
        population=questions.population,
        feedback=feedback,
        n_layer=answers.n_layer,
        seed=old.seed,
        holdout={
            **questions.description,
            "too_long": len(answers.too_long),
            "feedback": len(usable),
            "feedback_unused": len(labelled) - len(usable),
            SAME_SCORES: sorted({old.id, *_same_scores(old)}),
        },
    )
    new.save(answers.folder)
    write_report(answers.folder / REPORT, new, report)
    changes = difference(old, new)
    if as_json:
        found = {"id": new.id, "previous": old.id, "differences": changes}
        click.echo(json.dumps({**found, "feedback": len(usable), "artifact": str(answers.folder)}))
        return
    click.echo(_what_was_used(len(usable), len(labelled)))
    click.echo("\n".join(changes or ["nothing has changed"]))
    click.echo(f"\n{answers.folder / REPORT} shows the curves.")
    click.echo("A running gateway takes it over at SIGHUP or POST /v1/calibration/reload.")


def usable_answers(
    calibration: Calibration, labelled: Sequence[tuple[Decided, Label]], *, now: float
) -> list[LabelledAnswer]:
    """Return the live answers that can teach `calibration`.

    Those that were decoded as it was calibrated and have the score it decides by, of the same
    probes: a learned score of another calibration is another score.
    """
    from calibration.feedback import LabelledAnswer  # noqa: PLC0415
    from uq import estimator_names  # noqa: PLC0415

    learned = calibration.method not in estimator_names()
    return [
        LabelledAnswer(
            decided.scores, label.correct, (now - decided.at) / SECONDS_A_DAY, label.inclusion
        )
        for decided, label in labelled
        if decided.calibrated_sampler
        and calibration.first_look in decided.scores
        and (not learned or decided.calibration in {calibration.id, *_same_scores(calibration)})
    ]


def _same_scores(calibration: Calibration) -> list[str]:
    """Ids of the calibrations before it whose learned scores are its own.

    Recalibrating trains the same probes on the same answers again; only what comes after differs.
    """
    return list(calibration.holdout.get(SAME_SCORES, ()))


async def _labelled(settings: Settings) -> list[tuple[Decided, Label]]:
    from router.errors import ConfigError  # noqa: PLC0415
    from router.ledger import open_ledger  # noqa: PLC0415

    ledger = await open_ledger(settings)
    if ledger is None:
        raise ConfigError(
            "the ledger, which keeps feedback and audits, is off; set `ledger` to a file or redis"
        )
    try:
        return await ledger.labelled()
    finally:
        await ledger.close()


def _what_was_used(n_used: int, n_labelled: int) -> str:
    if not n_labelled:
        return "No live answer has a label yet: this is the hold-out alone."
    left = n_labelled - n_used
    unused = f"; {left} of another calibration or sampler are left out" if left else ""
    return f"{n_used} labelled live answers were learned from{unused}."
