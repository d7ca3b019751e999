"""Files of Hugging Face repositories: fetched once, resumed when interrupted, checked.

The hub's own library finds the file, authorises and keeps the cache. The transfer is ours, because
the library's starts from zero when a process was interrupted: its partial file has a name that is
new every time.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import httpx
from filelock import FileLock
from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from router.errors import ModelError
from router.models import Progress

_ATTEMPTS = 6
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[0-9A-Za-z_-]+")

# The hub library raises its HTTP library's errors, and that library is httpx in one release and
# httpx2 in another. Their common base is the first base of the hub's own HTTP error.
_HubTransportError = cast(type[Exception], HfHubHTTPError.__bases__[0])


@dataclass(frozen=True, slots=True)
class _HubFile:
    """One file of a repository and the folder in which the hub's library would keep it."""

    repo: str
    name: str
    endpoint: str
    cache: Path

    @property
    def label(self) -> str:
        return f"hf:{self.repo}/{self.name}"

    @property
    def folder(self) -> str:
        return "models--" + self.repo.replace("/", "--")

    def url(self, revision: str | None = None) -> str:
        return hf_hub_url(self.repo, self.name, revision=revision, endpoint=self.endpoint)

    def cached(self) -> Path | None:
        """The copy that the cache holds of the main branch, whatever the hub has by now."""
        found = try_to_load_from_cache(self.repo, self.name, cache_dir=self.cache)
        return Path(found) if isinstance(found, str) else None


def fetch(
    repo: str,
    name: str,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    *,
    pause: float = 0.5,
) -> Path:
    """Return the local copy of file `name` of `repo`, fetching it if the hub's differs.

    Reads ``HF_ENDPOINT`` and ``HF_TOKEN`` when called. When the hub can't be reached, or does not
    let us in, a cached copy is good enough. What an interrupted transfer left is continued. A
    transfer that breaks off is repeated after `pause` seconds, then after twice as many, and so on.

    Raises
    ------
    ModelError
        No such repository or file, no access, no connection and no cached copy, or the content's
        sha256 is not the one the hub states (the file is removed).
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    file = _HubFile(repo, name, endpoint, Path(cache_dir or constants.HF_HUB_CACHE))
    try:
        metadata = get_hf_file_metadata(file.url(), endpoint=endpoint)
    except (HFValidationError, EntryNotFoundError) as error:
        _refuse(file, error)
    except (_HubTransportError, OSError) as error:  # OSError: the hub's offline mode
        cached = file.cached()
        if cached is not None:
            return cached
        _refuse(file, error)
    etag = metadata.etag
    if metadata.commit_hash is None or etag is None or not _PLAIN_NAME.fullmatch(etag):
        raise ModelError(
            f"{file.label}: {endpoint} does not answer like a Hugging Face hub (no commit or "
            "etag); check HF_ENDPOINT and proxy settings"
        )
    try:
        blob = file.cache / file.folder / "blobs" / etag
        _fill(file, blob, metadata, on_progress, pause)
        # With the content in place this transfers nothing: it makes the entry that names it.
        return Path(hf_hub_download(repo, name, cache_dir=file.cache, endpoint=endpoint))
    except (_HubTransportError, OSError) as error:
        raise ModelError(f"{file.label}: could not be kept in {file.cache}: {error}") from error


def _fill(
    file: _HubFile, blob: Path, metadata: HfFileMetadata, report: Progress | None, pause: float
) -> None:
    lock = file.cache / ".locks" / file.folder / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # the one the hub's library takes, too
        if blob.exists():
            return
        part = blob.with_name(blob.name + ".incomplete")
        _transfer(file, metadata, part, report, pause)
        _verify(file, part, metadata)
        part.replace(blob)


def _transfer(
    file: _HubFile, metadata: HfFileMetadata, part: Path, report: Progress | None, pause: float
) -> None:
    attempts = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential_jitter(multiplier=pause, max=20, jitter=pause),
        retry=retry_if_exception(_worth_retrying),
        reraise=True,
    )
    try:
        attempts(_continue, file.url(metadata.commit_hash), part, metadata.size, report)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise ModelError(f"{file.label}: the download was refused with status {status}") from error
    except httpx.HTTPError as error:
        raise ModelError(
            f"{file.label}: the download broke off {_ATTEMPTS} times ({_reason(error)}); what has "
            "arrived is kept, the same command continues from there"
        ) from error


def _worth_retrying(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (408, 416, 429, 500, 502, 503, 504)
    return isinstance(error, httpx.TransportError)


def _continue(url: str, part: Path, size: int | None, report: Progress | None) -> None:
    """Append to `part` what is missing of the file at `url`."""
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start >= size:
        if start == size:
            return
        start = 0
    headers = {"Accept-Encoding": "identity"}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token:
        headers["Authorization"] = f"Bearer {token}"  # httpx drops it on the way to another host
    if start:
        headers["Range"] = f"bytes={start}-"
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # it is not the beginning of this file
        response.raise_for_status()
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        with part.open("ab" if start and resumed else "wb") as out:
            for chunk in response.iter_bytes():
                out.write(chunk)
                if report is not None:
                    report(out.tell(), size)


def _verify(file: _HubFile, part: Path, metadata: HfFileMetadata) -> None:
    actual_size = part.stat().st_size
    if metadata.size is not None and actual_size != metadata.size:
        part.unlink()
        raise ModelError(
            f"{file.label}: {actual_size} bytes arrived where the hub announced {metadata.size}; "
            "the file was removed, try again"
        )
    stated = metadata.etag or ""
    if not _SHA256.fullmatch(stated):
        return  # a file kept in git itself: the hub states no sha256 for it
    with part.open("rb") as content:
        actual = hashlib.file_digest(content, "sha256").hexdigest()
    if actual != stated:
        part.unlink()
        raise ModelError(
            f"{file.label}: the content's sha256 is {actual}, but the hub states {stated}; "
            "the file was removed. Try again, or check what stands between you and the hub"
        )


def _refuse(file: _HubFile, error: Exception) -> NoReturn:
    """Say in our words why the hub did not tell us about the file."""
    if isinstance(error, HFValidationError):
        why = f"{file.repo!r} is no repository name"
    elif isinstance(error, EntryNotFoundError):
        why = f"the repository {file.repo} has no file {file.name}, or no such revision"
    elif isinstance(error, GatedRepoError):
        why = (
            f"{file.repo} is gated: accept its terms on {file.endpoint} and set HF_TOKEN to a "
            "token of that account"
        )
    elif isinstance(error, RepositoryNotFoundError):
        why = (
            f"{file.endpoint} has no repository {file.repo}, or it is private: check the spelling, "
            "and set HF_TOKEN if it needs a token"
        )
    elif isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hint = "; check HF_TOKEN" if status in (401, 403) else ""
        why = f"{file.endpoint} answered with status {status}{hint}"
    elif isinstance(error, FileMetadataError):
        why = f"{file.endpoint} does not answer like a Hugging Face hub: {error}"
    else:
        why = (
            f"can't reach {file.endpoint} and the cache {file.cache} has no copy ({_reason(error)})"
        )
    raise ModelError(f"{file.label}: {why}") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
