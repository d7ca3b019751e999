"""Whether the gateway keeps memory, or fails, when it is used for a while.

It gets requests of all kinds in turn, each at half of the rate at which it answered that kind in
the beginning. The resident memory of its process, without the engine's, is read after each round of
kinds; the first quarter of the time is for caches to fill (10,000 answers by default) and buffers
to grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic

from benchmarks.gateway_load import Load, Outcome, run
from benchmarks.gateway_servers import gateway, upstream
from benchmarks.processes import resident_bytes
from benchmarks.servers import OURS, Server

KINDS: Mapping[str, Load] = {
    "whole": Load(0),
    "streamed": Load(0, stream=True),
    "tools": Load(0, model="auto", tools=True),
    "cached": Load(0, different=64),
}
"""What is asked for in turn."""

SECONDS = 7.5
"""Of each kind in a round."""

GOAL = 0.03
"""How far resident memory may be from its first reading."""

_numbers = count(0, 10_000_000)


@dataclass
class Soak:
    """What came of it: bytes resident after each round past the warm-up, and all answers."""

    readings: list[int] = field(default_factory=list)
    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def furthest(self) -> float:
        """Largest relative distance of a reading from the first."""
        return max(abs(reading / self.readings[0] - 1) for reading in self.readings)

    @property
    def passed(self) -> bool:
        return self.furthest <= GOAL and not self.errors

    def add(self, outcome: Outcome) -> None:
        self.answers += len(outcome.latencies)
        self.errors.update(outcome.errors)

    def summary(self) -> str:
        """The readings and the errors in a line."""
        mib = [reading / 2**20 for reading in self.readings]
        return (
            f"{self.answers} answers, errors: {dict(self.errors) or 0}; resident MiB first "
            f"{mib[0]:.1f}, last {mib[-1]:.1f}, least {min(mib):.1f}, most {max(mib):.1f} "
            f"(furthest {self.furthest:.1%}; goal {GOAL:.0%}): "
            f"{'passed' if self.passed else 'failed'}"
        )


def soak(minutes: float, *, seconds: float = SECONDS) -> Soak:
    """Use ours for so many minutes, each kind for `seconds` at a time; say how it goes."""
    found = Soak()
    with upstream() as behind, gateway(OURS, behind) as ours:
        rates = {
            kind: _asks(ours, replace(load, clients=16, seconds=seconds)).rate / 2
            for kind, load in KINDS.items()
        }
        print(*(f"{kind} {rate:.0f}/s" for kind, rate in rates.items()), sep=", ", flush=True)
        began = monotonic()
        elapsed = 0.0
        while elapsed < 60 * minutes or not found.readings:
            warm = elapsed >= 15 * minutes
            for kind, load in KINDS.items():
                found.add(_asks(ours, replace(load, clients=8, rate=rates[kind], seconds=seconds)))
            elapsed = monotonic() - began
            resident = resident_bytes(ours.pid)
            if warm:
                found.readings.append(resident)
            told = f"{elapsed:>6.0f} s {found.answers:>8} answers {resident / 2**20:.1f} MiB"
            print(told, flush=True)
    return found


def _asks(server: Server, load: Load) -> Outcome:
    first = 0 if load.different else next(_numbers)
    return run(replace(load, port=server.port, first=first))
