"""Texts that a grammar (llama.cpp's GBNF) allows, by a random walk through it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from router.engine.grammar import Grammar as RealGrammar
from router.engine.llama import Model

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<literal>"(?:[^"\\]|\\.)*")
      | (?P<set>\[\^?(?:[^\]\\]|\\.)*\])
      | (?P<repeat>\{\d+,?\d*\}|[*+?])
      | (?P<mark>[()|])
      | (?P<name>[a-zA-Z][\w-]*)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_ANY = " aZ09_-{}[]:,'/\\\"\x00\x1f\x7f\nß\u2028漢\U0001f600"
"""Characters to choose from where a set says which not to."""


@dataclass
class Node:
    """Part of a rule: how far it is from an end at least, and how to write it."""

    cost: Callable[[], float]
    write: Callable[[random.Random, int], str]


class Grammar:
    """A grammar's rules, ready to be walked through."""

    def __init__(self, text: str) -> None:
        self._rules: dict[str, Node] = {}
        self._costs: dict[str, float] = {}
        bodies = dict(line.split(" ::= ", 1) for line in text.splitlines())
        for name, body in bodies.items():
            self._costs[name] = math.inf
            self._rules[name] = _Parser(body, self).whole()
        for _ in bodies:
            self._costs = {name: 1 + node.cost() for name, node in self._rules.items()}

    @property
    def ends(self) -> bool:
        """Whether any text satisfies it."""
        return self._costs["root"] < math.inf

    def walk(self, chance: random.Random, steps: int = 40) -> str:
        """A text that the grammar allows; after so many steps it takes the shortest way out."""
        return self.reference("root").write(chance, steps)

    def reference(self, name: str) -> Node:
        def write(chance: random.Random, left: int) -> str:
            return self._rules[name].write(chance, left)  # it may come later

        return Node(lambda: self._costs[name], write)


class _Parser:
    def __init__(self, body: str, grammar: Grammar) -> None:
        self._grammar = grammar
        self._tokens = []
        at = 0
        while at < len(body.rstrip()):
            found = _TOKEN.match(body, at)
            assert found is not None, f"no GBNF: {body[at:]!r}"
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()

    def whole(self) -> Node:
        node = self._options()
        assert not self._tokens, f"more than a rule: {self._tokens}"
        return node

    def _options(self) -> Node:
        options = [self._sequence()]
        while self._tokens and self._tokens[0][1] == "|":
            self._tokens.pop(0)
            options.append(self._sequence())
        return _one_of(options)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._tokens and self._tokens[0] not in (("mark", "|"), ("mark", ")")):
            kind, text = self._tokens.pop(0)
            if kind == "repeat":
                parts.append(_repeated(parts.pop(), text))
            elif kind == "literal":
                parts.append(_text(_unescaped(text[1:-1])))
            elif kind == "set":
                parts.append(_set(text[1:-1]))
            elif kind == "name":
                parts.append(self._grammar.reference(text))
            else:
                parts.append(self._options())
                assert self._tokens.pop(0) == ("mark", ")")
        return Node(
            lambda: sum(part.cost() for part in parts),
            lambda chance, left: "".join(part.write(chance, left - 1) for part in parts),
        )


def _one_of(options: list[Node]) -> Node:
    def write(chance: random.Random, left: int) -> str:
        ending = [option for option in options if option.cost() < math.inf]
        shortest = min(ending, key=lambda option: option.cost())
        return (chance.choice(ending) if left > 0 else shortest).write(chance, left - 1)

    return Node(lambda: min(option.cost() for option in options), write)


def _repeated(node: Node, how: str) -> Node:
    fewest, most = {"*": (0, 3), "+": (1, 4), "?": (0, 1)}.get(how, (0, 0))
    if how[0] == "{":
        low, _, high = how[1:-1].partition(",")
        fewest = int(low)
        most = int(high) if high else fewest + (3 if "," in how else 0)

    def write(chance: random.Random, left: int) -> str:
        fits = min(most, fewest + 3) if left > 0 and node.cost() < math.inf else fewest
        times = chance.choice([fewest, chance.randint(fewest, fits), most if left > 30 else fits])
        return "".join(node.write(chance, left - 1) for _ in range(times))

    return Node(lambda: fewest and fewest * node.cost(), write)


def _text(text: str) -> Node:
    return Node(lambda: 0, lambda _, __: text)


def _set(inside: str) -> Node:
    negated = inside.startswith("^")
    text = _unescaped(inside.removeprefix("^"))
    members: set[str] = set()
    at = 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            members |= {chr(code) for code in range(ord(text[at]), ord(text[at + 2]) + 1)}
            at += 3
        else:
            members.add(text[at])
            at += 1
    allowed = [char for char in _ANY if char not in members] if negated else sorted(members)
    return Node(lambda: 0, lambda chance, _: chance.choice(allowed))


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        what = found[1]
        return chr(int(what[1:], 16)) if what[0] == "x" and what[1:] else _ESCAPED.get(what, what)

    return _ESCAPE.sub(plain, text)


def passes(model: Model, grammar: str, text: str) -> bool:
    """Whether `text`, and nothing more, is what the grammar asks for, by llama.cpp's sampler."""
    followed = RealGrammar(model, grammar)
    for token in model.tokenize(text, add_special=False, parse_special=False):
        if not followed.allows(token):
            return False
        followed.accept(token)
    return followed.allows(model.eos)
