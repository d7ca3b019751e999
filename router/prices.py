"""What an upstream's tokens cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings hold prices, and the engine behind `Usage` has settings
    from router.answer import Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens of an upstream: prompt, answer. Both 0: not known."""

    prompt: float = 0.0
    answer: float = 0.0

    @property
    def known(self) -> bool:
        """Whether anybody set them."""
        return self.prompt > 0.0 or self.answer > 0.0

    def cost(self, usage: Usage) -> float:
        """USD that `usage` costs at the upstream."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.answer) / 1e6


FREE = Prices()
"""Of an upstream whose prices nobody set."""
