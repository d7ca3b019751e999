"""`router cache`: the kept answers of a running gateway."""

from __future__ import annotations

import os
from typing import Any

import click

from router.cli.options import settings_options
from router.config import Settings

KEY_VARIABLE = "SEEK_STRONGER_KEY"
"""Holds an admin key, where the gateway needs one."""


@click.group(short_help="Forget kept answers.")
def cache() -> None:
    """Forget answers that a running gateway keeps, in its memory or in Redis."""


@cache.command(short_help="Forget them, by key, by calibration, or all.")
@click.option("--tenant", metavar="NAME", help="Those of the API key of this name or id.")
@click.option("--calibration", metavar="ID", help="Those this calibration (sha256:...) decided on.")
@click.option("--all", "everything", is_flag=True, help="Those of everybody.")
@settings_options("host", "port")
def purge(
    *, settings: Settings, tenant: str | None, calibration: str | None, everything: bool
) -> None:
    """Forget kept answers, and print how many they were.

    The gateway at --host and --port is asked. Where it needs API keys, put an operator's (`router
    keys create NAME --admin`) into the variable SEEK_STRONGER_KEY.
    """
    if tenant is None and calibration is None and not everything:
        raise click.UsageError("say which: --tenant, --calibration or --all")
    if tenant is not None and everything:
        raise click.UsageError("--tenant and --all contradict each other")
    params = {"all": "true"} if tenant is None else {"tenant": tenant}
    if calibration is not None:
        params["calibration"] = calibration
    click.echo(f"{_asked(settings, params)['purged']} answers forgotten")


def _asked(settings: Settings, params: dict[str, str]) -> dict[str, Any]:
    """What the gateway says. Raises RouterError when it refuses, or there is none."""
    import httpx  # noqa: PLC0415

    from router.errors import RouterError  # noqa: PLC0415

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    key = os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            reply = client.delete("/v1/cache", params=params, headers=headers)
            said = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        raise RouterError(
            f"no gateway answers at {url}; start it, or say where it is with --host and --port "
            f"({error!r})"
        ) from error
    if reply.status_code != httpx.codes.OK:
        hint = f" Put an admin key into {KEY_VARIABLE}." if reply.status_code in (401, 403) else ""
        raise RouterError(f"{said['error']['message']}{hint}")
    return dict(said)
