"""`router replay`: what another threshold would have done with past queries."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from router.cli.log import Age
from router.cli.options import settings_options
from router.config import Settings

if TYPE_CHECKING:
    from router.replay import Outcome, Replay

_MOST = 1_000_000
"""More than any ledger keeps."""


@click.command(short_help="Tell what another threshold would have done.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    required=True,
    metavar="T",
    help="Keep the local answer where P(correct) is at least T, in [0, 1].",
)
@click.option("--since", type=Age(), metavar="AGE", help="Only decisions of the last 24h, 7d, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@settings_options("ledger", "redis_url")
def replay(*, threshold: float, since: float | None, as_json: bool, settings: Settings) -> None:
    """Decide past queries again, with another threshold, and compare.

    Nothing is asked again: P(correct) was recorded. What another answer would have cost is reckoned
    by the mean price of those that were escalated; how many of the kept ones are wrong is estimated
    from audits and from the upstream's answers.
    """
    from router.cli.log import latest  # noqa: PLC0415
    from router.replay import replay as decide_again  # noqa: PLC0415

    told = decide_again(latest(settings, _MOST, since), threshold)
    if as_json:
        click.echo(json.dumps(asdict(told), allow_nan=False))
        return
    if told.n == told.n_fixed:
        click.echo(
            f"None of the {told.n} decisions in the ledger was made by a threshold."
            if told.n
            else "The ledger holds no decisions yet."
        )
        return
    _print(told)


def _print(told: Replay) -> None:
    n = told.n - told.n_fixed
    click.echo(f"{n} decisions by score; {told.n_fixed} others, which no threshold changes\n")
    click.echo(f"{'':22}{'as it was':>14}{f'at {told.threshold:g}':>14}")
    for name, before, after in zip(
        ("kept on the device", "escalated", "share escalated", "USD", "wrong among kept"),
        _cells(told.before),
        _cells(told.after),
        strict=True,
    ):
        click.echo(f"{name:22}{before:>14}{after:>14}")
    if told.usd_per_escalation is None and told.after.escalated > told.before.escalated:
        click.echo("\nNo escalated answer had a price, so what more of them cost is not known.")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    wrong = f"{outcome.wrong:.1%}" if outcome.wrong is not None else "unknown"
    return (
        str(outcome.kept),
        str(outcome.escalated),
        "-" if outcome.ratio is None else f"{outcome.ratio:.1%}",
        f"{outcome.usd:.4f}",
        f"{wrong} (n={outcome.n_labelled})",
    )
