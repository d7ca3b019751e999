"""What a calibration is pinned to: the model and everything else that moves its scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from calibration.errors import ArtifactError, ArtifactMismatch
from uq import estimator_names, get_estimator


def estimator_versions() -> dict[str, int]:
    """Return the version of every registered estimator by name, for `Binding.estimators`."""
    return {name: get_estimator(name).version for name in estimator_names()}


@dataclass(frozen=True)
class Binding:
    """What a calibration was measured on, or what is loaded now.

    Attributes
    ----------
    model_sha256 : content hash of the GGUF.
    quantisation : the GGUF's own name for it, e.g. ``Q4_1``.
    template_sha256 : hash of the chat template.
    sampler : settings of the sampler by name; values as JSON knows them.
    estimators : version of each uncertainty estimator by name; see `estimator_versions`.
    engine_build : version of the engine, and the types of its cache where they were chosen. Another
        one only warns: the same weights give the same scores up to rounding.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    model_sha256: str
    quantisation: str
    template_sha256: str
    sampler: Mapping[str, Any]
    estimators: Mapping[str, int]
    engine_build: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", as_json(self.sampler, "sampler"))
        object.__setattr__(self, "estimators", dict(self.estimators))

    def check(self, loaded: Binding, needs: Iterable[str]) -> list[str]:
        """Compare with what is loaded now; return warnings (another engine build).

        Raises
        ------
        ArtifactMismatch
            When model, quantisation, chat template, a sampler setting, or the version of one of the
            estimators that it `needs` differs; its `differences` name every one.
        """
        differences = [
            _difference(name, getattr(self, name), getattr(loaded, name))
            for name in ("model_sha256", "quantisation", "template_sha256")
            if getattr(self, name) != getattr(loaded, name)
        ]
        for name in sorted({*self.sampler, *loaded.sampler}):
            was, now = self.sampler.get(name, "not set"), loaded.sampler.get(name, "not set")
            if was != now:
                differences.append(_difference(f"sampler.{name}", was, now))
        for name in needs:
            was, now = self.estimators[name], loaded.estimators.get(name, "missing")
            if was != now:
                differences.append(_difference(f"version of estimator {name}", was, now))
        if differences:
            raise ArtifactMismatch(tuple(differences))
        if self.engine_build != loaded.engine_build:
            return [
                _difference("engine_build", self.engine_build, loaded.engine_build)
                + "; scores may differ by rounding"
            ]
        return []


def as_json(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return `values` as they come back from JSON (tuples as lists): equal after a round trip."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{name} can't be written as JSON: {error}") from error
    return plain


def _difference(name: str, was: object, now: object) -> str:
    return f"{name} is {now}, but the calibration was measured with {was}"
