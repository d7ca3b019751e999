"""Speculative decoding's first half: what may come next, and how much of it is worth checking.

A `Drafter` guesses the next tokens of an answer. The scheduler decodes the guesses together with
the last token and draws every token from the model's own logits, as it would without guesses; a
guess that equals the token drawn has saved a step. Guesses are plain tokens, not distributions, so
this is the rejection sampling of Leviathan et al. (arXiv 2211.17192) with a draft that is certain:
a guess is accepted with the probability that the model gives it, and answers don't change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """One sequence that wants guesses.

    Attributes
    ----------
    seq : the engine's slot. Its tokens may be another request's than at the last ask.
    tokens : prompt and answer so far, the token that is decoded next included.
    most : most tokens to guess, at least 1.
    worth : how many guesses pay that come true with these chances, each if those before it did.
        For a drafter that `judges_itself`.
    """

    seq: int
    tokens: Sequence[int]
    most: int
    worth: Callable[[Sequence[float]], int] = len


class Drafter(Protocol):
    """Guesses tokens, for several sequences at once. Used by one thread at a time."""

    @property
    def seconds_per_guess(self) -> float:
        """What a guess costs before it is checked; 0.0 while unknown or next to nothing."""
        ...

    @property
    def judges_itself(self) -> bool:
        """Whether it knows its guesses' chances and gives those that pay; else a Pace decides."""
        ...

    def propose(self, asks: Sequence[Ask]) -> list[list[int]]:
        """For each of `asks`, of different slots, between none and `most` tokens."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


_FORGET = 0.98
"""What a step weighs after one more: some 50 steps are remembered."""

_DOUBT = 0.5
"""Weight of the assumed cost of a row against the seen one, in squared rows of spread."""

_OUTLIER = 2.0

_SIZE_SEEN, _SIZE_DOUBT = 10.0, 2.0
"""Steps of one size that are remembered, and how many the line is worth against them."""

_UNSEEN_SECONDS = 0.005


class StepCost:
    """Learns what a decode step takes: a fixed time, and as much again for each of its rows.

    A line through the last steps, older ones forgotten exponentially. A step counts as at most
    twice what was expected, since anything can make one slow; but nothing makes one fast, so a
    step of less than half the expected time halves what the earlier ones weigh. What a row costs
    shows only in steps of different sizes: until there are some, as much as the fixed time. Kernels
    take rows by fours or eights, so what a size took beside the line is learnt too.

    Attributes
    ----------
    per_guess : seconds a guess takes the drafter, on top of the row that checks it.
    """

    def __init__(self) -> None:
        self.per_guess = 0.0
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        self._spread = 0.0
        self._slope = 0.0
        self._beside: dict[int, tuple[float, float]] = {}
        """By rows: what steps took as a multiple of the line, and how often that was seen."""

    def took(self, rows: int, seconds: float) -> None:
        """A step with `rows` tokens, at least 1, took that long."""
        keep = _FORGET
        if self._weight:
            expected = self.seconds(rows)
            if seconds < expected / _OUTLIER:
                keep *= 0.5
                self._beside.clear()
            seconds = min(seconds, expected * _OUTLIER)
        self._weight = keep * self._weight + 1.0
        off = rows - self._rows
        self._rows += off / self._weight
        self._seconds += (seconds - self._seconds) / self._weight
        self._spread = keep * self._spread + off * (rows - self._rows)
        self._slope = keep * self._slope + off * (seconds - self._seconds)
        share, seen = self._beside.get(rows, (1.0, 0.0))
        seen = min(seen + 1.0, _SIZE_SEEN)
        self._beside[rows] = (share + (seconds / self._line(rows) - share) / seen, seen)

    def seconds(self, rows: int) -> float:
        """What a step with `rows` tokens is expected to take, without the guessing."""
        if not self._weight:
            return _UNSEEN_SECONDS * (1 + rows)
        share, seen = self._beside.get(rows, (1.0, 0.0))
        return self._line(rows) * (share * seen + _SIZE_DOUBT) / (seen + _SIZE_DOUBT)

    def worth(self, chances: Sequence[float], others: int) -> int:
        """The number of guesses with which a step yields most tokens a second.

        Parameters
        ----------
        chances : of each guess to come true, if those before it do.
        others : rows that the step decodes for other sequences. A token gained for this one delays
            the others, so their tokens count too, one a row: guessing pays less the more sequences
            are answered at once.
        """
        rows = others + 1
        best, best_rate = 0, rows / self.seconds(rows)
        expected, all_right = 0.0, 1.0
        for n, chance in enumerate(chances, start=1):
            all_right *= chance
            expected += all_right
            rate = (rows + expected) / (self.seconds(rows + n) + n * self.per_guess)
            if rate > best_rate:
                best, best_rate = n, rate
        return best

    def _line(self, rows: int) -> float:
        return self._seconds + self._per_row() * (rows - self._rows)

    def _per_row(self) -> float:
        assumed = self._seconds / (1.0 + self._rows)
        slope = (self._slope + _DOUBT * assumed) / (self._spread + _DOUBT)
        return min(max(slope, 0.0), self._seconds / self._rows)


_REMEMBER = 0.94
"""What an outcome weighs after one more: some 16 guesses are remembered."""

_HOPE, _HOPE_WEIGHT = 0.7, 1.5
"""The acceptance assumed before anything is known, and how many outcomes that is worth."""

_TRIAL_LOSS = 0.015
"""The share of a request's tokens that trials may cost it, once they keep failing."""

_MOST_LOST = 1.0
"""The tokens that count as lost by a trial, at most: else a text that changes waits too long."""

_FIRST_PAUSE = 0.25
"""The first pause, as a share of the longest; it doubles with each trial that fails."""


class Pace:
    """How many tokens are worth guessing now, for one request. At most `most`, at least 1.

    Guessing goes by trials. A trial begins with one guess and doubles as long as all are accepted.
    After the first that is not, as many are guessed as make the step yield most tokens a second,
    given the share accepted since the trial began (lately counts more). When that is none, guessing
    pauses before the next trial, the longer the more trials failed in a row and the more the last
    one lost: a text that can't be guessed loses 1 to 2 % (the first 64 tokens 3 %). A pause forgets
    what the trial has learnt, so a text that has become easy to guess is taken at its word.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"at least one token must be allowed to be guessed, not {most}")
        self._most = most
        self._failed = 0
        self._pause = 0
        self._price = 0.0
        """Of a guess, in tokens that the step's time would yield without it."""
        self._start_trial()

    def _start_trial(self) -> None:
        self._trial = 1
        self._accepted = self._rejected = 0.0
        self._gain = 0.0

    def length(self, cost: StepCost, others: int) -> int:
        """How many tokens to guess in a step that decodes `others` rows for other sequences.

        To be asked once a step.
        """
        rows = others + 1
        alone, with_one = cost.seconds(rows), cost.seconds(rows + 1) + cost.per_guess
        self._price = (with_one - alone) / alone * rows
        if self._pause:
            self._pause -= 1
            return 0
        if self._trial:
            could_pay = cost.worth([1.0] * self._most, others) > 0
            return min(self._trial, self._most) if could_pay else 0
        seen = self._accepted + self._rejected
        acceptance = (self._accepted + _HOPE * _HOPE_WEIGHT) / (seen + _HOPE_WEIGHT)
        best = cost.worth([acceptance] * self._most, others)
        if best == 0:
            self._stop()
        return best

    def verified(self, guessed: int, accepted: int) -> None:
        """Of `guessed` tokens the first `accepted` were right."""
        if not guessed:
            return
        rejected = int(accepted < guessed)
        keep = _REMEMBER ** (accepted + rejected)
        self._accepted = keep * self._accepted + accepted
        self._rejected = keep * self._rejected + rejected
        self._gain += accepted - guessed * self._price
        is_over = rejected or self._trial >= self._most
        self._trial = 0 if is_over else self._trial * 2

    def _stop(self) -> None:
        self._failed = 0 if self._gain > 0 else self._failed + 1
        lost = max(self._price, min(-self._gain, _MOST_LOST))
        share = min(1.0, _FIRST_PAUSE * 2.0 ** max(0, self._failed - 1))
        self._pause = max(1, round(share * lost / _TRIAL_LOSS))
        self._start_trial()
