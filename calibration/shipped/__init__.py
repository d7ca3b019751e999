"""The calibrations that ship with the package, one folder a model."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from calibration.artifact import FILE_NAME, Calibration


def find(model_sha256: str) -> Calibration | None:
    """Return the shipped calibration of the GGUF with this content hash; None when there is none.

    Raises ArtifactError when a shipped file has been altered.
    """
    for folder in sorted(_root().iterdir()):
        if (folder / FILE_NAME).is_file():
            calibration = Calibration.load(folder)
            if calibration.binding.model_sha256 == model_sha256:
                return calibration
    return None


def _root() -> Path:
    return Path(str(resources.files(__package__)))
