"""`router holdout`: a look at the built-in hold-out set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from calibration.items import Item

_SEED = click.option("--seed", type=int, default=0, help="Of the questions.  [default: 0]")


@click.group(short_help="Look at the built-in hold-out set.")
def holdout() -> None:
    """Look at the labelled questions that `calibrate` asks by default."""


@holdout.command("show")
@click.option("--family", metavar="NAME", help="Only this kind of question.")
@click.option(
    "--count", type=click.IntRange(min=1), default=5, help="How many to print.  [default: 5]"
)
@_SEED
def show(family: str | None, count: int, seed: int) -> None:
    """Print some questions with their accepted answers."""
    from calibration.datasets import builtin  # noqa: PLC0415 - not needed for --help
    from calibration.datasets.sampling import spread  # noqa: PLC0415

    names = [known.name for known in builtin.FAMILIES]
    if family is not None and family not in names:
        raise click.BadParameter(
            f"there is no family {family!r}; there are {', '.join(names)}", param_hint="--family"
        )
    items = [item for item in builtin.generate(seed) if family in (None, item.family)]
    click.echo("\n\n".join(describe(item) for item in spread(items, seed)[:count]))
    click.echo(f"\n{min(count, len(items))} of {len(items)} questions", err=True)


@holdout.command("export")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.jsonl[.gz]",
    help="File to write; gzip'd when its name ends in .gz.",
)
@_SEED
def export(out: Path, seed: int) -> None:
    """Write all questions as JSON Lines, as `calibrate --dataset` reads them."""
    from calibration.datasets import builtin, write_items  # noqa: PLC0415 - not needed for --help

    items = builtin.generate(seed)
    write_items(items, out)
    click.echo(f"{len(items)} questions written to {out}", err=True)


def describe(item: Item) -> str:
    """Write one question for people: where it belongs, what is asked, what is accepted."""
    head = f"{item.id}  ({', '.join(filter(None, [item.domain, item.family, item.grader]))})"
    question = "\n".join(f"  {line}".rstrip() for line in item.prompt().splitlines())
    return f"{head}\n{question}\n  -> {' | '.join(item.answers)}"
