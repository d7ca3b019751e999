"""API keys and what was agreed with their holders, in one SQLite file.

A key is 256 random bits, so its SHA-256 is kept and nothing slower: salts and slow hashes protect
what can be guessed, and nobody guesses 256 bits. Whoever reads the file learns no key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.account import Account
from router.data_folder import data_folder
from router.errors import KeyStoreError

PREFIX = "sk-router-"
"""How each key begins, so that people and scanners for leaked secrets know it."""

MOST_NAME = 100
"""Characters of a key's name."""

_BUSY_SECONDS = 5.0
_VERSION = 1
_POLICY = tuple(f.name for f in dataclasses.fields(Account) if f.name not in ("id", "name"))
_COLUMNS = ("id", "digest", "name", "created", "revoked", "admin", *_POLICY)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS key (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
    created REAL NOT NULL, revoked REAL, admin INTEGER NOT NULL,
    local_only INTEGER NOT NULL, threshold REAL, max_risk REAL,
    usd_per_day REAL, usd_per_month REAL,
    requests_per_minute INTEGER, tokens_per_minute INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS key_name ON key (name) WHERE revoked IS NULL;
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without the key.

    Attributes
    ----------
    account : its holder; the id is made of the digest's first half.
    digest : SHA-256 of the key.
    admin : may look at metrics and the like, and change what runs.
    created, revoked : seconds since 1970; None while it is valid.
    """

    account: Account
    digest: bytes
    admin: bool
    created: float
    revoked: float | None


def digest_of(key: bytes) -> bytes:
    """Return what a key is known by."""
    return hashlib.sha256(key).digest()


def id_of(digest: bytes) -> str:
    """Return the public name of the key with this digest: ``key_`` and 16 hex digits."""
    return "key_" + digest[:8].hex()


def default_path() -> Path:
    """Return the file in the user's data folder."""
    return data_folder() / "keys.db"


class KeyStore:
    """The file at `path` (empty: the default one), which need not exist until a key is created.

    Every call opens it anew, so any number of processes may use it. Raises KeyStoreError when the
    file is there and can't be used.
    """

    def __init__(self, path: Path | str = "") -> None:
        self.path = Path(path).expanduser() if path else default_path()

    def create(self, account: Account, *, admin: bool = False) -> tuple[str, ApiKey]:
        """Make a key for `account`, whose id is ignored. Return the key, this once, and its entry.

        Raises KeyStoreError when a valid key has that name, or the policy contradicts itself.
        """
        _check(account)
        key = PREFIX + secrets.token_urlsafe(32)
        digest = digest_of(key.encode())
        account = dataclasses.replace(account, id=id_of(digest))
        made = ApiKey(account, digest, admin, created=time.time(), revoked=None)
        slots = ",".join("?" * len(_COLUMNS))
        with self._open(make=True) as connection:
            try:
                connection.execute(
                    f"INSERT INTO key ({','.join(_COLUMNS)}) VALUES ({slots})", _row(made)
                )
            except sqlite3.IntegrityError:
                raise KeyStoreError(
                    f"there is a key named {account.name!r} already; revoke it first, or choose "
                    "another name"
                ) from None
        return key, made

    def all(self) -> list[ApiKey]:
        """Return all keys there ever were, oldest first; none where there is no file."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return []
        with self._open() as connection:
            rows = connection.execute(f"SELECT {','.join(_COLUMNS)} FROM key ORDER BY created, id")
            return [_entry(row) for row in rows]

    def revoke(self, name_or_id: str) -> ApiKey:
        """Make a key invalid, and return it. Raises KeyStoreError when no valid one is meant."""
        valid = [key for key in self.all() if key.revoked is None]
        found = [key for key in valid if name_or_id in (key.account.id, key.account.name)]
        if not found:
            raise KeyStoreError(
                f"no valid key has the name or id {name_or_id[:MOST_NAME]!r}; "
                "`router keys list` shows them"
            )
        revoked = dataclasses.replace(found[0], revoked=time.time())
        with self._open() as connection:
            connection.execute(
                "UPDATE key SET revoked = ? WHERE id = ?", (revoked.revoked, revoked.account.id)
            )
        return revoked

    def version(self) -> object:
        """Return what changes whenever the file does; None without one. Cheap.

        SQLite counts its changes in the file's header; the inode tells another file.
        """
        try:
            with self.path.open("rb") as file:
                return self.path.stat().st_ino, file.read(100)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error

    @contextlib.contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction on the file."""
        try:
            if make:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.path.touch(mode=0o600)
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            with contextlib.closing(connection):
                # Not WAL: the count in the header, by which changes are noticed, would stand still.
                connection.execute("BEGIN IMMEDIATE" if make else "BEGIN")
                _prepare(connection, make=make)
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> KeyStoreError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return KeyStoreError(
            f"can't use {self.path} as the file of API keys: {reason}; give another with `keys`"
        )


def _check(account: Account) -> None:
    name = account.name
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise KeyStoreError(f"a key's name has 1 to {MOST_NAME} printable characters")
    if account.threshold is not None and account.max_risk is not None:
        raise KeyStoreError("max_risk chooses the threshold: give one of them, not both")


def _prepare(connection: sqlite3.Connection, *, make: bool) -> None:
    ((version,),) = connection.execute("PRAGMA user_version")
    if version > _VERSION:
        raise sqlite3.DatabaseError("a newer version of this program made it")
    if make and version < _VERSION:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _row(key: ApiKey) -> tuple[object, ...]:
    policy = (getattr(key.account, name) for name in _POLICY)
    return (
        key.account.id,
        key.digest,
        key.account.name,
        key.created,
        key.revoked,
        key.admin,
        *policy,
    )


def _entry(row: tuple[Any, ...]) -> ApiKey:
    kept = dict(zip(_COLUMNS, row, strict=True))
    policy = {name: kept[name] for name in _POLICY}
    policy["local_only"] = bool(policy["local_only"])
    return ApiKey(
        Account(id=kept["id"], name=kept["name"], **policy),
        kept["digest"],
        bool(kept["admin"]),
        kept["created"],
        kept["revoked"],
    )
