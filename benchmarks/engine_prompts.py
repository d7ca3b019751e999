"""What the servers are asked: stories, because not every one goes on after an end of text.

Every prompt is made by chance from the lists below, the same ones for the same seed, and no two
share more than their first few words, so that a server which keeps what it has read gains nothing,
unless a prompt is `shared`: then its long system prompt is the same for all.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from router.engine.messages import Message

Messages = tuple[Message, ...]
Count = Callable[[Sequence[Message]], int]
"""How many tokens the rendered conversation has."""

SYSTEM = "Tell stories."
"""Short, and in place of the template's own, which is as long as a short prompt."""

A_SENTENCE = 20
"""About how many tokens one of the notes has."""

HEROES = (
    "fox,baker,sailor,robot,king,dragon,doctor,painter,farmer,witch,pilot,clerk,miller,giant,nurse,"
    "thief,judge,poet,singer,smith,tailor,beggar,wizard,gardener,captain,teacher,diver,cook,spy,owl"
)
KINDS = "clever,old,shy,young,tired,brave,clumsy,proud,hungry,lonely,cheerful,silent"
PLACES = (
    "in the mountains,under the sea,on a train,in the snow,in the desert,on the moon,in a library,"
    "on an island,in a lighthouse,behind the market,in a coal mine,at the harbour,in an empty town"
)
THINGS = (
    "a brass key,an unsigned letter,a broken clock,two silver coins,a map of the coast,a blue lamp,"
    "a sack of flour,a wooden flute,a torn photograph,a jar of honey,a heavy chain,a glass eye"
)
DEEDS = (
    "found {},lost {},sold {},hid {},stole {},dreamed of {},repaired {},asked everyone about {},"
    "threw away {},was given {},buried {},painted {}"
)
TIMES = (
    "at dawn,after the storm,on the third day,late at night,one week later,in early spring,"
    "when the bells rang,before supper,during the long winter,on a market day,at low tide"
)
ENDS = (
    "and told nobody,and could not sleep,and laughed about it,and wrote it down,and ran away,"
    "and began to sing,and was sorry for it,and went to the police,and waited,and never knew why"
)


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, the template's included; those of a `shared` one's system prompt."""

    tokens: int
    shared: bool = False


class PromptMaker:
    """Makes prompts that it has not made before. `count` is the model's own."""

    def __init__(self, count: Count, *, seed: int = 0) -> None:
        self._count = count
        self._chance = random.Random(seed)
        plots = [
            " ".join(plot) for plot in itertools.product(*map(_listed, (KINDS, HEROES, PLACES)))
        ]
        self._chance.shuffle(plots)
        self._plots = iter(plots)
        self._system: dict[int, str] = {}

    def make(self, prompt: Prompt) -> Messages:
        """Return a new conversation of about the wanted length, at least about 30 tokens."""
        story = f"Write a long story about the {next(self._plots)}."
        if prompt.shared:
            return Message("system", self._shared(prompt.tokens)), Message("user", story)
        bare = (Message("system", SYSTEM), Message("user", story))
        missing = prompt.tokens - self._count(bare)
        if missing < A_SENTENCE:
            return bare
        # The notes come first: what differs is to differ from the beginning.
        return Message("system", SYSTEM), Message("user", f"{self._notes(missing)} {story}")

    def _shared(self, tokens: int) -> str:
        if tokens not in self._system:
            rules = "You tell stories. All of them take place in one world, of which this is known:"
            self._system[tokens] = f"{rules} {self._notes(tokens - self._tokens(rules))}"
        return self._system[tokens]

    def _notes(self, tokens: int) -> str:
        """Sentences of about so many tokens in all, at least one."""
        chosen: list[str] = []
        for sentence in self._sentences():
            chosen.append(sentence)
            tokens -= self._tokens(sentence)
            if tokens <= 0:
                break
        return " ".join(chosen)

    def _sentences(self) -> Iterator[str]:
        def pick(among: str) -> str:
            return self._chance.choice(_listed(among))

        while True:
            deed = pick(DEEDS).format(pick(THINGS))
            who = f"the {pick(KINDS)} {pick(HEROES)}"
            yield f"{pick(TIMES).capitalize()}, {who} {deed} {pick(PLACES)} {pick(ENDS)}."

    def _tokens(self, text: str) -> int:
        return self._count((Message("user", text),)) - self._count((Message("user", ""),))


def _listed(names: str) -> list[str]:
    return names.split(",")
