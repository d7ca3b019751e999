"""Hand-made values that the command line's tests show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
        tokens=np.arange(n),
        offsets=np.array(offsets, dtype=np.int64),
        logprobs=np.array([math.nan if math.isnan(p) else math.log(p) for _, p in pieces]),
        entropies=np.zeros(n),
        margins=np.zeros(n),
        top_ids=np.zeros((n, 0), dtype=np.int64),
        top_logprobs=np.zeros((n, 0)),
        end_logprob=math.nan,
        finish_reason="stop",
        n_prompt=5,
    )


def answer(seen: Trace | None, *, text: str | None = None, **decision: Any) -> Answer:
    """A local answer of 20 tokens in 200 ms, unless `decision` says otherwise."""
    return Answer(
        text=seen.text if text is None and seen is not None else text or "",
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
            "certificate": None,
            "population": "the 1,600 questions of faq.jsonl",
            "labels": "gold",
            "labelled_by": "",
            "operating_point": {
                "target": "escalation=0.3",
                "escalation_ratio": 0.304,
                "accuracy_kept": self._accuracy_kept,
                "n": 640,
            },
        }
