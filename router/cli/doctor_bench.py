"""`router doctor --bench`: which `threads` and `prefill_chunk` are the fastest on this machine.

Every choice is tried in every round, in turn, so that a machine that gets busy slows all of them;
a choice is compared with what is set round by round. Here is what is tried and what is concluded;
`doctor_trials` measures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median
from typing import Any, Literal

BUDGET = 20.0
"""Seconds that the whole trial may take, about."""

CHUNKS = (64, 128, 256, 512)
ENOUGH_ROUNDS = 3
"""With fewer there is no telling what is noise."""

_ROUNDS = 4
"""Rounds that a trial is laid out for."""
_SHARE_OF_PROMPTS = 0.7
_PROMPT = 128
"""Tokens of a prompt that shows what threads do."""
_LEAST_GAIN = 0.03
_BUSY = 0.5
_HOPELESS = 0.7
"""What is slower than this times what is set in the first round is not tried again."""

Kind = Literal["prompt", "answer", "answers", "long_prompt"]
KINDS: tuple[Kind, ...] = ("prompt", "answer", "answers")
"""What threads are judged by: reading a prompt, answering one request, answering as many as there
are slots. Chunks are judged by reading a long prompt."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Values of the two settings."""

    threads: int
    prefill_chunk: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What is timed in one go."""

    choice: Choice
    kind: Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried in a round.

    Attributes
    ----------
    current : what is set now.
    trials : in their order, those of one number of threads together.
    prompt, long_prompt : tokens of the prompts that are read.
    """

    current: Choice
    trials: tuple[Trial, ...]
    prompt: int
    long_prompt: int


Rates = Mapping[Trial, Sequence[float]]
"""Tokens per second in each round, from the first on; fewer for what was given up."""


def thread_counts(physical: int, logical: int, current: int) -> tuple[int, ...]:
    """Numbers of threads worth trying.

    >>> thread_counts(8, 16, 8)
    (1, 7, 8, 16)
    """
    return tuple(sorted({1, max(1, physical - 1), physical, logical, current}))


def make_plan(
    current: Choice,
    threads: Collection[int],
    *,
    seconds_per_token: float,
    context: int,
    budget: float = BUDGET,
) -> Plan:
    """Choose prompts short enough for `budget` seconds, and what to try on them.

    `seconds_per_token` is what reading a prompt takes with the current threads; with fewer it is
    reckoned to take as many times longer. Chunks longer than the prompts can't be told apart.
    """
    slower = sum(max(1.0, current.threads / count) for count in threads)
    affordable = _SHARE_OF_PROMPTS * budget / (_ROUNDS * seconds_per_token)
    sizes = [n for n in CHUNKS if n * len(_chunks(n)) + _short(n) * slower <= affordable]
    long = min(context, max(sizes, default=CHUNKS[0]))
    chunks = sorted({*_chunks(long), current.prefill_chunk})
    trials = [
        Trial(Choice(count, current.prefill_chunk), kind)
        for count in sorted(threads)
        for kind in KINDS
    ]
    if len(chunks) > 1 and current.prefill_chunk <= long:
        at = trials.index(Trial(current, "prompt"))
        trials[at:at] = [Trial(Choice(current.threads, n), "long_prompt") for n in chunks]
    return Plan(current, tuple(trials), _short(long), long)


def _chunks(prompt: int) -> list[int]:
    return [n for n in CHUNKS if n <= prompt]


def _short(prompt: int) -> int:
    return min(_PROMPT, prompt)


def still_open(plan: Plan, rates: Rates) -> tuple[Trial, ...]:
    """The trials that could still win, by the first round."""
    return tuple(
        trial
        for trial in plan.trials
        if _ratios(plan, rates, trial.choice)[0] >= _HOPELESS or trial.choice == plan.current
    )


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting that is faster than what is set: by `gain`, where `noise` could be chance."""

    name: Literal["threads", "prefill_chunk"]
    value: int
    gain: float
    noise: float

    def __str__(self) -> str:
        return f"{self.name} = {self.value}  # {self.gain:+.0%}, noise {self.noise:.0%}"


def suggest(plan: Plan, rates: Rates) -> tuple[Suggestion, ...]:
    """What to set, where something is faster than what is set by more than the noise.

    Threads are judged by the geometric mean of three kinds' gains. Of chunks that are equally
    fast the smallest is taken: other requests wait for a chunk.
    """
    choices = dict.fromkeys(trial.choice for trial in plan.trials)
    found = []
    for name in ("threads", "prefill_chunk"):
        other = "prefill_chunk" if name == "threads" else "threads"
        rivals = [
            Suggestion(name, getattr(choice, name), *_gain(_ratios(plan, rates, choice)))
            for choice in choices
            if choice != plan.current
            and getattr(choice, other) == getattr(plan.current, other)
            and len(_ratios(plan, rates, choice)) >= ENOUGH_ROUNDS
        ]
        better = [rival for rival in rivals if rival.gain > rival.noise]
        if better:
            best = max(better, key=lambda rival: rival.gain)
            equal = [rival for rival in better if best.gain - rival.gain <= best.noise]
            small = min(equal, key=lambda rival: rival.value)
            found.append(small if name == "prefill_chunk" else best)
    return tuple(found)


def _ratios(plan: Plan, rates: Rates, choice: Choice) -> list[float]:
    """How many times faster than what is set, round by round."""
    kinds = [trial.kind for trial in plan.trials if trial.choice == choice]
    pairs = [
        zip(rates[Trial(choice, kind)], rates[Trial(plan.current, kind)], strict=False)
        for kind in kinds
    ]
    by_kind = [[ours / set_now for ours, set_now in pair] for pair in pairs]
    return [geometric_mean(ratios) for ratios in zip(*by_kind, strict=True)]


def _gain(ratios: Sequence[float]) -> tuple[float, float]:
    """The median gain, and twice its standard error, which is taken to be 1.5% or more."""
    middle = median(ratios)
    deviation = median(abs(ratio - middle) for ratio in ratios)
    error = 1.4826 * 1.2533 * deviation / math.sqrt(len(ratios))
    return middle - 1, max(_LEAST_GAIN, 2 * error)


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured, in how many rounds and seconds, and what follows."""

    plan: Plan
    rates: Rates
    rounds: int
    seconds: float
    slots: int
    load: float
    """How many programs wanted a core in the minute before."""

    def suggestions(self) -> tuple[Suggestion, ...]:
        return suggest(self.plan, self.rates)

    def summary(self) -> str:
        """One line: what is suggested, or why nothing is."""
        found = self.suggestions()
        if found:
            return "faster here: " + ", ".join(f"{each.name} = {each.value}" for each in found)
        if self.rounds < ENOUGH_ROUNDS:
            return f"too slow for a suggestion: {self.rounds} rounds in {self.seconds:.0f} s"
        return "nothing is faster than what is set, by more than the noise"

    def lines(self) -> Iterator[str]:
        """The table, and what to write into router.toml."""
        many = f"{self.slots} answers"
        heads = ("prompt", "1 answer", many, "long prompt")
        yield f"{'threads':>8} {'prefill_chunk':>14}" + "".join(f"{head:>13}" for head in heads)
        for choice, found in self._rows():
            mark = "  set now" if choice == self.plan.current else ""
            kinds: tuple[Kind, ...] = (*KINDS, "long_prompt")
            cells = [f"{found[kind]:.1f}" if kind in found else "" for kind in kinds]
            text = f"{choice.threads:>8} {choice.prefill_chunk:>14}"
            yield (text + "".join(f"{cell:>13}" for cell in cells) + mark).rstrip()
        yield f"tokens/s, medians of {self.rounds} rounds in {self.seconds:.0f} s"
        if self.load >= _BUSY:
            yield f"the machine was busy (load {self.load:.1f}): try again when it is quiet"
        if self.suggestions():
            yield "for router.toml:"
            yield from (f"  {each}" for each in self.suggestions())

    def as_json(self) -> dict[str, Any]:
        return {
            "set": asdict(self.plan.current),
            "prompt_tokens": self.plan.prompt,
            "long_prompt_tokens": self.plan.long_prompt,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "load_before": self.load,
            "tokens_per_second": [
                {**asdict(choice), **{kind: round(rate, 1) for kind, rate in found.items()}}
                for choice, found in self._rows()
            ],
            "suggestions": [asdict(each) for each in self.suggestions()],
        }

    def _rows(self) -> Iterator[tuple[Choice, dict[Kind, float]]]:
        for choice in dict.fromkeys(trial.choice for trial in self.plan.trials):
            found = {
                trial.kind: median(self.rates[trial])
                for trial in self.plan.trials
                if trial.choice == choice and self.rates[trial]
            }
            yield choice, found
