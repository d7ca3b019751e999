"""A query on its way through the router: the values that travel between its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from router.account import ANONYMOUS, Account
from router.engine.messages import GREEDY, Completion, Message, Sampler, TextDelta
from uq.trace import Trace

Mode = Literal["auto", "local", "remote"]
Route = Literal["local", "remote"]
StreamMode = Literal["hold", "commit"]
Reason = Literal[
    "confident",
    "uncertain",
    "gated",
    "stopped",
    "capability",
    "policy",
    "budget",
    "busy",
    "drift",
    "upstream_down",
    "no_upstream",
    "uncalibrated",
]


@dataclass(frozen=True, slots=True)
class Need:
    """Something the request asks for that the local model lacks.

    `param` is the request field (``tools``), `what` completes "asks for ..." (``tool calls``).
    """

    param: str
    what: str


@dataclass(frozen=True, slots=True)
class Query:
    """One question with its policy.

    Attributes
    ----------
    body : the OpenAI request as received, without its `router` object; what an upstream is sent.
    mode : ``auto`` routes; ``local`` and ``remote`` are the caller's own choice.
    threshold : overrides the calibration's threshold, in [0, 1].
    max_risk : asks for the threshold whose measured error among kept answers is at most this.
    local_only : the query must not leave the machine, whatever the scores say.
    estimators : further uncertainty scores to report; None reports all free ones.
    needs : what the local model can't do; not empty means reason ``capability``.
    tenant : who asks; answers, and what was read of prompts, are shared within a tenant only.
    account : what was agreed with who asks.
    stream_mode : when a streamed answer is decided on: ``hold`` when it is whole, ``commit`` after
        its first tokens.
    n : how many answers are wanted; the first decides for all.
    tools : names of the tools that a local answer may call; None reads no calls in it.
    """

    messages: tuple[Message, ...]
    body: Mapping[str, Any]
    mode: Mode = "auto"
    sampler: Sampler = GREEDY
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    threshold: float | None = None
    max_risk: float | None = None
    local_only: bool = False
    estimators: tuple[str, ...] | None = None
    needs: tuple[Need, ...] = ()
    tenant: str = ""
    account: Account = ANONYMOUS
    stream_mode: StreamMode = "hold"
    n: int = 1
    tools: frozenset[str] | None = None

    @property
    def comes_whole(self) -> bool:
        """Whether a local answer can't be shown piece by piece, even in a stream."""
        return self.n > 1 or self.tools is not None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one leg.

    Attributes
    ----------
    cached_tokens : of the prompt, those that were found in a cache instead of being read.
    accepted_tokens, rejected_tokens : of speculative decoding, the right and the wrong guesses.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    @classmethod
    def of(cls, *completions: Completion) -> Usage:
        """What local answers to one prompt took."""
        n_accepted = sum(each.n_accepted for each in completions)
        return cls(
            prompt_tokens=completions[0].trace.n_prompt,
            completion_tokens=sum(len(each.trace) for each in completions),
            cached_tokens=completions[0].n_reused,
            accepted_tokens=n_accepted,
            rejected_tokens=sum(each.n_guessed for each in completions) - n_accepted,
        )


@dataclass(frozen=True, slots=True)
class BudgetNote:
    """What the limits on money had to do with a decision.

    Attributes
    ----------
    limit : the tightest of those that apply: ``key/day``, ``gateway/month`` ...
    usd_left : of it, before this query; None where that is nobody's business but the operator's.
    threshold_moved : the threshold was lowered so that the money lasts.
    threshold_wanted : what it would have been otherwise; None for unknown, or not moved.
    """

    limit: str
    usd_left: float | None = None
    threshold_moved: bool = False
    threshold_wanted: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the answer comes from and why.

    `p_correct` is None when no local answer was made or its score is unknown; `threshold` is None
    when there is no calibration, or when no threshold reaches the risk asked for.
    `degraded` is true when the answer is not the one the policy wanted.
    `certificate` is what is certain of the rule that decided, as it was used; None for nothing.
    `budget` is None where no limit on money applies.
    """

    route: Route
    reason: Reason
    degraded: bool = False
    p_correct: float | None = None
    threshold: float | None = None
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    calibration: str | None = None
    calibrated_sampler: bool = True
    certificate: Mapping[str, Any] | None = None
    budget: BudgetNote | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a local answer's choices, and what shows its log-probabilities."""

    text: str
    finish_reason: str
    trace: Trace | None = None
    pieces: tuple[bytes, ...] = ()
    top_pieces: tuple[tuple[bytes, ...], ...] = ()

    @classmethod
    def of(cls, completion: Completion) -> Choice:
        """What the engine made."""
        trace = completion.trace
        return cls(trace.text, trace.finish_reason, trace, completion.pieces, completion.top_pieces)


@dataclass(frozen=True, slots=True)
class Answer:
    """A routed answer. `remote_body` is the upstream's own response object when route is remote,
    `upstream` the name of who gave it.

    `timings_ms` has the keys queue, prefill, decode, uq, remote, total. `others` are a local
    answer's further choices, of a query that wants several.
    """

    text: str
    finish_reason: str
    decision: Decision
    usage_local: Usage | None
    usage_remote: Usage | None
    cost_usd: float
    saved_usd: float
    timings_ms: Mapping[str, float]
    trace: Trace | None = None
    pieces: tuple[bytes, ...] = ()
    top_pieces: tuple[tuple[bytes, ...], ...] = ()
    remote_body: Mapping[str, Any] | None = None
    upstream: str = ""
    others: tuple[Choice, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All of a local answer's choices, the one that was judged first."""
        first = Choice(self.text, self.finish_reason, self.trace, self.pieces, self.top_pieces)
        return (first, *self.others)


@dataclass(frozen=True, slots=True)
class RemoteChunk:
    """One `chat.completion.chunk` of the upstream's stream, passed through as it came."""

    body: Mapping[str, Any]


StreamEvent = Decision | TextDelta | RemoteChunk | Answer
"""One Decision, then TextDeltas (local) or RemoteChunks (remote), last the Answer."""
