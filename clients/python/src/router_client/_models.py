"""What the gateway says, as frozen values.

Fields that a newer gateway adds are kept and reachable as attributes; fields without a default must
be there, because a client that made them up would be lying.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Route = Literal["local", "remote"]
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


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class FunctionCall(_Value):
    """The function that the model wants called; `arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(_Value):
    """One call that the model asks for."""

    id: str
    type: str = "function"
    function: FunctionCall


class Message(_Value):
    """One turn of a conversation. Only the fields that are given are sent."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None


class Usage(_Value):
    """Tokens read and written. `total_tokens` is None where the gateway leaves it out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None


class RouterUsage(_Value):
    """Tokens of each leg; None for a leg that did not run."""

    local: Usage | None = None
    remote: Usage | None = None


class Timings(_Value):
    """Milliseconds spent per stage; None where a stage did not run."""

    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    uq: float | None = None
    remote: float | None = None
    total: float | None = None


class BudgetInfo(_Value):
    """What limits on money had to do with a decision.

    Attributes
    ----------
    limit : the tightest of those that apply, as ``key/day``.
    usd_left : of it, before this query; None where that is not told.
    threshold_moved : the threshold was lowered so that the money lasts.
    threshold_wanted : what it would have been otherwise; None when it was not moved.
    """

    limit: str
    usd_left: float | None = None
    threshold_moved: bool = False
    threshold_wanted: float | None = None


class RouterInfo(_Value):
    """How the answer came about.

    Attributes
    ----------
    route : who gave the answer.
    reason : why; a plain string when a newer gateway has a reason that this client does not know.
    degraded : true when the answer is not the one the policy wanted, as when the upstream is down.
    p_correct : calibrated probability in [0, 1] that the local answer is correct; None when
        there is no local answer or its score is unknown.
    threshold : the local answer is kept when `p_correct` is at least this; None when there is no
        calibration.
    uncertainty : each estimator's score, higher = less sure; None = unknown.
    calibration : content hash of the calibration used.
    calibrated_sampler : false when the request's sampler is not the one calibrated with.
    certificate : the finite-sample statement behind the threshold.
    budget : what limits on money had to do with it; None where none applies.
    cache : ``hit``, ``miss`` or ``bypass``.
    upstream : name of the upstream that answered; None for a local answer.
    usage : tokens of the local and of the remote leg.
    cost_usd, saved_usd : what the answer cost upstream, and what answering locally saved.
    timings_ms : milliseconds per stage.
    """

    route: Route
    reason: Reason | str
    degraded: bool
    p_correct: float | None = None
    threshold: float | None = None
    uncertainty: Mapping[str, float | None] = Field(default_factory=dict)
    calibration: str | None = None
    calibrated_sampler: bool = True
    certificate: Mapping[str, Any] | None = None
    budget: BudgetInfo | None = None
    cache: Literal["hit", "miss", "bypass"] | str | None = None
    upstream: str | None = None
    usage: RouterUsage = RouterUsage()
    cost_usd: float
    saved_usd: float
    timings_ms: Timings = Timings()


class _Routed(_Value):
    router: RouterInfo

    @property
    def is_local(self) -> bool:
        """Whether the local model answers."""
        return self.router.route == "local"

    @property
    def p_correct(self) -> float | None:
        """Probability that the local answer is correct; short for ``router.p_correct``."""
        return self.router.p_correct


class Answer(_Routed):
    """A routed answer.

    Attributes
    ----------
    text : the answer; empty when the model only asks for tool calls.
    router : who answered, why, and how sure.
    usage : tokens as OpenAI counts them; None when nobody counted.
    finish_reason : ``stop``, ``length``, ``tool_calls`` ...
    model, id : as the gateway or its upstream names them; empty when an upstream does not.
    request_id : the gateway's `X-Request-Id`, to quote when reporting a problem.
    tool_calls : calls that the model asks for; empty for most answers.
    raw : the response object as received; of a stream, the chunk that carried the `router` object.
    """

    text: str
    usage: Usage | None
    finish_reason: str
    model: str
    id: str
    request_id: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    raw: Mapping[str, Any] = Field(repr=False)

    @property
    def message(self) -> Message:
        """The answer as an assistant's turn, to append to the conversation."""
        if self.tool_calls:
            content = self.text or None
            return Message(role="assistant", content=content, tool_calls=self.tool_calls)
        return Message(role="assistant", content=self.text)


class LocalAnswer(_Value):
    """What the local model answered when only the decision was asked for."""

    text: str
    finish_reason: str


class Decision(_Routed):
    """What would happen to a query; nothing was escalated.

    `answer` is the local answer; None when the decision was made without one.
    """

    id: str
    answer: LocalAnswer | None
    request_id: str | None
    raw: Mapping[str, Any] = Field(repr=False)


class Feedback(_Value):
    """How feedback was taken.

    `correct` is what now holds of the local answer; `counted` is false when that changed nothing,
    as when the same was said before.
    """

    id: str
    correct: bool
    counted: bool


class ModelInfo(_Value):
    """One entry of `GET /v1/models`; `id` is what `mode` takes."""

    id: str
    owned_by: str | None = None
    created: int | None = None


class Health(_Value):
    """A probe's answer; true in a condition when `ok`. `raw` is what the gateway told."""

    ok: bool
    status_code: int
    raw: Mapping[str, Any] = Field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.ok


class TextDelta(_Value):
    """A piece of a streamed answer."""

    text: str


class ToolCallDelta(_Value):
    """A piece of the tool call number `index`; only the first piece has `id` and `name`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class StreamEnd(_Value):
    """The stream is complete; this is the whole answer."""

    answer: Answer


StreamEvent = TextDelta | ToolCallDelta | StreamEnd
