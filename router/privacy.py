"""What must not leave the machine because of what it says: rules for personal data.

A rule file holds one rule a line; empty lines and those that begin with ``#`` mean nothing::

    email                     a rule known by its name, see `KNOWN`
    iban
    project = \\b(?i:bluebird)\\b   a name, and a regular expression (Python's) that finds it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import ConfigError

Finder = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of text to keep; `finds` tells whether there is some in a text."""

    name: str
    finds: Finder


class Rules:
    """The rules of one file, in its order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)

    def __len__(self) -> int:
        return len(self._rules)

    def match(self, body: Mapping[str, Any]) -> str | None:
        """Return the name of the first rule that finds something anywhere in `body`; else None.

        All texts of the request are searched, names of fields excepted, and data URLs (images).
        """
        texts = list(texts_of(body))
        for rule in self._rules:
            if any(rule.finds(text) for text in texts):
                return rule.name
        return None


def read_rules(path: Path) -> Rules:
    """Return the rules of the file at `path`.

    Raises ConfigError that names the line when a rule is unknown or no regular expression.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the rules for local_only in {path}: {error}") from error
    return Rules(_rules(path, lines))


def _rules(path: Path, lines: Iterable[str]) -> Iterator[Rule]:
    for number, line in enumerate(lines, start=1):
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        name, equals, pattern = (part.strip() for part in rule.partition("="))
        if not equals:
            if name not in KNOWN:
                known = ", ".join(sorted(KNOWN))
                raise ConfigError(
                    f"{path}, line {number}: there is no rule {name!r}; there are {known}; "
                    "one of your own is written NAME = REGULAR EXPRESSION"
                )
            yield Rule(name, KNOWN[name])
            continue
        if not name or not pattern:
            raise ConfigError(f"{path}, line {number}: a rule is NAME = REGULAR EXPRESSION")
        try:
            yield Rule(name, _searching(pattern))
        except re.error as error:
            raise ConfigError(
                f"{path}, line {number}: {pattern!r} is no regular expression: {error}"
            ) from error


def texts_of(value: object) -> Iterator[str]:
    """Yield all texts of a request, names of fields excepted, and data URLs (images)."""
    if isinstance(value, str):
        if not value.startswith("data:"):
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)


def _searching(pattern: str) -> Finder:
    compiled = re.compile(pattern)
    return lambda text: compiled.search(text) is not None


def _checked(pattern: str, valid: Callable[[str], bool]) -> Finder:
    """Finds what the pattern finds and is valid: most long numbers are no card's."""
    compiled = re.compile(pattern)
    return lambda text: any(valid(found[0]) for found in compiled.finditer(text))


def _is_card(text: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1): every second digit from the right counts double."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616: the first four characters at the end, letters as numbers, modulo 97 is 1."""
    plain = text.replace(" ", "").upper()
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


KNOWN: Mapping[str, Finder] = {
    "card": _checked(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])", _is_card),
    "email": _searching(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "iban": _checked(
        r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?\b", _is_iban
    ),
    "ip": _searching(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|(?![\d.]))){4}"),
    "phone": _searching(r"(?<!\w)(?:\+|00)\d{1,3}(?:[ ./()-]{0,2}\d){6,12}(?!\d)"),
    "ssn": _searching(r"(?<!\d)(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?!\d)"),
}
"""Rules that are known by name: payment cards, e-mail addresses, IBANs, IPv4 addresses, telephone
numbers with their country's code, social security numbers of the USA."""
