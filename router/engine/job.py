"""One request on its way through the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from router.engine.draft import Pace
from router.engine.hidden import HiddenSums
from router.engine.messages import Completion, GenerateRequest, Partial, Scores, TextDelta
from router.engine.sampling import TokenChooser, TokenStatistics
from router.engine.sequences import Held
from router.engine.text import AnswerText
from router.errors import EngineError

Event = TextDelta | Partial | Completion | Scores | EngineError
"""What a request's sink is called with; anything but a TextDelta or a Partial is the last."""

Sink = Callable[[Event], None]
"""Called on the engine's thread; must not block."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the scheduler. Made by `Scheduler.submit`."""

    request: GenerateRequest
    prompt: list[int]
    sink: Sink
    max_tokens: int
    submitted: float
    chooser: TokenChooser
    text: AnswerText
    cancelled: bool = False
    seq: int = -1
    n_past: int = 0
    next_token: int | None = None
    tokens: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    statistics: list[TokenStatistics] = field(default_factory=list)
    end_logprob: float = float("nan")
    admitted: float = 0.0
    first_token: float = 0.0
    uq_seconds: float = 0.0
    unsent: str = ""
    """Text that is safe to show and waits to be sent with what follows."""
    sent_at: float = float("-inf")
    looked_at: bool = False
    n_reused: int = 0
    """Prompt tokens that were found in the cache."""
    n_guessed: int = 0
    n_accepted: int = 0
    pace: Pace | None = None
    """How many tokens to guess; None leaves that to who guesses."""
    leader: Job | None = None
    """Another job that is reading the beginning of this one's prompt: to wait for."""
    n_led: int = 0
    """How many tokens of that beginning."""
    n_system: int = 0
    """Length of the prompt's system part, where that is to be kept on disk."""
    hidden: HiddenSums | None = None
    siblings: list[Job] = field(default_factory=list)
    """Jobs of the same prompt that continue from this one's, once it is read."""
    continuations: tuple[tuple[int, ...], ...] = ()
    """To score instead of answering."""

    @property
    def is_prefilling(self) -> bool:
        return self.n_past < len(self.prompt)

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for it any more, nor for what its prompt is read for."""
        return self.cancelled and all(sibling.cancelled for sibling in self.siblings)

    @property
    def held(self) -> Held:
        """What its sequence holds by now."""
        return Held(self.request.tenant, [*self.prompt, *self.tokens][: self.n_past])

    @property
    def follows_states(self) -> bool:
        """Whether the hidden states of its answer's tokens are wanted."""
        return self.request.hidden and self.hidden is not None

    @property
    def is_gated(self) -> bool:
        """Whether the gate, asked at the prompt's end, says that the answer would be wrong."""
        exits, sums = self.request.exits, self.hidden
        if exits is None or exits.gate is None or sums is None:
            return False
        states = sums.result()
        return states is not None and exits.gate.score_states(states) > exits.gate_above

    def is_to_be_looked_at(self, now: float) -> bool:
        """Whether the request's `look` is due."""
        look = self.request.look
        if look is None or self.looked_at:
            return False
        return len(self.tokens) >= look.tokens or now - self.submitted >= look.seconds

    @property
    def is_hopeless(self) -> bool:
        """Whether the answer so far is less sure than a checkpoint allows."""
        if self.request.exits is None:
            return False
        limit = dict(self.request.exits.checkpoints).get(len(self.tokens))
        if limit is None:
            return False
        return -sum(step.logprob for step in self.statistics) / len(self.tokens) > limit
