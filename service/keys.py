"""Which requests may share an answer, and the key under which they do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from router.answer import Answer, Query

_render = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_NOT_IN_KEY = frozenset({"model", "stream", "stream_options"})
"""How an answer is delivered does not change it; the mode stands for the model."""

_COMPLETE = frozenset({"stop", "length"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What answers beside the request: another model or calibration must not be served as this."""

    model_sha256: str
    template_sha256: str
    n_context: int
    calibration: str | None
    upstream: str | None
    upstream_model: str


def tenant_of(headers: Mapping[str, str]) -> str:
    """Return who asks: a digest of the ``Authorization`` header, empty without one."""
    given = headers.get("authorization", "").strip()
    return hashlib.sha256(given.encode()).hexdigest()[:16] if given else ""


def cache_key(query: Query, facts: Facts) -> str:
    """Return the SHA-256, in hex, over everything that the answer depends on.

    The whole request is in it, with system prompt, tools and the caller's own fields such as
    ``user``; fields that are null count as absent.
    """
    whole = {
        "tenant": query.tenant,
        "facts": _plain(facts),
        "mode": query.mode,
        "policy": [
            query.threshold,
            query.max_risk,
            query.local_only,
            query.estimators,
            query.stream_mode,
        ],
        "body": {
            name: value
            for name, value in query.body.items()
            if name not in _NOT_IN_KEY and value is not None
        },
    }
    return hashlib.sha256(_render(whole).encode()).hexdigest()


@lru_cache(maxsize=4)  # they change with the calibration
def _plain(facts: Facts) -> dict[str, Any]:
    return asdict(facts)


def shareable(query: Query, headers: Mapping[str, str]) -> bool:
    """Tell whether this request may be answered with another's answer, and keep its own.

    Not when it is sampled without a seed: who asks for chance gets it afresh. And not when the
    caller forbids it with ``Cache-Control: no-cache`` or ``no-store``.
    """
    directives = {part.strip().lower() for part in headers.get("cache-control", "").split(",")}
    chance = query.sampler.temperature > 0 and query.sampler.seed is None
    return not chance and directives.isdisjoint({"no-cache", "no-store"})


def worth_keeping(answer: Answer) -> bool:
    """Tell whether the cache may keep `answer`: complete, successful, what the policy wanted."""
    whole = answer.decision.route == "local" or answer.remote_body is not None
    return whole and not answer.decision.degraded and answer.finish_reason in _COMPLETE
