"""`router holdout`: a look at the built-in hold-out set, and hold-outs built from other sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.options import MANY_QUESTIONS, settings_options
from router.config import Settings

if TYPE_CHECKING:
    from calibration.holdout import Binning
    from calibration.items import Item

_SEED = click.option("--seed", type=int, default=0, help="Of the questions.  [default: 0]")


@click.group(short_help="Look at the built-in hold-out set, or build one.")
def holdout() -> None:
    """Look at the labelled questions that `calibrate` asks by default, or build others."""


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


@holdout.command("build")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="FILE",
    help="JSON Lines of labelled questions, the pool; may be repeated, or more may follow it.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.jsonl[.gz]",
    help="File to write; what it is made of goes to FILE.provenance.json.",
)
@click.option(
    "--method", default="perplexity", metavar="NAME", help="The estimator.  [default: perplexity]"
)
@click.option(
    "--bins", type=click.IntRange(min=1), default=30, help="Of uncertainty.  [default: 30]"
)
@click.option(
    "--binning",
    type=click.Choice(["width", "mass"]),
    default="width",
    help="Bins of equal width, or of equally many answers.  [default: width]",
)
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=0.1,
    help="What is taken of each bin, one at least.  [default: 0.1]",
)
@click.option("--seed", type=int, default=0, help="Of the choice.  [default: 0]")
@click.option(
    "--records",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the model's answers are kept.  [default: ./evaluation-MODEL, as `evaluate`]",
)
@click.option("--skip-bad", is_flag=True, help="Leave bad rows of data files out, and count them.")
@click.option("--fresh", is_flag=True, help="Ask everything again, forgetting earlier answers.")
@settings_options(*MANY_QUESTIONS)
def build(
    *,
    files: tuple[str, ...],
    sources: tuple[str, ...],
    out: Path,
    method: str,
    bins: int,
    binning: Binning,
    share: float,
    seed: int,
    records: Path | None,
    skip_bad: bool,
    fresh: bool,
    settings: Settings,
) -> None:
    """Choose questions on which the model is as unsure as on all of FILE...

    The model answers the pool; its uncertainty is put into bins; of each a share is taken, in which
    all data sets count alike. An interrupted run goes on where it stopped.
    """
    from router.cli.holdout_build import Wanted, build_from  # noqa: PLC0415 - not for --help

    if not sources and not files:
        raise click.UsageError("name at least one file of questions: --from FILE")
    wanted = Wanted(method=method, n_bins=bins, binning=binning, share=share, seed=seed)
    build_from(
        (*sources, *files),
        wanted,
        out,
        settings,
        folder=records,
        skip_bad=skip_bad,
        fresh=fresh,
    )


def describe(item: Item) -> str:
    """Write one question for people: where it belongs, what is asked, what is accepted."""
    head = f"{item.id}  ({', '.join(filter(None, [item.domain, item.family, item.grader]))})"
    question = "\n".join(f"  {line}".rstrip() for line in item.prompt().splitlines())
    return f"{head}\n{question}\n  -> {' | '.join(item.answers)}"
