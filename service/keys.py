"""Which requests may share an answer, for how long, and the key under which they do."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from router.answer import Answer, Decision, Query

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
    answer_tokens: int
    calibration: str | None
    upstream: str | None
    upstream_model: str


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one request has to do with the cache.

    Attributes
    ----------
    key : under which its answer is shared; None shares nothing.
    reads : whether it may be answered with what is kept, or by an identical request under way.
    keeps : whether its own answer may be kept.
    max_age : seconds since when a kept answer may have been made.
    facts : what the key was made of, beside the request.
    """

    key: str | None
    reads: bool = True
    keeps: bool = True
    max_age: float = math.inf
    facts: Facts | None = None

    def key_under(self, facts: Facts, query: Query) -> str:
        """Return the key under which an answer to `query` is kept that was decided by `facts`."""
        if self.key is not None and facts == self.facts:
            return self.key
        return cache_key(query, facts)


UNSHARED = CacheUse(None, reads=False, keeps=False)

_MAX_AGE = re.compile(r"max-age=(\d{1,10})")


def tenant_of(headers: Mapping[str, str]) -> str:
    """Return who asks: a digest of the ``Authorization`` header, empty without one."""
    given = headers.get("authorization", "").strip()
    return hashlib.sha256(given.encode()).hexdigest()[:16] if given else ""


def cache_key(query: Query, facts: Facts) -> str:
    """Return ``TENANT:CALIBRATION:HASH``; the hash is over everything that the answer depends on.

    By its first two parts answers can be purged. The whole request is in it, with system prompt,
    tools and the caller's own fields such as ``user``; fields that are null count as absent.
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
    digest = hashlib.sha256(_render(whole).encode()).hexdigest()
    return f"{query.tenant}:{calibration_part(facts.calibration)}:{digest}"


def calibration_part(calibration: str | None) -> str:
    """Return the part of a key that names the calibration of this id."""
    return (calibration or "").removeprefix("sha256:").partition(" ")[0][:12]


@lru_cache(maxsize=4)  # they change with the calibration
def _plain(facts: Facts) -> dict[str, Any]:
    return asdict(facts)


def cache_use(query: Query, facts: Facts, headers: Mapping[str, str]) -> CacheUse:
    """Return what this request has to do with the cache.

    Nothing when it is sampled without a seed: who asks for chance gets it afresh. Otherwise its
    ``Cache-Control`` says: ``no-store`` nothing either, ``no-cache`` an answer made afresh and
    kept, ``max-age=N`` one that was made within N seconds. Other directives mean nothing here.
    """
    directives = [part.strip().lower() for part in headers.get("cache-control", "").split(",")]
    chance = query.sampler.temperature > 0 and query.sampler.seed is None
    if chance or "no-store" in directives:
        return UNSHARED
    ages = [int(found[1]) for part in directives if (found := _MAX_AGE.fullmatch(part))]
    max_age = 0 if "no-cache" in directives else min(ages, default=math.inf)
    return CacheUse(cache_key(query, facts), reads=max_age > 0, max_age=max_age, facts=facts)


def worth_keeping(answer: Answer) -> bool:
    """Tell whether the cache may keep `answer`: complete, successful, what the policy wanted.

    Not one that was kept only so that money lasts: there may be more of it when it is asked again.
    """
    decision = answer.decision
    whole = decision.route == "local" or answer.remote_body is not None
    wanted = not decision.degraded and not kept_for_money(decision)
    return whole and wanted and answer.finish_reason in _COMPLETE


def kept_for_money(decision: Decision) -> bool:
    """Tell whether the answer was kept that would have been escalated had there been more money."""
    note, p_correct = decision.budget, decision.p_correct
    if note is None or not note.threshold_moved or decision.route == "remote":
        return False
    wanted = note.threshold_wanted
    return wanted is None or p_correct is None or p_correct < wanted
