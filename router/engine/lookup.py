"""Prompt lookup: the text goes on as it did the last time it said the same.

References
----------
Saxena, "Prompt Lookup Decoding", 2023.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from router.engine.draft import Ask

_SHORTEST = 3
"""Equal tokens that make a place worth guessing from."""

_LONGEST = 8
"""Equal tokens beyond which no other place is looked for."""

_MOST_PLACES = 32
"""The latest ones are looked at; a text that goes round in a circle has one at every token."""

_MOST_MISSES = 3
"""Wrong tokens in a row, or nearly so, after which a place is given up."""

_RUNS = (0, 1, 2, 3, 4, 6, 9, 16)
_CHANCES = (0.3, 0.45, 0.55, 0.55, 0.7, 0.85, 0.93, 0.97)
"""How often a guess comes true after so many equal tokens or more, before anything was seen."""

_PRIOR_WEIGHT = 4.0
"""How many outcomes these chances are worth."""

_REMEMBER = 0.97
"""What an outcome weighs after one more of its kind."""


class PromptLookup:
    """Guesses from the text so far; no model is needed.

    It follows an earlier place of the text that says the same: of the latest ones the one with
    most equal tokens before it. Where the answer then says something else, as in an edit, it goes
    on behind the replaced token until another place says more of the same. When the place is so
    near that what followed it is shorter than what is asked for, the text is taken to go round in
    that circle.

    At each token it notes whether it would have been right, also where it guessed nothing. So it
    knows what its guesses are worth without paying for them, and guesses no more than pays.
    """

    seconds_per_guess = 0.0
    """Some microseconds in truth."""

    judges_itself = True

    def __init__(self, n_slots: int) -> None:
        self._histories = [_History() for _ in range(n_slots)]

    def propose(self, asks: Sequence[Ask]) -> list[list[int]]:
        guesses = []
        for ask in asks:
            history = self._histories[ask.seq]
            history.follow(ask.tokens)
            guesses.append(history.guess(ask.worth(history.chances(ask.most))))
        return guesses

    def close(self) -> None:
        self._histories.clear()


class _History:
    """The tokens of one slot, the place in them that is followed, and how well that went."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}
        """Where each run of `_SHORTEST` tokens was last followed by something."""
        self._earlier: list[int] = [0]
        """For each place the one before it after the same run; 0 for none."""
        self._forget_place()
        self._seen = [(0.0, 0.0)] * len(_RUNS)
        """Right guesses and all guesses, by the equal tokens before them."""

    def _forget_place(self) -> None:
        self._place = 0
        """The token here is the guess; 0 for none."""
        self._run = 0
        """Tokens before it that are equal, as far as they were counted."""
        self._misses = 0

    def follow(self, tokens: Sequence[int]) -> None:
        """Take in what is new in `tokens`; everything, when they don't begin as the last did."""
        known = len(self._tokens)
        # All of them are compared: that is 20 us for 4,000 tokens, and nothing less is sure.
        if not known or len(tokens) < known or list(tokens[:known]) != self._tokens:
            self._clear()
            for token in tokens[:-1]:
                self._append(token)
            known = max(0, len(tokens) - 1)
        for token in tokens[known:]:
            self._step(token)

    def chances(self, most: int) -> list[float]:
        """The chance of each of `most` guesses, if those before it are right; none for no place."""
        return [self._chance(self._run + i) for i in range(most if self._place else 0)]

    def guess(self, n: int) -> list[int]:
        """What follows the place, `n` tokens; there must be one unless `n` is 0."""
        circle = len(self._tokens) - self._place
        return [self._tokens[self._place + i % circle] for i in range(n)]

    def _chance(self, run: int) -> float:
        kind = bisect_right(_RUNS, run) - 1
        right, seen = self._seen[kind]
        return (right + _PRIOR_WEIGHT * _CHANCES[kind]) / (seen + _PRIOR_WEIGHT)

    def _step(self, token: int) -> None:
        """The next token: was it what would have been guessed, and what is to be guessed now?"""
        if self._place:
            self._compare(token)
        self._tokens.append(token)
        if self._run < _LONGEST:
            place, run = self._find()
            if run > self._run:
                self._place, self._run, self._misses = place, run, 0
        self._index()

    def _compare(self, token: int) -> None:
        is_right = self._tokens[self._place] == token
        kind = bisect_right(_RUNS, self._run) - 1
        right, seen = self._seen[kind]
        self._seen[kind] = (_REMEMBER * right + is_right, _REMEMBER * seen + 1.0)
        self._place += 1
        if is_right:
            self._run += 1
            if self._run > _SHORTEST:
                self._misses = 0
        else:
            self._run = 0
            self._misses += 1
            if self._misses > _MOST_MISSES:
                self._forget_place()

    def _find(self) -> tuple[int, int]:
        """Of the latest places the one with most equal tokens before it, and how many."""
        best, most = 0, 0
        place = self._latest.get(tuple(self._tokens[-_SHORTEST:]), 0)
        for _ in range(_MOST_PLACES):
            if not place or most == _LONGEST:
                break
            run = self._equal_before(place)
            if run > most:
                best, most = place, run
            place = self._earlier[place]
        return best, most

    def _equal_before(self, place: int) -> int:
        here, there, n = len(self._tokens), place, 0
        while n < min(_LONGEST, place) and self._tokens[there - 1] == self._tokens[here - 1]:
            here, there, n = here - 1, there - 1, n + 1
        return n

    def _append(self, token: int) -> None:
        self._tokens.append(token)
        self._index()

    def _index(self) -> None:
        """Remember the end of the tokens as a place."""
        end = len(self._tokens)
        if end < _SHORTEST:
            self._earlier.append(0)
            return
        key = tuple(self._tokens[-_SHORTEST:])
        self._earlier.append(self._latest.get(key, 0))
        self._latest[key] = end
