"""What was learned from graded answers, ready to score others: probes, stacks, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo

from calibration.errors import ArtifactError
from calibration.neighbours import NeighbourRank
from calibration.probe_file import Reader, probes_digest
from calibration.probes import Probe
from calibration.stack import Stack
from uq import Trace, get_estimator
from uq.signals import Signal

STACK = "stack"
"""Reads all signals that were gathered."""

CHEAP_STACK = "cheap_stack"
"""Reads those that cost no further generation: the answer's own statistics and hidden states."""

NEIGHBOUR_RANK = "neighbour_rank"
"""Ranks the best stack's score among the answers to similar questions."""

CHEAP_SIGNALS: frozenset[Signal] = frozenset({"hidden"})


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """Estimators that were learned; each gives a number in [0, 1], NaN = unknown.

    That of a probe and of a stack is P(wrong).

    Attributes
    ----------
    probes : on hidden states, by name.
    stacks : over the registered estimators and the probes, by name.
    neighbours : ranks of one of all these among the answers to similar questions, by name.
    """

    probes: Mapping[str, Probe] = field(default_factory=dict)
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    neighbours: Mapping[str, NeighbourRank] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that it scores."""
        return (*self.probes, *self.stacks, *self.neighbours)

    @property
    def readers(self) -> dict[str, Reader]:
        """All that reads hidden states, by name."""
        return {**self.probes, **self.neighbours}

    def score(self, trace: Trace, scores: Mapping[str, float]) -> dict[str, float]:
        """Return `scores`, those of the registered estimators, with the learned ones added."""
        known = {**scores, **{name: probe.score(trace) for name, probe in self.probes.items()}}
        for name, stack in self.stacks.items():
            known[name] = float(stack.score(known))
        for name, rank in self.neighbours.items():
            known[name] = rank.score(trace, known[rank.base])
        return known

    def reads(self, name: str) -> tuple[str, ...]:
        """The registered estimators behind the one called `name`, which may be itself."""
        if name in self.neighbours:
            return self.reads(self.neighbours[name].base)
        if name in self.stacks:
            return tuple(n for part in self.stacks[name].needs for n in self.reads(part))
        return () if name in self.probes else (name,)

    def needs(self, name: str) -> frozenset[Signal]:
        """The signals that the estimator called `name`, registered or learned, reads."""
        if name in self.neighbours:
            return self.needs(self.neighbours[name].base) | {"hidden"}
        if name in self.stacks:
            parts = self.stacks[name].needs
            return frozenset[Signal]().union(*(self.needs(part) for part in parts))
        return frozenset({"hidden"}) if name in self.probes else get_estimator(name).needs

    def only(self, names: frozenset[str]) -> Learned:
        """What is needed to score the estimators called `names`."""
        neighbours = {name: rank for name, rank in self.neighbours.items() if name in names}
        names = names.union(rank.base for rank in neighbours.values())
        stacks = {name: stack for name, stack in self.stacks.items() if name in names}
        parts = names.union(*(stack.needs for stack in stacks.values()))
        return Learned(
            {n: probe for n, probe in self.probes.items() if n in parts}, stacks, neighbours
        )


def load_context(probes: Mapping[str, Reader]) -> dict[str, Any]:
    """What a validation of `LearnedField` needs to know: the probes, which JSON does not hold."""
    return {"probes": probes}


def _write(learned: Learned) -> dict[str, Any]:
    return {
        "probes": sorted(learned.readers),
        "probes_digest": probes_digest(learned.readers),
        "stacks": {name: stack.to_dict() for name, stack in learned.stacks.items()},
    }


def _read(data: Any, info: ValidationInfo) -> Learned:
    if not isinstance(data, Mapping) or set(data) != {"probes", "probes_digest", "stacks"}:
        raise ValueError("an object with probes, probes_digest and stacks is expected")
    readers: Mapping[str, Reader] = (info.context or {}).get("probes", {})
    if sorted(readers) != data["probes"] or probes_digest(readers) != data["probes_digest"]:
        raise ValueError(
            f"its probes ({', '.join(data['probes']) or 'none'}) are not those in the file beside "
            f"it ({', '.join(sorted(readers)) or 'none'}); copy both files together, or go back to "
            "the calibration before with `router calibration rollback`"
        )
    try:
        stacks = {str(name): Stack.from_dict(stack) for name, stack in data["stacks"].items()}
    except ArtifactError as error:
        raise ValueError(str(error)) from error
    return Learned(
        {name: reader for name, reader in readers.items() if isinstance(reader, Probe)},
        stacks,
        {name: reader for name, reader in readers.items() if isinstance(reader, NeighbourRank)},
    )


LearnedField = Annotated[Learned, PlainValidator(_read), PlainSerializer(_write)]
