"""Where the engine's time goes, added up since it was started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Meter:
    """Counts and seconds; the engine's thread adds to them, any thread may read.

    Attributes
    ----------
    steps : batches of answers' tokens that were decoded.
    seconds_loop : of those steps, all included.
    seconds_decode : that llama.cpp took for them.
    seconds_prefill : that llama.cpp took to read prompts.
    seconds_statistics : reading the distributions of the answers' tokens.
    seconds_sampling : choosing the tokens.
    seconds_text : tokens to text that may be shown.
    seconds_guessing : of the drafter.
    reused : prompt tokens that were found in the cache instead of being read.
    guessed, accepted : tokens of speculative decoding.
    """

    steps: int = 0
    seconds_loop: float = 0.0
    seconds_decode: float = 0.0
    seconds_prefill: float = 0.0
    seconds_statistics: float = 0.0
    seconds_sampling: float = 0.0
    seconds_text: float = 0.0
    seconds_guessing: float = 0.0
    reused: int = 0
    guessed: int = 0
    accepted: int = 0

    @contextlib.contextmanager
    def token_step(self) -> Iterator[None]:
        """Time one step."""
        began = time.perf_counter()
        yield
        self.steps += 1
        self.seconds_loop += time.perf_counter() - began

    def snapshot(self) -> Mapping[str, float]:
        """The values by name."""
        return asdict(self)
