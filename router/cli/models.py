"""`router models`: what is on this machine, and fetching more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import click

from router.cli.options import settings_options
from router.config import Settings


@click.group(short_help="List and fetch models.")
def models() -> None:
    """List and fetch models."""


@models.command("list")
@settings_options("model")
def list_models(settings: Settings) -> None:
    """Show the configured model, and what else could be: packaged and already fetched files."""
    from router.cli.banner import file_size  # noqa: PLC0415 - see below
    from router.errors import ModelError  # noqa: PLC0415
    from router.models import resolve_model  # noqa: PLC0415 - together quick, but not for --help

    others = dict([*packaged(), *fetched(None)])
    try:
        # A model that is not fetched yet stays so: to list is not to download.
        path = others.get(settings.model)
        if path is None and settings.model.startswith("hf:"):
            raise ModelError(f"{settings.model} is not fetched yet: router models fetch SPEC")
        path = path or resolve_model(settings.model)
        click.echo(f"* {settings.model}  {file_size(path)}  {path}")
    except ModelError as error:
        click.echo(f"* {settings.model}  {error}")
    others.pop(settings.model, None)
    for spec, file in others.items():
        click.echo(f"  {spec}  {file_size(file)}  {file}")


@models.command()
@click.argument("spec")
def fetch(spec: str) -> None:
    """Make the file of SPEC present (a download, for hf:OWNER/NAME/FILE.gguf) and show its hash.

    The hash is what calibrations are bound to.
    """
    from router.cli.banner import file_size  # noqa: PLC0415
    from router.cli.progress import fetch_model  # noqa: PLC0415

    path = fetch_model(spec)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    click.echo(f"path    {path}")
    click.echo(f"size    {file_size(path)}")
    click.echo(f"sha256  {digest}")


def packaged() -> Iterator[tuple[str, Path]]:
    """The ``pkg:`` specs that installed packages offer, and their files."""
    for distribution in distributions():
        for file in distribution.files or ():
            if file.suffix.lower() == ".gguf" and len(file.parts) > 1:
                yield f"pkg:{file.parts[0]}", Path(str(file.locate()))


def fetched(cache_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """The ``hf:`` specs of GGUF files in the Hugging Face cache (default: the usual one)."""
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - slow to import
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        for revision in repository.revisions:
            for file in sorted(revision.files, key=lambda file: file.file_name):
                if repository.repo_type == "model" and file.file_name.lower().endswith(".gguf"):
                    name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                    yield f"hf:{repository.repo_id}/{name}", file.file_path
