"""API keys: what the file holds, who is told, and `router keys`."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.account import Account
from router.cli import main
from router.errors import KeyStoreError
from router.keystore import PREFIX, KeyStore, default_path, digest_of, id_of

ALICE = Account(
    name="alice",
    local_only=True,
    max_risk=0.05,
    usd_per_day=1.5,
    usd_per_month=20,
    requests_per_minute=60,
    tokens_per_minute=10_000_000,
)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "sub" / "keys.db")


class TestStore:
    def test_there_are_none_at_first(self, store: KeyStore) -> None:
        assert store.all() == []
        assert store.version() is None
        assert not store.path.exists()

    def test_what_was_agreed_is_kept(self, store: KeyStore) -> None:
        key, made = store.create(ALICE, admin=True)
        store.create(Account(name="bob"))
        first, second = store.all()
        assert first == made
        assert first.admin
        assert first.revoked is None
        assert first.account == replace(ALICE, id=id_of(digest_of(key.encode())))
        assert second.account == Account(id=second.account.id, name="bob")
        assert not second.admin

    def test_a_key_is_256_random_bits(self, store: KeyStore) -> None:
        keys = {store.create(Account(name=f"n{i}"))[0] for i in range(20)}
        assert len(keys) == 20
        for key in keys:
            assert re.fullmatch(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}", key)

    def test_the_file_holds_no_key(self, store: KeyStore) -> None:
        key, made = store.create(ALICE)
        for file in store.path.parent.iterdir():
            assert key.removeprefix(PREFIX).encode() not in file.read_bytes()
        assert key not in repr(made)
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700

    def test_a_revoked_key_stays_in_the_list(self, store: KeyStore) -> None:
        _, alice = store.create(ALICE)
        _, bob = store.create(Account(name="bob"))
        assert store.revoke("alice").account == alice.account
        assert store.revoke(bob.account.id).account == bob.account
        assert all(key.revoked is not None for key in store.all())
        with pytest.raises(KeyStoreError, match=r"no valid key .*'alice'.*router keys list"):
            store.revoke("alice")

    def test_a_name_is_free_again_after_its_key(self, store: KeyStore) -> None:
        store.create(ALICE)
        with pytest.raises(KeyStoreError, match="a key named 'alice' already"):
            store.create(ALICE)
        store.revoke("alice")
        store.create(ALICE)
        store.revoke("alice")
        assert [key.revoked is None for key in store.all()] == [False, False]

    def test_every_change_changes_the_version(self, store: KeyStore) -> None:
        seen = [store.version()]
        for number in range(5):
            store.create(Account(name=f"n{number}"))
            seen.append(store.version())
        store.revoke("n0")
        seen.append(store.version())
        assert len(set(map(repr, seen))) == 7
        assert store.version() == seen[-1]

    @pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines"])
    def test_a_name_is_one_short_line(self, store: KeyStore, name: str) -> None:
        with pytest.raises(KeyStoreError, match="1 to 100 printable"):
            store.create(Account(name=name))

    def test_one_rule_only(self, store: KeyStore) -> None:
        with pytest.raises(KeyStoreError, match="one of them"):
            store.create(Account(name="x", threshold=0.5, max_risk=0.1))

    def test_a_file_that_is_no_database(self, store: KeyStore) -> None:
        store.path.parent.mkdir()
        store.path.write_text("these are no keys, " * 100)
        with pytest.raises(KeyStoreError, match=r"can't use .*keys\.db .*not a database"):
            store.all()

    def test_another_database(self, store: KeyStore) -> None:
        store.path.parent.mkdir()
        sqlite3.connect(store.path).executescript("CREATE TABLE other (x);").connection.close()
        with pytest.raises(KeyStoreError, match="no such table"):
            store.all()

    def test_a_newer_version(self, store: KeyStore) -> None:
        store.create(ALICE)
        connection = sqlite3.connect(store.path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(KeyStoreError, match="a newer version"):
            store.all()

    def test_a_creation_that_broke_off_left_an_empty_file(self, store: KeyStore) -> None:
        store.path.parent.mkdir()
        store.path.touch()
        assert store.all() == []
        store.create(ALICE)
        assert len(store.all()) == 1

    def test_a_folder_in_its_place(self, store: KeyStore) -> None:
        store.path.mkdir(parents=True)
        for use in (store.version, store.all, lambda: store.create(ALICE)):
            with pytest.raises(KeyStoreError, match="can't use"):
                use()

    def test_the_default_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert KeyStore().path == default_path() == tmp_path / "seek-stronger" / "keys.db"


def _terms(account: Account) -> dict[str, object]:
    return {name: getattr(account, name) for name in Account.__slots__ if name != "id"}


def run(store: KeyStore, *arguments: str) -> Result:
    command, *rest = arguments
    return CliRunner().invoke(main, ["keys", command, "--keys", str(store.path), *rest])


class TestCommand:
    def test_create_prints_the_key_alone(self, store: KeyStore) -> None:
        options = (
            "--local-only --max-risk 0.05 --usd-per-day 1.5 --usd-per-month 20 "
            "--requests-per-minute 60 --tokens-per-minute 10000000 --admin"
        )
        result = run(store, "create", "alice", *options.split())
        (made,) = store.all()
        key = result.stdout.strip()
        assert made.digest == digest_of(key.encode())
        assert _terms(made.account) == _terms(ALICE)
        assert made.admin
        assert made.account.id in result.stderr
        assert "this once" in result.stderr
        assert key not in result.stderr

    def test_list(self, store: KeyStore) -> None:
        assert "router keys create" in run(store, "list").stdout
        store.create(ALICE, admin=True)
        _, bob = store.create(Account(name="bob", threshold=0.7))
        store.revoke("bob")
        alice, other = run(store, "list").stdout.splitlines()
        assert alice.startswith("key_")
        for part in ("alice", "admin", "local only", "max risk 0.05", "usd per day 1.5"):
            assert part in alice
        assert "tokens per minute 10000000" in alice
        assert other.startswith(f"{bob.account.id}  bob, made 20")
        assert ", revoked 20" in other
        assert other.endswith("threshold 0.7")

    def test_list_as_json(self, store: KeyStore) -> None:
        _, made = store.create(ALICE)
        (told,) = json.loads(run(store, "list", "--json").stdout)
        assert told["id"] == made.account.id
        assert told["revoked"] is None
        assert told["policy"]["usd_per_day"] == 1.5
        assert made.digest.hex() not in json.dumps(told)

    def test_revoke(self, store: KeyStore) -> None:
        store.create(ALICE)
        assert "(alice) is revoked" in run(store, "revoke", "alice").stdout
        failed = run(store, "revoke", "alice")
        assert failed.exit_code == 1
        assert failed.stderr.startswith("error: no valid key has the name or id 'alice'")

    @pytest.mark.parametrize(
        "options",
        [
            ["--threshold", "1.5"],
            ["--usd-per-day", "-1"],
            ["--requests-per-minute", "0"],
            ["--tokens-per-minute", "many"],
        ],
    )
    def test_terms_that_can_not_be(self, store: KeyStore, options: list[str]) -> None:
        result = run(store, "create", "x", *options)
        assert result.exit_code == 2
        assert options[0] in result.stderr
        assert store.all() == []
