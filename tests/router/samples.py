"""Hand-made values that the command line's tests show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.answer import Answer, Decision, Usage
from router.engine.messages import EngineInfo
from uq.trace import Trace


def trace(*pieces: tuple[str, float], text: str | None = None) -> Trace:
    """A trace whose tokens are the given pieces of text with their probabilities."""
    offsets = []
    so_far = ""
    for piece, _ in pieces:
        offsets.append(len(so_far))
        so_far += piece
    n = len(pieces)
    return Trace(
        text=so_far if text is None else text,
        tokens=list(range(n)),  # type: ignore[arg-type]  # Trace turns sequences into arrays
        offsets=offsets,  # type: ignore[arg-type]
        logprobs=[math.log(p) if p == p else p for _, p in pieces],  # type: ignore[arg-type]
        entropies=[0.0] * n,  # type: ignore[arg-type]
        margins=[0.0] * n,  # type: ignore[arg-type]
        top_ids=[[] for _ in range(n)],  # type: ignore[arg-type]
        top_logprobs=[[] for _ in range(n)],  # type: ignore[arg-type]
        end_logprob=math.nan,
        finish_reason="stop",
        n_prompt=5,
    )


def answer(seen: Trace | None, *, text: str | None = None, **decision: Any) -> Answer:
    """A local answer of 20 tokens in 200 ms, unless `decision` says otherwise."""
    return Answer(
        text=text if text is not None or seen is None else seen.text,
        finish_reason="stop",
        decision=Decision(**{"route": "local", "reason": "confident", **decision}),
        usage_local=Usage(prompt_tokens=5, completion_tokens=20),
        usage_remote=None,
        cost_usd=0.0,
        saved_usd=0.0,
        timings_ms={"decode": 200.0, "total": 250.0},
        trace=seen,
    )


def engine_info(path: Path) -> EngineInfo:
    """What an engine would say that has loaded `path`."""
    return EngineInfo(
        model_path=str(path),
        model_sha256="ab" * 32,
        model_name="Tiny 1M",
        architecture="llama",
        quantisation="Q4_1",
        template_sha256="cd" * 32,
        n_vocab=100,
        n_layer=4,
        n_context=4096,
        n_slots=8,
        n_threads=2,
        build="llama-cpp-python 0.0",
        offload="cpu",
    )


class Calibrated:
    """A calibration, as far as the command line looks at one."""

    id = "sha256:0123456789abcdef0123456789abcdef"

    def __init__(self, accuracy_kept: float | None = 0.71) -> None:
        self._accuracy_kept = accuracy_kept

    def summary(self) -> Mapping[str, Any]:
        return {
            "threshold": 0.6234,
            "operating_point": {
                "target": "escalation=0.3",
                "escalation_ratio": 0.304,
                "accuracy_kept": self._accuracy_kept,
                "n": 640,
            },
        }
