"""`router recalibrate`: the hold-out once more, with what live traffic has taught since."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import LARGE_MODEL, MANY_QUESTIONS, settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.artifact import Calibration
    from calibration.feedback import Feedback, LabelledAnswer
    from calibration.fit_results import FitReport
    from calibration.records import Record
    from router.cli.calibrate import Asked
    from router.collect import Progress
    from router.ledger import Decided, Label
    from uq.signals import Signal

SECONDS_A_DAY = 86_400.0

SAME_SCORES = "recalibrated_from"
"""Where a calibration notes the ids of those it succeeded."""

_DRIFT = 0.05
"""Scores may come out so far from what they were, on average, in standard deviations."""


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
@settings_options("calibration", "ledger", "redis_url", *MANY_QUESTIONS, *LARGE_MODEL)
def recalibrate(
    *,
    datasets: tuple[str, ...],
    half_life_days: float,
    out: Path | None,
    as_json: bool,
    settings: Settings,
) -> None:
    """Fit P(correct) anew to the hold-out and to labelled live answers, for the same targets.

    Labels come from POST /v1/feedback and from audits; each weighs by how likely an answer like it
    was to be labelled, and by its age. Score, probes and targets stay. The answers to the hold-out
    are taken from the folder in use where they are there, else the model is asked. The calibration
    before stays in FOLDER/previous: `router calibration rollback` brings it back.
    """
    from calibration.artifact import FILE_NAME  # noqa: PLC0415
    from calibration.feedback import Feedback  # noqa: PLC0415
    from calibration.report import write_report  # noqa: PLC0415
    from router.cli.calibrate import REPORT, default_folder, going_on_later  # noqa: PLC0415
    from router.cli.calibration import find_calibration  # noqa: PLC0415
    from router.models import resolve_model  # noqa: PLC0415

    old = find_calibration(settings)
    questions = _same_questions(old, datasets)
    labelled = asyncio.run(_labelled(settings))
    usable = usable_answers(old, labelled, now=time.time())
    feedback = Feedback.of(usable, half_life_days=half_life_days) if usable else None
    live = _Live(feedback, len(labelled))
    if not live.n_used and not old.holdout.get("feedback"):
        if as_json:
            click.echo(json.dumps(_result(old, old, live, None)))
        else:
            click.echo(f"{live} The calibration stays as it is.")
        return
    in_use = Path(settings.calibration) if settings.calibration else None
    folder = out or in_use or Path(default_folder(str(resolve_model(settings.model))))
    seen: list[Progress] = []
    with going_on_later(seen):
        new, report = _fit_again(old, questions, live, settings, in_use or folder, seen=seen)
    if not (folder / FILE_NAME).exists():
        old.save(folder)  # so that there is a way back from here, too
    new.save(folder)
    write_report(folder / REPORT, new, report)
    result = _result(old, new, live, folder)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(str(live))
    if live.feedback is not None:
        click.echo(_what_would_be_kept(new, *result["live"].values()))
    click.echo("\n".join(result["differences"] or ["nothing has changed"]))
    click.echo(f"\n{folder / REPORT} shows the curves.")
    click.echo("A gateway on this folder takes it over at SIGHUP or POST /v1/calibration/reload.")


@dataclass(frozen=True, slots=True)
class _Live:
    """Labelled live answers: those that can teach, of `n`."""

    feedback: Feedback | None
    n: int

    @property
    def n_used(self) -> int:
        return 0 if self.feedback is None else len(self.feedback)

    @property
    def n_unused(self) -> int:
        return self.n - self.n_used

    def __str__(self) -> str:
        if not self.n:
            return "No live answer has a label yet."
        left = f"; {self.n_unused} of another calibration or sampler are left out"
        return f"{self.n_used} labelled live answers to learn from{left if self.n_unused else ''}."


def _result(old: Calibration, new: Calibration, live: _Live, folder: Path | None) -> dict[str, Any]:
    from calibration.difference import difference  # noqa: PLC0415

    return {
        "id": new.id,
        "previous": old.id,
        "differences": difference(old, new),
        "feedback": live.n_used,
        "feedback_unused": live.n_unused,
        "live": _kept_live(new, live.feedback),
        "artifact": None if folder is None else str(folder),
    }


def _kept_live(new: Calibration, feedback: Feedback | None) -> dict[str, Any] | None:
    """How many labelled live answers `new` would keep, and the share of wrong ones, weighted."""
    if feedback is None:
        return None
    unknown = dict.fromkeys((new.method, new.first_look), math.nan)
    kept = [
        new.p_correct({**unknown, **{name: float(u[i]) for name, u in feedback.scores.items()}})
        >= new.threshold
        for i in range(len(feedback))
    ]
    n, weight = sum(kept), float(feedback.weight[kept].sum())
    wrong = float(feedback.weight[kept][~feedback.correct[kept]].sum()) / weight if n else None
    return {"kept": n, "wrong": wrong}


def _what_would_be_kept(new: Calibration, kept: int, wrong: float | None) -> str:
    """The live error beside the certificate, which is about the questions of the hold-out alone."""
    if wrong is None:
        return "None of them would be kept."
    said = f"{kept} of them would be kept; by weight, {wrong:.1%} of those are wrong"
    certificate = new.operating_point.certificate
    bounds = [it.bound for it in certificate.claims if it.kind == "risk"] if certificate else []
    if bounds:
        said += f", where at most {bounds[0]:.1%} is certified for {new.population}"
    return f"{said}."


def _same_questions(old: Calibration, datasets: Sequence[str]) -> Asked:
    """Return the questions that `old` was made from.

    Raises
    ------
    ConfigError
        It rests on labels by an LLM, or was made from other questions than these.
    """
    from router.cli.calibrate import questions_of  # noqa: PLC0415
    from router.errors import ConfigError  # noqa: PLC0415

    if old.labels != "gold":
        raise ConfigError(
            "this calibration rests on labels by an LLM; make it anew with `router calibrate "
            "--labels llm` on recent traffic"
        )
    made_from = old.holdout
    questions = questions_of(
        datasets,
        limit=made_from.get("asked"),
        seed=made_from.get("seed", old.seed),
        skip_bad=bool(made_from.get("skipped_rows")),
    )
    for name in ("datasets", "available", "asked"):
        was, now = made_from.get(name), questions.description[name]
        if was is not None and was != now:
            was, now = (", ".join(it) if isinstance(it, list) else it for it in (was, now))
            raise ConfigError(
                f"the calibration in use was made from other questions ({name} was {was}, is "
                f"{now}); name its files with --dataset, as they were"
            )
    return questions


def _fit_again(
    old: Calibration,
    questions: Asked,
    live: _Live,
    settings: Settings,
    folder: Path,
    *,
    seen: list[Progress],
) -> tuple[Calibration, FitReport]:
    """Fit as `old` was, with live answers besides; answers to the questions are in `folder`."""
    from calibration.errors import FitError, InfeasibleTarget  # noqa: PLC0415
    from calibration.fit import fit_calibration  # noqa: PLC0415
    from router.cli.calibrate import say  # noqa: PLC0415
    from router.cli.labelling import Wanted, ask_and_label  # noqa: PLC0415

    gated: frozenset[Signal] = frozenset({"hidden"} if old.gate else ())
    kinds = {target.kind for target in old.targets}
    wanted = Wanted(
        old.signals | old.closer_signals | gated,
        by_llm=False,
        judge=False,
        llm=_outcomes(old, settings),
        targets=kinds,
    )
    labelled = asyncio.run(
        ask_and_label(questions.items, wanted, settings, lambda _: folder, fresh=False, seen=seen)
    )
    answers = labelled.answers
    try:
        new, report = fit_calibration(
            answers.records,
            binding=answers.binding,
            target=old.targets,
            method=old.method,
            calibrator=_kind(old),
            confidence=old.confidence,
            cost=old.cost,
            truth=labelled.truth,
            population=questions.population + labelled.part,
            feedback=live.feedback,
            n_layer=answers.n_layer,
            seed=old.seed,
            holdout={
                **questions.description,
                "too_long": len(answers.too_long),
                **labelled.description,
                "feedback": live.n_used,
                "feedback_unused": live.n_unused,
                SAME_SCORES: sorted({old.id, *_same_scores(old)}),
            },
        )
        if live.n_used:
            _check_scores(old, new, answers.records)
    except (FitError, InfeasibleTarget):
        say("the calibration in use stays as it is")
        raise
    return new, report


def _outcomes(old: Calibration, settings: Settings) -> str | Mapping[str, str]:
    """Whose outcomes stand for the large model's, as `old` was made: see `Wanted.llm`."""
    from router.cli.labelling import ASKED, NEED_OUTCOMES, RECORDED, UPSTREAM  # noqa: PLC0415

    needed = any(target.kind in NEED_OUTCOMES for target in old.targets)
    if ASKED in old.holdout and (needed or settings.upstream_entries()):
        return UPSTREAM
    recorded: str | Mapping[str, str] = old.holdout.get(RECORDED, "")
    return recorded


def _kind(calibration: Calibration) -> str:
    """The kind of calibrator that it has, or ``"auto"`` where it has two."""
    kind = calibration.calibrator.kind
    band = calibration.band
    return kind if band is None or band.calibrator.kind == kind else "auto"


def _check_scores(old: Calibration, new: Calibration, records: Sequence[Record]) -> None:
    """Check that live answers, scored by the `old` probes, are what the `new` ones would score.

    Raises
    ------
    FitError
        When the probes came out differently.
    """
    import numpy as np  # noqa: PLC0415

    from calibration.errors import FitError  # noqa: PLC0415

    for name in sorted(_learned(old)):
        was, now = (
            np.array([calibration.scores(record.trace)[name] for record in records])
            for calibration in (old, new)
        )
        known = np.isfinite(was) & np.isfinite(now)
        if np.abs(was - now)[known].mean() > _DRIFT * was[known].std():
            raise FitError(
                f"{name}, trained again, scores these answers differently from the calibration in "
                "use: the answers or the software have changed since, and live answers were scored "
                "by the old one. Make a calibration anew with `router calibrate`"
            )


def usable_answers(
    calibration: Calibration, labelled: Sequence[tuple[Decided, Label]], *, now: float
) -> list[LabelledAnswer]:
    """Return the live answers that can teach `calibration`.

    Those that were decoded as it was calibrated and have the score it decides by, of the same
    probes: a learned score of another calibration is another score.
    """
    from calibration.feedback import LabelledAnswer  # noqa: PLC0415

    same = {calibration.id, *_same_scores(calibration)}
    learned = _learned(calibration)
    return [
        LabelledAnswer(
            decided.scores, label.correct, (now - decided.at) / SECONDS_A_DAY, label.inclusion
        )
        for decided, label in labelled
        if decided.calibrated_sampler
        and math.isfinite(decided.scores.get(calibration.first_look, math.nan))
        and (not learned or decided.calibration in same)
    ]


def _learned(calibration: Calibration) -> frozenset[str]:
    """Those of the scores it decides by that are of its own probes and stacks."""
    from uq import estimator_names  # noqa: PLC0415

    return frozenset({calibration.method, calibration.first_look}.difference(estimator_names()))


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
