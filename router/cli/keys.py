"""`router keys`: who may use the gateway, and what was agreed with them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import settings_options
from router.config import Settings

if TYPE_CHECKING:
    from router.keystore import ApiKey

_SHARE = click.FloatRange(0, 1)
_USD = click.FloatRange(0, min_open=False)
_COUNT = click.IntRange(1)


@click.group(short_help="Create, list and revoke API keys.")
def keys() -> None:
    """Create, list and revoke API keys. A running gateway notices within two seconds."""


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May look at metrics and change what runs, too.")
@click.option("--local-only", is_flag=True, help="Nothing of it leaves this machine.")
@click.option("--threshold", type=_SHARE, help="Keep a local answer at this p_correct.")
@click.option("--max-risk", type=_SHARE, help="Keep at most this share of wrong answers.")
@click.option("--usd-per-day", type=_USD, help="What the upstream may cost it by UTC day.")
@click.option("--usd-per-month", type=_USD, help="What the upstream may cost it by UTC month.")
@click.option("--requests-per-minute", type=_COUNT, help="Requests it may send.")
@click.option("--tokens-per-minute", type=_COUNT, help="Tokens of prompts and answers.")
@settings_options("keys")
def create(*, settings: Settings, name: str, admin: bool, **policy: Any) -> None:
    """Make a key called NAME, and print it: this once, since only its hash is kept.

    What a request sets for itself (`threshold`, `max_risk`) comes before its key's, except that
    nothing undoes --local-only.
    """
    from router.account import Account  # noqa: PLC0415
    from router.keystore import KeyStore  # noqa: PLC0415

    store = KeyStore(settings.keys)
    key, made = store.create(Account(name=name, **policy), admin=admin)
    click.echo(key)
    click.echo(
        f"{made.account.id} ({name}) is in {store.path}; its key is shown this once. Clients send "
        "it as `Authorization: Bearer KEY`.",
        err=True,
    )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@settings_options("keys")
def list_keys(*, settings: Settings, as_json: bool) -> None:
    """Show all keys there ever were, and what was agreed with their holders."""
    from router.keystore import KeyStore  # noqa: PLC0415

    store = KeyStore(settings.keys)
    found = [_described(key) for key in store.all()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"no keys in {store.path}; `router keys create NAME` makes one")
    for told in [] if as_json else found:
        ended = f", revoked {told['revoked']}" if told["revoked"] else ""
        click.echo(f"{told['id']}  {told['name']}, made {told['created']}{ended}{_terms(told)}")


@keys.command()
@click.argument("name", metavar="NAME_OR_ID")
@settings_options("keys")
def revoke(*, settings: Settings, name: str) -> None:
    """Make a key invalid, for good."""
    from router.keystore import KeyStore  # noqa: PLC0415

    gone = KeyStore(settings.keys).revoke(name)
    click.echo(f"{gone.account.id} ({gone.account.name}) is revoked")


def _described(key: ApiKey) -> dict[str, Any]:
    """A key's entry for people and for JSON: all but its digest."""
    policy = dataclasses.asdict(key.account)
    return {
        "id": policy.pop("id"),
        "name": policy.pop("name"),
        "admin": key.admin,
        "created": _day(key.created),
        "revoked": None if key.revoked is None else _day(key.revoked),
        "policy": policy,
    }


def _terms(told: dict[str, Any]) -> str:
    """The part of a line that says what differs from a key without terms."""
    terms = {"admin": told["admin"], **told["policy"]}
    shown = (
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in terms.items()
        if value not in (None, False)
    )
    return "".join(f", {term}" for term in shown)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
