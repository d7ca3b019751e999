"""Does the local answer agree with the LLM's? The LLM's answer is read as if it were the gold one.

What can't be compared is left out. Whether it can is told from the LLM's answer alone: were it told
from both, labels would be missing more often where the local answer is bad, and a risk estimated
from those that are left would be too low.
"""

from __future__ import annotations

import re

from calibration.grading import extract_choice, grade
from calibration.items import LETTERS, Item
from calibration.numerals import find_numerals, parse_numeral, plain, select_numeral
from calibration.phrases import answer_statements, boxed, normalise_text, words_of
from router.multiple_choice import find_options

MAX_WORDS = 6
"""A longer answer has too many wordings to be compared by its words."""

_MAX_SENTENCE = 14
"""Words of a sentence in which such an answer is looked for."""

_MAX_CHARS = 4000
"""A longer LLM's answer is not compared; of a longer local one the beginning and the end are read.

The graders take time with the square of a text's numbers, and small models count without end.
"""

_N_UNNAMED = 10
"""Letters A to J are options even where the question's own are not known."""

_REFUSES = re.compile(
    r"\W*(?:i(?:['’]m|\s+am)\s+(?:sorry|not|unable)|i\s+(?:do\s+not|don['’]t|can(?:not|['’]t))\b"
    r"|sorry\b|unknown\b|unclear\b|it\s+depends\b|as\s+an\s+ai\b|n/a\b|cannot\b)",
    re.IGNORECASE,
)
_ASKS_A_NUMBER = re.compile(r"\bhow\s+(?:many|much|old|far|tall|long)\b|\bcalculate\b", re.I)
_LETTER = re.compile(r"\W*([A-J])\W*")
_LETTER_AND_TEXT = re.compile(r"[\s(\[*]*([A-J])[).:\]]+\s*(\S.*)", re.DOTALL)
_POLAR = re.compile(r"\W*(yes\b|true\b|false\b|no\b(?=\s*(?:[,.;:!–—]|$)))", re.IGNORECASE)
_HEDGES = frozenset({"or", "not", "either", "neither", "nor", "maybe", "perhaps", "possibly"})
_COPULAS = frozenset({"is", "was", "are", "were"})
_PRONOUNS = frozenset({"it", "its", "this", "that", "thats"})
_WHO = re.compile(r"\bwho(?:se|m)?\b", re.IGNORECASE)
_SAYS_NOTHING = frozenset(
    re.findall(
        r"\w+",
        "a an the it its this that these those they there he she is was are were be been by in on "
        "at of to for with as answer correct equals called named known written made has had have s",
    )
)


def agrees(local: str, remote: str, question: str = "") -> bool | None:
    """Whether `local` says what `remote` answers; None when `remote` can't be compared by rule.

    `question` is the last user message. It tells which options there are, whether a number is
    asked for, and which words of a sentence are the answer ("The capital of Peru is Lima"); without
    it fewer answers can be compared.

    Compared are, by the rules that grade gold answers (`calibration.grading`): the letter of an
    option, a number, yes and no, and texts of at most `MAX_WORDS` words. Refusals, hedges
    and longer texts are None. An agreement is not the truth: the LLM may be wrong, and both may.

    Examples
    --------
    >>> agrees("Lima, of course", "The capital of Peru is Lima.", "What is the capital of Peru?")
    True
    >>> agrees("12 eggs", "3 * 5 = 15, so the answer is 15.")
    False
    >>> agrees("Once upon a time there was a fox.", "It was a dark and stormy night. " * 3) is None
    True
    """
    expected = _expected(remote, question)
    return None if expected is None else grade(expected, _shortened(local))


def _expected(remote: str, question: str) -> Item | None:
    """The question with the LLM's answer as its gold answer."""
    if not remote.strip() or len(remote) > _MAX_CHARS or _REFUSES.match(remote):
        return None
    options = find_options(question)
    if options is not None and len(options.options) <= len(LETTERS):
        letter = extract_choice(remote, options.options)
        return None if letter is None else _choice(letter, options.options, question)
    if _ASKS_A_NUMBER.search(_asked(question)) and (found := _number(remote, question)):
        return found
    conclusion = _conclusion(remote)
    if conclusion is None:
        return None
    return (
        _lettered(conclusion, question)
        or _polar(conclusion, question)
        or _leading_number(conclusion, question)
        or _short_text(conclusion, question)
    )


def _shortened(local: str) -> str:
    if len(local) <= _MAX_CHARS:
        return local
    return local[: _MAX_CHARS // 4] + "\n" + local[-3 * _MAX_CHARS // 4 :]


def _conclusion(text: str) -> str | None:
    """The part that states the answer: what is boxed, after "the answer is", or one sentence."""
    inside = boxed(text)
    if inside is not None:
        return inside.strip() or None
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().split("\n", 1)[0] or None
    stated = answer_statements(text)[-1:]
    if stated:
        return stated[0]
    words = words_of(text)
    short = 0 < len(words) <= _MAX_SENTENCE
    return text.strip() if short and words[-1].sentence == 0 else None


def _choice(letter: str, options: tuple[str, ...], question: str) -> Item:
    return Item("", "", "", question, letter, "choice", choices=options)


def _lettered(conclusion: str, question: str) -> Item | None:
    """A letter, or a letter with its option's text, where the other options are not known."""
    match = _LETTER.fullmatch(conclusion) or _LETTER_AND_TEXT.fullmatch(conclusion)
    if match is None:
        return None
    options = [f"unnamed-option-{letter}" for letter in LETTERS[:_N_UNNAMED]]
    if match.re is _LETTER_AND_TEXT:
        options[LETTERS.index(match[1])] = match[2].strip()
    return _choice(match[1], tuple(options), question)


def _polar(conclusion: str, question: str) -> Item | None:
    match = _POLAR.match(conclusion)
    return None if match is None else _gold(match[1].lower(), question)


def _number(remote: str, question: str) -> Item | None:
    """The number with which an answer to "how many" concludes."""
    inside = boxed(remote)
    text = plain(remote if inside is None else inside)
    numeral = select_numeral(remote)
    if numeral is None:
        return None
    written = text[numeral.start : numeral.end].strip()
    parsed = parse_numeral(written)
    if parsed is None or parsed.value != numeral.value:  # found in a part of the text
        written = str(numeral.value) + ("%" if numeral.percent else "")
    return Item("", "", "", question, written, "number")


def _leading_number(conclusion: str, question: str) -> Item | None:
    """A number with at most a unit after it; "7 Up" and "4 July 1776" are names."""
    text = plain(conclusion).strip().strip("*_ ")
    numerals = find_numerals(text)
    if len(numerals) != 1 or numerals[0].start != 0:
        return None
    written, rest = text[: numerals[0].end].strip(), text[numerals[0].end :].strip(" .!")
    is_name = rest[:1].isupper() or (numerals[0].weak and rest != "")
    if is_name or len(rest.split()) > 2 or parse_numeral(written) is None:
        return None
    return Item("", "", "", question, written, "number")


def _short_text(conclusion: str, question: str) -> Item | None:
    """The few words of a sentence that the question does not have."""
    asked = {word.text for word in words_of(_asked(question))} - _SAYS_NOTHING
    parts = conclusion.split()
    texts = [normalise_text(part) for part in parts]
    telling = [i for i, text in enumerate(texts) if text and text not in _SAYS_NOTHING]
    new = [i for i in telling if not _known(texts[i], asked)]
    says_more = not new or not question  # which of these words are the answer can't be told
    is_clause = any(text in _COPULAS for text in texts[1:]) and texts[0] not in _PRONOUNS
    chosen = new or telling
    if (
        not chosen
        or chosen[-1] - chosen[0] >= MAX_WORDS
        or (says_more and is_clause)
        or not _HEDGES.isdisjoint(texts)
    ):
        return None
    answer = " ".join(parts[chosen[0] : chosen[-1] + 1]).strip(" .,;:!*_\"'`“”‘’")
    if not normalise_text(answer):
        return None
    return _leading_number(answer, question) or _gold(answer, question)


def _known(text: str, asked: set[str]) -> bool:
    """Whether the question has this word, or one that begins alike ("ended", "end")."""
    return text in asked or any(
        len(shorter) >= 3 and longer.startswith(shorter)
        for word in asked
        for shorter, longer in [sorted((word, text), key=len)]
    )


def _gold(answer: str, question: str) -> Item:
    names = answer.split()
    is_person = len(names) in (2, 3) and all(name[0].isupper() for name in names)
    surname = (names[-1],) if is_person and _WHO.search(_asked(question)) else ()
    return Item("", "", "", question, answer, "text", answers=surname)


def _asked(question: str) -> str:
    """The last question of a message, which may hold a passage before it."""
    found: list[str] = re.findall(r"[^.!?\n]*\?", question)
    return found[-1] if found else question[-300:]
