"""What `serve` says when it is ready: pure text from facts."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from router.config import Settings, listens_here_only
from router.engine.messages import EngineInfo
from router.upstreams.entry import UpstreamEntry
from router.urls import public_url


class CalibrationFacts(Protocol):
    """What is told of a calibration: `calibration.artifact.Calibration`, as far as we read it."""

    @property
    def id(self) -> str: ...

    def summary(self) -> Mapping[str, Any]: ...


NO_CALIBRATION = "none for this model: p_correct is unknown (`router calibrate` makes one)"
_LABEL = 13


def banner(
    info: EngineInfo,
    calibration: CalibrationFacts | None,
    settings: Settings,
    url: str,
    warnings: Sequence[str] = (),
) -> list[str]:
    """Return the lines: what is loaded, where it listens, and one `curl` to try.

    `warnings` are what an operator should know of the calibration.
    """
    rows = {
        "model": f"{describe_model(info)}, {settings.model}",
        "engine": f"{info.offload}, {info.n_threads} threads, {info.n_slots} slots of "
        f"{info.n_context} tokens",
        "calibration": describe_calibration(calibration),
        "upstream": _upstream(settings),
        "cache": _cache(settings),
        "access": _access(settings),
        "listening": url,
    }
    told = [*rows.items(), *(("warning", text) for text in warnings)]
    return [*(f"  {name:<{_LABEL}}{text}" for name, text in told), "", "  try", _curl(url)]


def describe_model(info: EngineInfo) -> str:
    """``SmolLM2 135M Instruct, Q4_1, 98 MB``."""
    return f"{info.model_name}, {info.quantisation}, {file_size(info.model_path)}"


def file_size(path: str | os.PathLike[str]) -> str:
    """A file's size for people, in the units of disks and downloads: ``98 MB``, ``1.2 GB``."""
    n = os.stat(path).st_size
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def describe_calibration(calibration: CalibrationFacts | None) -> str:
    """Id, target and threshold of a calibration, what it measured, and what is certain of it."""
    if calibration is None:
        return NO_CALIBRATION
    summary = calibration.summary()
    point = summary["operating_point"]
    kept = point["accuracy_kept"]
    right = "nothing kept" if kept is None else f"{kept:.0%} of the kept ones right"
    return (
        f"{calibration.id[:19]}, target {point['target']}: keep at p_correct >= "
        f"{summary['threshold']:.3f}; on {point['n']} test answers {point['escalation_ratio']:.0%} "
        f"escalated, {right}; {describe_certainty(summary)}"
    )


def describe_certainty(summary: Mapping[str, Any]) -> str:
    """What is certified for questions of which population, in few words, or that nothing is.

    `summary` is `calibration.artifact.Calibration.summary`.
    """
    certificate, population = summary["certificate"], summary["population"]
    by = (
        ""
        if summary["labels"] == "gold"
        else f", where right is what {summary['labelled_by']} says"
    )
    if certificate is None:
        return f"nothing certified, measured on {population}{by}"
    targets = " and ".join(claim["target"] for claim in certificate["claims"])
    return (
        f"certified with {100 * certificate['confidence']:g}% confidence: {targets}, for questions "
        f"drawn like {certificate['population']}{by}"
    )


def _upstream(settings: Settings) -> str:
    entries = settings.upstream_entries()
    if not entries:
        return "none: every answer is local (--upstream URL sets one)"
    return "; ".join(_entry(entry, alone=len(entries) == 1) for entry in entries)


def _entry(entry: UpstreamEntry, *, alone: bool) -> str:
    model = f", model {entry.model}" if entry.model else ""
    return ("" if alone else f"{entry.name} at ") + public_url(entry.url) + model


def _cache(settings: Settings) -> str:
    if settings.redis_url is not None:
        return f"redis at {public_url(settings.redis_url)}, {settings.cache_ttl} s"
    if settings.cache_size == 0:
        return "off"
    return f"memory, {settings.cache_size} answers for {settings.cache_ttl} s"


def _access(settings: Settings) -> str:
    if settings.auth == "off":
        return "everybody who reaches it, since auth = off"
    if settings.auth == "required" or not listens_here_only(settings.host):
        return "by API key (`router keys create NAME` makes one)"
    return "from this machine; by API key once there is one"


def _curl(url: str) -> str:
    question = {"role": "user", "content": "What is the chemical symbol for gold?"}
    body = json.dumps({"model": "auto", "max_tokens": 64, "messages": [question]})
    return (
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d {shlex.quote(body)}"
    )
