"""`router cache purge`, beside a gateway that runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from router.account import Account
from router.cli import main
from router.keystore import KeyStore
from tests.service.scripted import QUESTION, make_app, serving

ID = "sha256:" + "0" * 12


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.db")


def purge(address: str, *options: str) -> Result:
    port = address.rpartition(":")[2]
    return CliRunner().invoke(main, ["cache", "purge", "--port", port, *options])


def ask(address: str, key: str = "") -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    reply = httpx.post(f"{address}/v1/chat/completions", json=QUESTION, headers=headers)
    return str(reply.headers["x-router-cache"])


@pytest.fixture
def address(keys: KeyStore) -> Iterator[str]:
    with serving(make_app(keys=str(keys.path))) as address:
        yield address


def test_on_its_own_machine_it_needs_no_key(address: str) -> None:
    assert [ask(address), ask(address)] == ["miss", "hit"]
    assert purge(address, "--calibration", ID).output == "0 answers forgotten\n"
    assert purge(address, "--all").output == "1 answers forgotten\n"
    assert ask(address) == "miss"


def test_where_keys_are_needed_it_is_the_operators(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, _ = keys.create(Account(name="ada"))
    admin, _ = keys.create(Account(name="operator"), admin=True)
    with serving(make_app(keys=str(keys.path))) as address:
        assert ask(address, ada) == "miss"
        for key in ("", ada):
            monkeypatch.setenv("SEEK_STRONGER_KEY", key)
            refused = purge(address, "--tenant", "ada")
            assert refused.exit_code == 1
            assert "Put an admin key into SEEK_STRONGER_KEY" in refused.output
        monkeypatch.setenv("SEEK_STRONGER_KEY", admin)
        assert "No API key is called 'bob'" in purge(address, "--tenant", "bob").output
        assert purge(address, "--tenant", "ada").output == "1 answers forgotten\n"
        assert ask(address, ada) == "miss"


def test_it_says_what_is_missing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nowhere = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    assert "say which: --tenant, --calibration or --all" in purge(nowhere).output
    assert "contradict" in purge(nowhere, "--all", "--tenant", "ada").output
    gone = purge(nowhere, "--all")
    assert gone.exit_code == 1
    assert f"error: no gateway answers at {nowhere}" in gone.output
