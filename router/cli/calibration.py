"""`router calibration`: look at a calibration, or go back to the one before, without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.artifact import Calibration


CERTIFIED = "*"
"""Marks what is certified."""


@click.group(short_help="Look at a calibration, or go back to the one before.")
def calibration() -> None:
    """Look at a calibration, compare it with another, or go back to the one before."""


@calibration.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything, as one JSON object.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the routing curve into FILE (.svg or .png).",
)
@click.option("--dark", is_flag=True, help="Draw for a dark page.")
@settings_options("model", "calibration")
def show(*, as_json: bool, plot: Path | None, dark: bool, settings: Settings) -> None:
    """Print what is kept on the device at which measured error, threshold by threshold."""
    found = find_calibration(settings)
    if plot is not None:
        from calibration.report import write_routing_curve  # noqa: PLC0415
        from calibration.report_parts import DARK, LIGHT  # noqa: PLC0415

        write_routing_curve(plot, found, theme=DARK if dark else LIGHT)
    if as_json:
        click.echo(json.dumps(found.summary(), indent=2, sort_keys=True))
    else:
        click.echo("\n".join(table(found)))


@calibration.command()
@click.argument("new", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("old", metavar="[OLD_FOLDER]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(*, new: Path, old: Path | None, as_json: bool) -> None:
    """Print what the calibration in FOLDER changes against the one before it, or in OLD_FOLDER."""
    from calibration.artifact import Calibration  # noqa: PLC0415
    from calibration.difference import difference, to_json  # noqa: PLC0415
    from calibration.versions import previous  # noqa: PLC0415

    now = Calibration.load(new)
    was = previous(new) if old is None else Calibration.load(old)
    if as_json:
        click.echo(json.dumps(to_json(was, now), indent=2, sort_keys=True))
        return
    click.echo(f"{_named(was)} -> {_named(now)}")
    if was.id == now.id:
        click.echo("they are the same")
    else:
        click.echo("\n".join(difference(was, now) or ["nothing that decides differs"]))


@calibration.command()
@settings_options("calibration")
def rollback(settings: Settings) -> None:
    """Swap the calibration in the folder that is set with the one before; again to undo it."""
    from calibration.errors import ArtifactError  # noqa: PLC0415
    from calibration.versions import PREVIOUS, previous  # noqa: PLC0415
    from calibration.versions import rollback as swap  # noqa: PLC0415

    folder = settings.calibration
    if not folder:
        raise ArtifactError(
            "no calibration folder is set, so the calibration that ships with the model is in use, "
            "and there is none before it; name a folder with --calibration"
        )
    click.echo(f"current is now {_named(swap(folder))}")
    try:
        kept = f"kept is {_named(previous(folder))}; another rollback brings it back"
    except ArtifactError as error:
        kept = f"what was current is kept in {Path(folder) / PREVIOUS}, but can't be used: {error}"
    click.echo(kept)
    click.echo(
        "a running gateway takes the current one over at POST /v1/calibration/reload or SIGHUP"
    )


def _named(calibration: Calibration) -> str:
    return f"{calibration.id[:19]}, made {calibration.created[:10]} from {calibration.n} answers"


def find_calibration(settings: Settings) -> Calibration:
    """Return the calibration in the folder that is set, or the shipped one of the model.

    Raises ArtifactError when there is none.
    """
    from calibration import shipped  # noqa: PLC0415
    from calibration.artifact import Calibration  # noqa: PLC0415
    from calibration.errors import ArtifactError  # noqa: PLC0415
    from router.models import file_sha256, resolve_model  # noqa: PLC0415

    if settings.calibration:
        return Calibration.load(settings.calibration)
    found = shipped.find(file_sha256(resolve_model(settings.model)))
    if found is None:
        raise ArtifactError(
            f"no calibration ships for {settings.model}; make one with `router calibrate "
            f"--model {settings.model}`"
        )
    return found


def table(calibration: Calibration) -> list[str]:
    """The operating points, as lines of a Markdown table with a heading."""
    point, content = calibration.operating_point, calibration.summary()
    lines = [
        f"calibration {calibration.id[:19]}, made {calibration.created[:10]} from "
        f"{calibration.n} answers, {calibration.accuracy:.1%} of them right",
        f"decides by {_method(calibration)}; in use: threshold {point.threshold:.3f} "
        f"({calibration.target})",
        *_looks(calibration),
        *exit_lines(content["gate"], content["early_stop"]),
        *_certainty(calibration),
        f"measured on the {calibration.n_test} answers that nothing was fitted to:",
        "",
        "| target | threshold | kept on the device | wrong among those kept |",
        "| --- | --- | --- | --- |",
    ]
    points = sorted(calibration.operating_points, key=lambda p: p.escalation_ratio)
    for point in points:
        wrong = "none kept" if point.accuracy_kept is None else f"{1 - point.accuracy_kept:.1%}"
        kept = f"{1 - point.escalation_ratio:.1%} ({point.n_kept} of {point.n})"
        mark = "" if point.certificate is None else f" {CERTIFIED}"
        lines.append(f"| {point.target}{mark} | {point.threshold:.3f} | {kept} | {wrong} |")
    if any(point.certificate is not None for point in points):
        lines += [
            "",
            f"{CERTIFIED} certified with {100 * calibration.confidence:g}% confidence, each by "
            "itself, where no gate gives up an answer",
        ]
    if calibration.unreachable:
        lines += ["", "no threshold can be certified for " + ", ".join(calibration.unreachable)]
    return lines


def _certainty(calibration: Calibration) -> list[str]:
    """The certificate in words, and whose labels all of it rests on."""
    certificate = calibration.operating_point.certificate
    if certificate is None:
        said = f"nothing is certified; drawn from {calibration.population or 'unknown questions'}"
    else:
        said = certificate.describe()
    if calibration.labels == "llm":
        name = calibration.labelled_by
        return [said, f"labels by {name}: where it is wrong, so may be an answer that counts right"]
    return [said]


def exit_lines(gate: Mapping[str, Any] | None, early_stop: Mapping[str, Any] | None) -> list[str]:
    """What is given up early, and which good answers that costs: fields of `calibration.exits`."""
    lines = []
    if gate is not None:
        lines.append(
            f"gate: {gate['gated']:.1%} of the answers are not begun; {_lost(gate)} of the right "
            "ones are lost"
        )
    if early_stop is not None:
        lines.append(
            f"early stop: {early_stop['stopped']:.1%} are broken off, which spares "
            f"{early_stop['saved']:.1%} of the tokens; {_lost(early_stop)} of those to keep are "
            "lost"
        )
    return lines


def _lost(limit: Mapping[str, Any]) -> str:
    return f"{limit['lost']:.1%} (set for at most {limit['max_lost']:.1%})"


def _method(calibration: Calibration) -> str:
    band = calibration.band
    if band is None:
        return calibration.method
    return f"{band.method}, and for the {band.share:.1%} it leaves in doubt by {calibration.method}"


def _looks(calibration: Calibration) -> list[str]:
    """Average cost, in units of one greedy answer, and AUROC with and without the closer look."""
    from uq.estimator import extra_cost  # noqa: PLC0415

    band = calibration.band
    if band is None:
        return []
    looks = (
        ("never", extra_cost(calibration.signals), band.auroc_cheap),
        ("in doubt", band.cost, band.auroc),
        ("always", band.cost_everything, band.auroc_everything),
    )
    shown = (
        f"{look} {1.0 + cost:.2f} and " + ("n/a" if auroc is None else f"{auroc:.3f}")
        for look, cost, auroc in looks
    )
    return ["cost per query and AUROC, looking closer: " + ", ".join(shown)]
