"""The file of what reads hidden states: probes, and ranks among neighbours.

It holds arrays and a description of them, no code: it can be opened whoever made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from calibration.errors import ArtifactError
from calibration.neighbours import NeighbourInput, NeighbourRank
from calibration.probes import Probe, ProbeInput

FORMAT = 1

_KEY = "seek_stronger_probes"

Reader = Probe | NeighbourRank
"""What reads hidden states."""


def save_probes(path: str | os.PathLike[str], probes: Mapping[str, Reader]) -> None:
    """Write `probes`, by name, into one ``.safetensors`` file; `load_probes` reads it.

    The file is replaced in one step: a reader sees the old one or the new one, never half. The
    same probes give the same bytes.
    """
    described, tensors = _described(probes)
    header = {"format": FORMAT, "probes": described, "sha256": _digest(described, tensors)}
    _replace(Path(path), save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)}))


def load_probes(path: str | os.PathLike[str]) -> dict[str, Reader]:
    """Read what `save_probes` wrote.

    Raises
    ------
    ArtifactError
        When there is no such file, it is no file of probes, it has another format, or it was
        damaged or altered.
    """
    metadata, tensors = _open(path)
    try:
        header = json.loads(metadata[_KEY])
        form, described = header["format"], header["probes"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is no file of probes; restore it or train again") from error
    if form != FORMAT:
        raise ArtifactError(
            f"{path} has format {form!r}, but this version reads format {FORMAT}; "
            "train the probes again, or install the version that wrote it"
        )
    if header.get("sha256") != _digest(described, tensors):
        raise ArtifactError(f"{path} is damaged or was altered; restore it or train again")
    try:
        return {name: _rebuild(name, about, tensors) for name, about in described.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} doesn't describe what it holds ({error!r}); restore it or train again"
        ) from error


def probes_digest(probes: Mapping[str, Reader]) -> str:
    """Return a hash of all that makes the probes what they are."""
    return _digest(*_described(probes))


def _described(
    probes: Mapping[str, Reader],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    tensors: dict[str, NDArray[Any]] = {}
    described: dict[str, Any] = {}
    for name, reader in sorted(probes.items()):
        tensors |= {_tensor(name, what): array for what, array in _arrays(reader).items()}
        if isinstance(reader, Probe):
            described[name] = {
                "place": reader.input.place,
                "layers": list(reader.input.layers),
                "n_weights": len(reader.weights),
                "slope": reader.slope,
            }
        else:
            described[name] = {
                "base": reader.base,
                "layer": reader.input.layer,
                "width": reader.width,
            }
    return described, tensors


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"there are no probes at {path}; train them first") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged or no .safetensors file ({error}); restore it or train again"
        ) from error


def _rebuild(name: str, about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Reader:
    def array(what: str) -> NDArray[Any]:
        return tensors[_tensor(name, what)]

    if "base" in about:
        return NeighbourRank(
            str(about["base"]),
            NeighbourInput(int(about["layer"])),
            array("center"),
            array("states"),
            array("scores"),
            float(about["width"]),
        )
    reads = ProbeInput(about["place"], tuple(about["layers"]))
    layers = range(about["n_weights"])
    return Probe(
        reads,
        array("mean"),
        array("scale"),
        tuple((array(f"{i}.weight"), array(f"{i}.bias")) for i in layers),
        float(about["slope"]),
    )


def _arrays(reader: Reader) -> dict[str, NDArray[Any]]:
    if isinstance(reader, NeighbourRank):
        return {"center": reader.center, "states": reader.states, "scores": reader.scores}
    arrays: dict[str, NDArray[Any]] = {"mean": reader.mean, "scale": reader.scale}
    for i, (matrix, bias) in enumerate(reader.weights):
        arrays |= {f"{i}.weight": matrix, f"{i}.bias": bias}
    return arrays


def _tensor(name: str, what: str) -> str:
    return f"{name}/{what}"


def _digest(described: object, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Hash of all that makes the probes: the file's own checks miss a changed number."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
