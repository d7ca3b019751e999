"""Everything that can go wrong between a query and its answer.

RouterError
├── ConfigError              a setting is unknown, malformed or contradicts another
├── ModelError               the model can't be found, fetched, verified or loaded
├── EngineError              the local engine could not answer
│   ├── PromptTooLong        the prompt does not fit the engine's context
│   ├── TemplateRefused      the model's chat template does not accept the conversation
│   ├── EngineBusy           all slots are taken, and the wait queue is full or too slow
│   └── EngineDown           the engine process died or is being restarted
├── UpstreamError            the remote LLM could not answer
│   ├── UpstreamUnavailable  refused, timed out, reset, or kept answering 429/5xx
│   │   └── UpstreamBusy     it is being asked for as much at once as it may be
│   └── UpstreamRejected     the upstream judged the request itself to be wrong (4xx)
├── BudgetSpent              what the upstream may cost is spent, and there is no local answer
├── LedgerError              decisions and labels can't be kept, or not be read
├── KeyStoreError            the file of API keys can't be used, or lacks what was asked of it
└── CapabilityError          the request needs what the local model lacks, and there is no upstream

Errors about data, grading and calibration artifacts are in `calibration.errors`.
"""

from __future__ import annotations

from datetime import UTC, datetime


class RouterError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(RouterError):
    """A setting is unknown, malformed or contradicts another."""


class ModelError(RouterError):
    """The model can't be found, fetched, verified or loaded."""


class EngineError(RouterError):
    """The local engine could not answer."""


class PromptTooLong(EngineError):
    """The prompt does not fit the engine's context."""

    def __init__(self, n_prompt: int, context: int) -> None:
        super().__init__(
            f"the prompt has {n_prompt} tokens and at least one more is needed for the answer, "
            f"but the context holds {context}; shorten the prompt or raise `context`"
        )
        self.n_prompt = n_prompt
        self.context = context

    def __reduce__(self) -> tuple[type[PromptTooLong], tuple[int, int]]:
        return type(self), (self.n_prompt, self.context)


class ContinuationTooLong(EngineError):
    """A text to score has more tokens than the engine reads at once."""

    def __init__(self, n_tokens: int, most: int) -> None:
        super().__init__(f"a continuation of {n_tokens} tokens can't be scored; {most} is the most")
        self.n_tokens = n_tokens
        self.most = most

    def __reduce__(self) -> tuple[type[ContinuationTooLong], tuple[int, int]]:
        return type(self), (self.n_tokens, self.most)


class TemplateRefused(EngineError):
    """The model's chat template does not accept the conversation."""


class EngineBusy(EngineError):
    """All slots are taken, and the wait queue is full or too slow. `retry_after` is in seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f"the local engine is busy: {waiting} requests are already waiting; "
            f"try again in {retry_after:.0f} s"
        )
        self.waiting = waiting
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[EngineBusy], tuple[int, float]]:
        return type(self), (self.waiting, self.retry_after)


class EngineDown(EngineError):
    """The engine process died or is being restarted."""


class UpstreamError(RouterError):
    """The remote LLM could not answer."""


class UpstreamUnavailable(UpstreamError):
    """The upstream refused, timed out, was reset, or kept answering 429/5xx.

    `retry_after` is in seconds: when it may be asked again; None when nobody knows.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UpstreamBusy(UpstreamUnavailable):
    """This gateway has as many requests under way to the upstream as it may have."""


class UpstreamRejected(UpstreamError):
    """The upstream judged the request itself to be wrong; carries its status and error body."""

    def __init__(self, status: int, body: dict[str, object]) -> None:
        super().__init__(f"the upstream rejected the request with status {status}: {body}")
        self.status = status
        self.body = body


class BudgetSpent(RouterError):
    """What the upstream may cost is spent, and there is no local answer to give instead.

    `limit` is the one that is used up, ``key/day``; `ends` when it begins anew, in seconds since
    1970.
    """

    def __init__(self, limit: str, ends: float) -> None:
        self.limit = limit
        self.ends = ends
        whose, _, period = limit.partition("/")
        begins_anew = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d %H:%M UTC")
        who = "this key" if whose == "key" else "this gateway"
        super().__init__(
            f"what {who} may spend on the remote model each {period} is spent; "
            f"it begins anew on {begins_anew}"
        )

    def __reduce__(self) -> tuple[type[BudgetSpent], tuple[str, float]]:
        return type(self), (self.limit, self.ends)


class LedgerError(RouterError):
    """Decisions, labels and shared states can't be kept now, or not be read."""


class KeyStoreError(RouterError):
    """The file of API keys can't be used, or what was asked of it can't be done."""


class CapabilityError(RouterError):
    """The request needs what the local model lacks, and no upstream may take it.

    `param` names the request field, `need` says what it asks for, `why` why it can't go elsewhere.
    """

    def __init__(
        self,
        param: str,
        need: str,
        why: str = "no upstream is configured; set `upstream` or leave it out",
    ) -> None:
        super().__init__(
            f"`{param}` asks for {need}, which the local model does not support, and {why}"
        )
        self.param = param
        self.need = need
