"""A calibration on disk: all that `serve` needs to decide, pinned to what it was measured on.

The folder holds ``calibration.json``: readable, sorted keys, with a hash over its own content, so
that an altered file is refused; and ``probe.safetensors`` when probes are used. Nothing in either
is executable; it is never a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from calibration.band import Band, CalibratorField
from calibration.binding import Binding, as_json
from calibration.errors import ArtifactError, CalibrationError
from calibration.exits import EarlyStop, Gate
from calibration.figures import (
    BrierScores,
    CurvePoint,
    EceScores,
    EstimatorQuality,
    Histogram,
    Reference,
)
from calibration.learned import LearnedField, load_context
from calibration.parts import Labels
from calibration.probe_file import Reader, load_probes, save_probes
from calibration.targets import CostModel, Targets, parse_targets
from calibration.thresholds import MIN_KEPT, OperatingPoint
from uq import Trace, score_all
from uq.signals import Signal

FORMAT = 3
"""Version of the file's layout; raised when a reader of the old one could not read the new."""

FILE_NAME = "calibration.json"
PROBE_FILE_NAME = "probe.safetensors"

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Calibration:
    """A fitted, measured decision rule: uncertainty -> P(correct) -> keep or escalate.

    Made by `calibration.fit.fit_calibration`; kept and read by `save` and `load`.

    Attributes
    ----------
    binding : what it was measured on.
    method : the estimator whose score is used.
    calibrator : its score -> P(correct).
    learned : the probes and stacks that `method` and `band` read.
    band : where a cheaper score decides alone; None when `method` is read for every answer.
    gate, early_stop : when an answer is given up; None for never.
    target : what the threshold was chosen for, as `calibration.targets.parse_targets` reads it.
    confidence : of certificates, in (0, 1).
    cost : what answers cost where the target is a cost; else None.
    labels, labelled_by : who said what is right: known answers (``gold``), or the large model of
        that name (``llm``).
    population : what the records were drawn from, a phrase.
    operating_point : the chosen threshold; its figures are those of the test part.
    operating_points : the same for a table of usual targets, each for itself, without the gate.
    unreachable : those usual targets that no threshold met.
    routing_curve : at most 101 points from keeping all to keeping none, on the test part.
    estimators : quality of each estimator's raw score, on all records.
    ece, brier : calibration before and after, on the test part.
    n, n_fit, n_test, n_unknown : records in all, in either part, and those of them whose score is
        unknown.
    accuracy, accuracy_test : share of right answers, among all `n` and on the test part: what
        keeping everything would give.
    histogram : uncertainty over the fit part.
    reference : answers of the test part, to compare live ones with.
    holdout : how the labelled set was made; JSON values.
    seed : of the split into parts.
    created : date and time, ISO 8601.
    format : layout of the file.
    """

    __pydantic_config__ = _STRICT

    binding: Binding
    method: str
    calibrator: CalibratorField
    learned: LearnedField
    band: Band | None
    gate: Gate | None
    early_stop: EarlyStop | None
    target: str
    confidence: float
    cost: CostModel | None
    labels: Labels
    labelled_by: str
    population: str
    operating_point: OperatingPoint
    operating_points: tuple[OperatingPoint, ...]
    unreachable: tuple[str, ...]
    routing_curve: tuple[CurvePoint, ...]
    estimators: Mapping[str, EstimatorQuality]
    ece: EceScores
    brier: BrierScores
    n: int
    n_fit: int
    n_test: int
    n_unknown: int
    accuracy: float
    accuracy_test: float
    histogram: Histogram
    reference: Reference
    holdout: Mapping[str, Any]
    seed: int
    created: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "holdout", as_json(self.holdout, "holdout"))
        parse_targets([self.target])
        if not 0.0 < self.confidence < 1.0:
            raise ArtifactError(f"the confidence is {self.confidence!r}; it must be inside 0 to 1")
        if self.gate is not None and self.gate.probe not in self.learned.probes:
            raise ArtifactError(f"the gate asks the probe {self.gate.probe!r}, which is not there")
        for name in self.needs:
            if name not in self.binding.estimators:
                raise ArtifactError(
                    f"the method uses the estimator {name!r}, whose version the binding does not "
                    f"name; it names {', '.join(sorted(self.binding.estimators)) or 'none'}"
                )

    @property
    def targets(self) -> Targets:
        """What the threshold was chosen for."""
        return parse_targets([self.target])

    @property
    def first_look(self) -> str:
        """The score that is read for every answer."""
        return self.method if self.band is None else self.band.method

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the registered estimators that `p_correct` reads."""
        methods = (self.method,) if self.band is None else (self.method, self.band.method)
        return tuple(dict.fromkeys(n for method in methods for n in self.learned.reads(method)))

    @cached_property
    def signals(self) -> frozenset[Signal]:
        """What to gather with every answer."""
        return self.learned.needs(self.method if self.band is None else self.band.method)

    @cached_property
    def closer_signals(self) -> frozenset[Signal]:
        """What to gather besides when `looks_closer` says so."""
        return self.learned.needs(self.method) - self.signals

    @property
    def layers(self) -> frozenset[int]:
        """Layers whose hidden states the probes read."""
        return frozenset(n for it in self.learned.readers.values() for n in it.input.layers)

    @property
    def threshold(self) -> float:
        """Keep the local answer iff its p_correct is at least this."""
        return self.operating_point.threshold

    @cached_property
    def id(self) -> str:
        """``sha256:`` and the hash of the content."""
        return _content_hash(self._content())

    def scores(self, trace: Trace) -> dict[str, float]:
        """Return the scores of all registered estimators and of those learned here."""
        return self.learned.score(trace, score_all(trace))

    def looks_closer(self, uncertainties: Mapping[str, float]) -> bool:
        """Whether `closer_signals` are worth gathering for an answer with these scores."""
        if self.band is None:
            return False
        return self.band.holds(self._score(self.band.method, uncertainties))

    def p_correct(self, uncertainties: Mapping[str, float]) -> float:
        """Return P(answer is correct) in [0, 1]; NaN when the score is unknown (NaN or infinite).

        Parameters
        ----------
        uncertainties : mapping
            Scores by estimator name, as `scores` returns them.

        Raises
        ------
        CalibrationError
            When a score that it needs was not given.
        """
        method, calibrator = self.method, self.calibrator
        if self.band is not None and not self.looks_closer(uncertainties):
            method, calibrator = self.band.method, self.band.calibrator
        score = self._score(method, uncertainties)
        return float(calibrator.predict(np.array([score]))[0]) if math.isfinite(score) else math.nan

    def _score(self, method: str, uncertainties: Mapping[str, float]) -> float:
        if method not in uncertainties:
            raise CalibrationError(
                f"this calibration reads the score {method!r}, but only "
                f"{', '.join(sorted(uncertainties)) or 'no scores'} were given"
            )
        return uncertainties[method]

    def point_for_risk(self, max_risk: float) -> OperatingPoint | None:
        """Return the point that keeps most of those certified for a risk of at most `max_risk`.

        None when there is none: of the usual risks, none that low could be certified.

        Raises
        ------
        CalibrationError
            When `max_risk` is not in [0, 1].
        """
        if not 0.0 <= max_risk <= 1.0:
            raise CalibrationError(f"max_risk must be from 0 to 1, not {max_risk!r}")
        certified = [
            point
            for point in self.operating_points
            if point.certificate is not None
            and all(
                claim.kind == "risk" and claim.bound <= max_risk
                for claim in point.certificate.claims
            )
        ]
        return max(certified, key=lambda point: point.n_kept, default=None)

    def threshold_for_risk(self, max_risk: float) -> float | None:
        """Return the threshold of `point_for_risk`; None when there is none."""
        point = self.point_for_risk(max_risk)
        return None if point is None else point.threshold

    def check(self, binding: Binding) -> list[str]:
        """Compare with what is loaded now; return warnings (another engine build).

        Raises
        ------
        ArtifactMismatch
            When model, quantisation, chat template, a sampler setting, or the version of an
            estimator that the method reads differs; its `differences` name every one.
        """
        return self.binding.check(binding, self.needs)

    def summary(self) -> dict[str, Any]:
        """Return what `GET /v1/calibration` shows: all but the calibrator's own parameters."""
        content = self._content()
        content["calibrator"] = {"kind": content["calibrator"].get("kind", "")}
        content["learned"] = {
            "probes": sorted(self.learned.probes),
            "stacks": {name: list(stack.needs) for name, stack in self.learned.stacks.items()},
        }
        if self.band is not None:
            content["band"]["calibrator"] = {"kind": content["band"]["calibrator"].get("kind", "")}
        return {
            "id": self.id,
            "threshold": self.threshold,
            "min_kept": MIN_KEPT,
            "certificate": content["operating_point"]["certificate"],
            **content,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content, `id` included; `from_dict` is the inverse."""
        return {"id": self.id, **self._content()}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        probes: Mapping[str, Reader] | None = None,
        source: str = "the calibration",
    ) -> Calibration:
        """Rebuild a calibration from `to_dict`'s output and its probes.

        `source` names it in errors.

        Raises
        ------
        ArtifactError
            When a field is missing, unknown or of the wrong type, the format is another one, or the
            content is not what its `id` says.
        """
        if "format" in data and data["format"] != FORMAT:
            raise ArtifactError(
                f"{source} has format {data['format']!r}, but this version reads format {FORMAT}; "
                "run `router calibrate` again, or install the version that wrote it"
            )
        content = {name: value for name, value in data.items() if name != "id"}
        try:
            calibration = _calibration_type().validate_json(
                json.dumps(content), strict=True, context=load_context(probes or {})
            )
        except ValidationError as error:
            raise ArtifactError(f"{source} can't be used: {_what_is_wrong(error)}") from error
        except CalibrationError as error:  # what a part of it refuses
            raise ArtifactError(f"{source} can't be used: {error}") from error
        there, meant = _fields(data), _fields(calibration.to_dict())
        if there != meant:  # filled by a default above, or unknown to a calibrator
            problems = [f"the field {field} is missing" for field in sorted(meant - there)]
            problems += [f"the field {field} is unknown" for field in sorted(there - meant)]
            raise ArtifactError(f"{source} can't be used: {'; '.join(problems)}")
        if data["id"] != _content_hash(content):
            raise ArtifactError(
                f"{source} has been altered: its id is {data['id']}, but its content hashes to "
                f"{_content_hash(content)}; restore the original or run `router calibrate` again"
            )
        return calibration

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``calibration.json`` into `folder` (made when missing) and return its path.

        Probes go into ``probe.safetensors`` beside it. Each file is replaced in one step: a reader
        sees the old one or the new one, never half, and refuses two that don't belong together.
        Another calibration that was in `folder` is kept; see `calibration.versions`.
        """
        from calibration.versions import keep  # noqa: PLC0415 - it reads calibrations itself

        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        keep(path.parent, self)
        if self.learned.readers:
            save_probes(path.with_name(PROBE_FILE_NAME), self.learned.readers)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        fresh = path.with_name(f".{FILE_NAME}.{os.getpid()}.tmp")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
        if not self.learned.readers:  # those of an earlier calibration in this folder
            path.with_name(PROBE_FILE_NAME).unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Calibration:
        """Read the calibration in `folder`.

        Raises
        ------
        ArtifactError
            When there is none, it can't be read, or `from_dict` refuses it.
        """
        path = Path(folder) / FILE_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            raise ArtifactError(
                f"there is no calibration at {path}; make one with `router calibrate`, or point "
                "`calibration` at a folder that holds one"
            ) from None
        except OSError as error:
            raise ArtifactError(f"{path} can't be read: {error.strerror}") from error
        except ValueError as error:  # not JSON, or not UTF-8
            raise ArtifactError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise ArtifactError(f"{path} holds no JSON object")
        probe_path = path.with_name(PROBE_FILE_NAME)
        probes = load_probes(probe_path) if probe_path.exists() else {}
        return cls.from_dict(data, probes=probes, source=str(path))

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = _calibration_type().dump_python(self, mode="json")
        return content


_adapters: list[TypeAdapter[Calibration]] = []


def _calibration_type() -> TypeAdapter[Calibration]:
    if not _adapters:  # built once, on first use: its schema needs the finished class
        _adapters.append(TypeAdapter(Calibration))
    return _adapters[0]


def _content_hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _fields(value: Any, path: str = "") -> set[str]:
    """Return the dotted names of all fields in a JSON value."""
    children: Iterable[tuple[object, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    found: set[str] = set()
    for name, child in children:
        found |= {f"{path}{name}"} | _fields(child, f"{path}{name}.")
    return found


def _what_is_wrong(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            problems.append(f"the field {field} is missing")
        elif problem["type"] == "unexpected_keyword_argument":
            problems.append(f"the field {field} is unknown")
        else:
            problems.append(f"the field {field} is wrong: {problem['msg']}")
    return "; ".join(problems)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")
