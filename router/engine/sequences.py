"""Which of the cache's sequences a request gets, and what it need not read again there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WORTH_COPYING = 16
"""Tokens that must be saved before a sequence is copied: that takes as long as reading a few."""


@dataclass(frozen=True, slots=True)
class Held:
    """The tokens that a sequence's cache holds, and whose they are."""

    tenant: str = ""
    tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes.

    Attributes
    ----------
    seq : its sequence.
    n_shared : how many of the prompt's first tokens are found in a cache.
    source : the sequence that holds them; `seq` itself when nothing needs to be copied.
    """

    seq: int
    n_shared: int
    source: int


class Sequences:
    """The cache's `n` sequences: those in use, and what the free ones still hold.

    A finished request's tokens stay until another request needs the sequence; the one free for the
    longest goes first. Tokens are found again by their own tenant only: how fast an answer begins
    tells what was asked before.
    """

    def __init__(self, n: int) -> None:
        self._held = [Held() for _ in range(n)]
        self._free = list(range(n))  # the longest free first
        self._in_use: set[int] = set()

    @property
    def n_free(self) -> int:
        """How many requests there is room for."""
        return len(self._free)

    def take(self, tenant: str, prompt: Sequence[int], live: Mapping[int, Held]) -> Place:
        """A free sequence for `prompt`, now in use.

        Parameters
        ----------
        live : what the sequences in use hold by now.
        """
        found = {seq: self._held[seq] for seq in self._free} | dict(live)
        shared = {
            seq: common_prefix(held.tokens, prompt) if held.tenant == tenant else 0
            for seq, held in found.items()
        }
        source = max(shared, key=lambda seq: shared[seq])
        goes_on = 2 * shared[source] > len(found[source].tokens)
        seq = min(self._free, key=lambda seq: (self._runs_with(seq), not goes_on or seq != source))
        n_shared = shared[source]
        if seq != source and n_shared < shared[seq] + WORTH_COPYING:
            n_shared, source = shared[seq], seq
        self._use(seq)
        return Place(seq, n_shared, source)

    def take_neighbour(self) -> int:
        """A free sequence whatever it holds, now in use."""
        seq = min(self._free, key=self._runs_with)
        self._use(seq)
        return seq

    def neighbours(self, n: int) -> list[int]:
        """At most `n` free sequences to borrow, which then hold nothing."""
        borrowed = sorted(self._free, key=self._runs_with)[:n]
        for seq in borrowed:
            self._held[seq] = Held()
        return borrowed

    def release(self, seq: int, held: Held) -> None:
        """The sequence is free; `held` stays in it."""
        self._in_use.discard(seq)
        self._held[seq] = held
        self._free.append(seq)

    def _use(self, seq: int) -> None:
        self._free.remove(seq)
        self._in_use.add(seq)
        self._held[seq] = Held()

    def _runs_with(self, seq: int) -> int:
        """Runs of neighbours among those in use and `seq`: llama.cpp computes a run at once."""
        used = self._in_use | {seq}
        return sum(each - 1 not in used for each in used)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with; a few comparisons of whole stretches, not one a token."""
    same, differing = 0, min(len(a), len(b)) + 1
    step = differing - 1
    while differing - same > 1:
        if list(a[same : same + step]) == list(b[same : same + step]):
            same += step
        else:
            differing = same + step
        step = max(1, (differing - same) // 2)
    return same
