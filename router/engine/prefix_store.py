"""Keys and values of system prompts on disk, so that a restarted engine need not read them again.

One file a prefix: a line of JSON that says what the state belongs to, then the state's bytes. A
prefix is found again only by the tenant who asked for it and by an engine of the same binding.

These files are as confidential as the prompts: the tokens stand in the first line, and could be
reconstructed from keys and values if they did not. Folder and files are therefore open to their
owner only. Tenants appear as hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from router.engine.messages import EngineInfo
from router.errors import ConfigError, EngineError

log = logging.getLogger("router.engine.prefix_store")

FORMAT = 1

_SUFFIX = ".kv"
_UNFINISHED = ".unfinished"
_ABANDONED_S = 3600.0
_LONGEST_HEADER = 1 << 24  # a damaged file may have no line end at all


class PrefixUnreadable(EngineError):
    """A stored prefix is damaged or gone, and is not found again."""


def engine_binding(
    info: EngineInfo, *, n_embd: int, kv_type_k: str, kv_type_v: str, flash_attn: str
) -> dict[str, str]:
    """What a state depends on beside its tokens; the types are ggml's names, no ``auto``.

    The number of slots is in it since llama.cpp takes no state of a cache with another number of
    sequences; the context's length since some models rotate positions by it; the device since its
    kernels round in their own way.
    """
    return {
        "model_sha256": info.model_sha256,
        "build": info.build,
        "offload": info.offload.partition(" (")[0],  # not how much memory was free
        "n_embd": str(n_embd),
        "n_layer": str(info.n_layer),
        "n_context": str(info.n_context),
        "n_slots": str(info.n_slots),
        "kv_type_k": kv_type_k,
        "kv_type_v": kv_type_v,
        "flash_attn": flash_attn,
    }


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A stored beginning of a prompt. Found by `PrefixStore.find`."""

    tokens: tuple[int, ...]
    _name: str
    _store: PrefixStore

    def read(self) -> bytes:
        """The state after `tokens`, checked; from now on it is the most recently used one.

        Raises PrefixUnreadable when the file is damaged, which also removes it, or is gone.
        """
        return self._store._read(self._name)

    def remove(self) -> None:
        """Remove the file: for a state that llama.cpp refuses all the same."""
        self._store._drop(self._name)


class PrefixStore:
    """The prefixes in `folder` that belong to `binding`. May be called from any thread.

    Parameters
    ----------
    folder : made, for its owner only, when missing. Several engines may share one.
    binding : what a state depends on beside its tokens (`engine_binding`). Files of another
        binding are left alone, though they count towards `max_bytes`.
    max_bytes : when the files take more, the least recently used ones are removed.

    What others write into the folder later is found after the next start.

    Raises
    ------
    ConfigError
        When `folder` can't be written to, or others than its owner may enter it.
    """

    def __init__(
        self, folder: Path, *, binding: Mapping[str, str], max_bytes: int = 1 << 30
    ) -> None:
        self._folder = folder
        self._binding = dict(binding)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._index: dict[str, dict[str, tuple[int, ...]]] = {}  # tenant's hash, name -> tokens
        _prepare(folder)
        for path in folder.glob(f"*{_SUFFIX}"):
            self._learn(path)
        self._make_room()

    def find(self, tenant: str, prompt: Sequence[int]) -> Prefix | None:
        """The longest stored prefix of `tenant` that `prompt` begins with or equals, if any."""
        wanted, owner = tuple(prompt), _tenant_hash(tenant)
        with self._lock:
            matching = [
                (len(tokens), name, tokens)
                for name, tokens in self._index.get(owner, {}).items()
                if _begins_with(wanted, tokens)
            ]
        for _, name, tokens in sorted(matching, reverse=True):
            if (self._folder / name).exists():
                return Prefix(tokens, name, self)
            self._forget(name)
        return None

    def save(self, tenant: str, tokens: Sequence[int], state: bytes) -> None:
        """Keep the state that a sequence has after `tokens`, unless it is kept already.

        Blocks until the disk has it. Nothing is kept of no tokens, or of more than `max_bytes`.
        Raises EngineError when the file can't be written.
        """
        kept, owner = tuple(map(int, tokens)), _tenant_hash(tenant)
        if not kept:
            return
        name = _name(self._binding, owner, kept)
        path = self._folder / name
        if not path.exists():
            header = _Header(FORMAT, self._binding, owner, kept, len(state), _digest(state))
            line = header.to_line()
            if len(line) + len(state) > self._max_bytes:
                log.warning(
                    "a prompt's beginning of %d tokens takes %d bytes and is not kept on disk: "
                    "%d bytes are the most",
                    len(kept),
                    len(line) + len(state),
                    self._max_bytes,
                )
                return
            try:
                _write(path, line, state)
            except OSError as error:
                raise EngineError(
                    f"a prompt's beginning of {len(kept)} tokens can't be kept in {self._folder} "
                    f"({error}); answers are not affected; make room there or unset `prefix_folder`"
                ) from error
        with self._lock:
            self._index.setdefault(owner, {})[name] = kept
        self._make_room(but=name)

    def _learn(self, path: Path) -> None:
        """Take the file into the index if it is ours; remove it if it is damaged."""
        try:
            with path.open("rb") as file:
                header = _read_header(file, path)
                if header.format != FORMAT or header.binding != self._binding:
                    return
                _check_size(file, header)
        except _DamagedError as damage:
            log.warning("removing %s: %s", path, damage)
            self._drop(path.name)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s can't be read and is left alone: %s", path, error)
        else:
            self._index.setdefault(header.tenant, {})[path.name] = header.tokens

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                header = _read_header(file, path)
                _check_size(file, header)
                state = file.read()
            if _digest(state) != header.state_sha256:
                raise _DamagedError("its content does not match its hash")
            os.utime(path)
        except _DamagedError as damage:
            log.warning("removing %s: %s", path, damage)
            self._drop(name)
            raise PrefixUnreadable(f"{path} is damaged ({damage}) and has been removed") from damage
        except OSError as error:
            self._forget(name)
            raise PrefixUnreadable(f"{path} can't be read: {error}") from error
        return state

    def _drop(self, name: str) -> None:
        self._forget(name)
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be removed: %s", self._folder / name, error)

    def _forget(self, name: str) -> None:
        with self._lock:
            for names in self._index.values():
                names.pop(name, None)

    def _make_room(self, *, but: str = "") -> None:
        """Remove the least recently used files until they are small enough together."""
        files = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            if path.name == but:
                continue
            self._drop(path.name)
            excess -= size


class _DamagedError(Exception):
    """The file is not as it was written."""


@dataclass(frozen=True, slots=True)
class _Header:
    """A file's first line."""

    format: int
    binding: dict[str, str]
    tenant: str
    tokens: tuple[int, ...]
    state_bytes: int
    state_sha256: str

    def to_line(self) -> bytes:
        fields = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


_FIELDS = {
    "format": int,
    "binding": dict,
    "tenant": str,
    "tokens": list,
    "state_bytes": int,
    "state_sha256": str,
}


def _read_header(file: BinaryIO, path: Path) -> _Header:
    """The first line; of another format's, only the number is to be relied on."""
    line = file.readline(_LONGEST_HEADER)
    try:
        fields: dict[str, Any] = json.loads(line)
        if fields["format"] != FORMAT:
            return _Header(fields["format"], {}, "", (), 0, "")
        for field, kind in _FIELDS.items():
            if type(fields[field]) is not kind:
                raise _DamagedError(f"its {field} is malformed")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _DamagedError("its first line can't be understood") from None
    header = _Header(**(fields | {"tokens": tuple(fields["tokens"])}))
    if not header.tokens or path.name != _name(header.binding, header.tenant, header.tokens):
        raise _DamagedError("it does not hold what its name stands for")
    return header


def _check_size(file: BinaryIO, header: _Header) -> None:
    there = os.fstat(file.fileno()).st_size - file.tell()
    if there != header.state_bytes:
        raise _DamagedError(f"it has {there} bytes of state instead of {header.state_bytes}")


def _begins_with(prompt: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    n = len(tokens)
    return n <= len(prompt) and prompt[n - 1] == tokens[-1] and prompt[:n] == tokens


def _name(binding: Mapping[str, str], tenant: str, tokens: tuple[int, ...]) -> str:
    """A file's name stands for all that its state depends on."""
    content = json.dumps([FORMAT, binding, tenant, tokens], sort_keys=True)
    return _digest(content.encode()) + _SUFFIX


def _tenant_hash(tenant: str) -> str:
    return _digest(b"tenant of a stored prefix\0" + tenant.encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, *parts: bytes) -> None:
    """Write the file in one step: others see all of it or nothing."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, suffix=_UNFINISHED)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _prepare(folder: Path) -> None:
    """Make the folder, see that it is private and can be written to, and tidy it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & 0o077:
            raise ConfigError(
                f"`prefix_folder` {folder} may be entered by others, and prompts can be "
                f"reconstructed from what is kept there; run `chmod 700 {folder}`, or name a "
                "folder that does not exist yet"
            )
        tempfile.TemporaryFile(dir=folder).close()
        for path in folder.glob(f"*{_UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):  # finished just now
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()
    except OSError as error:
        raise ConfigError(
            f"system prompts can't be kept in `prefix_folder` {folder}: {error}; name a folder "
            "that can be written to, or leave it empty"
        ) from error
