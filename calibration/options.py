"""Which option of a multiple-choice question does an answer settle on?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from calibration.items import LETTERS
from calibration.numerals import parse_numeral, same_number, select_numeral
from calibration.phrases import (
    Occurrence,
    Word,
    answer_statements,
    boxed,
    find_phrase,
    is_negated,
    normalise_text,
    without_articles,
    words_of,
)

_NOUNS = ("answer", "option", "choice", "letter", "solution")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_JUDGED_RIGHT = r"\s+(?:is|seems|must\s+be)\s+(?:the\s+)?(?:correct|right|best|true\s+answer)"
_PICKS = re.compile(
    r"\b(?:it\s+is|it's|it’s|that\s+is|that's|choose|chose|pick|picked|select|go\s+with|must\s+be)\s+",
    re.IGNORECASE,
)
_AFTER_LETTER = re.compile(
    r"""\s*(?:$|[)\].:,;!?"'’”}–—-]|\n
        |\s(?:is|was|because|since|as|due|which|and|or|but|follows|seems)\b)""",
    re.IGNORECASE | re.VERBOSE,
)


_CLAUSE_END = re.compile(r"[,.;:!](?=\s|$)|\n|\s[-–—]\s|\b(?:because|since)\b")
_AFTER_MARK = re.compile(r"^[\s)\].:,;}]*(?:[-–—]\s+)?")


class _Ambiguous(Exception):
    """The answer names more than one option, or contradicts itself."""


def extract_choice(text: str, choices: Sequence[str]) -> str | None:
    r"""Return the letter of the option that `text` settles on; None when it settles on none.

    In this order: `text` is an option's text; ``\boxed{}``; the last statement ("the answer is B",
    "I choose (b)", "B is correct"); a letter at the start ("B.", "b) Paris"), unless the options
    are just repeated; an option's text at the start ("Paris, because ..."); a letter in parentheses
    or on a line of its own; the one option whose text is mentioned (not negated, and not merely
    inside a longer option's text); for options that are numbers, what `extract_number` finds.

    "A" before a word is an article, and "I" a pronoun, unless the word is the option's own text or
    one like "is" or "because". A letter followed by exactly another option's text, and two letters
    ("A and C"), are no answer.

    >>> extract_choice("The answer is **B**, Paris.", ["Rome", "Paris"])
    'B'
    >>> extract_choice("A dog", ["cat", "dog"])
    'B'
    """
    try:
        return _Choices(choices).read(text)
    except _Ambiguous:
        return None


class _Choices:
    """The options of one question, and the ways in which an answer can name one."""

    def __init__(self, choices: Sequence[str]) -> None:
        self.letters = LETTERS[: len(choices)]
        self.texts = tuple(choices)
        self.normal = tuple(normalise_text(choice) for choice in choices)
        last = self.letters[-1]
        self.upper = f"[A-{last}]"
        self.either = f"[A-{last}a-{last.lower()}]"

    def read(self, text: str) -> str | None:
        inside = boxed(text)
        text = _without_markup(text)
        readings = (
            self._exact(text),
            None if inside is None else self._statement(_without_markup(inside)),
            self._stated(text),
        )
        for letter in readings:
            if letter is not None:
                return letter
        if self._repeats_options(text):
            return None
        return (
            self._fragment(text)
            or self._leading_option(text)
            or self._lone_letter(text)
            or self._mentioned(text)
            or self._numeric(text)
        )

    def _exact(self, text: str) -> str | None:
        """The whole text is one option's text, or one letter."""
        stripped = text.strip().strip("()[]{}.:\"'` \n")
        if len(stripped) == 1 and stripped.upper() in self.letters:
            return stripped.upper()
        if re.match(r"\W*[A-Za-z][.):]\s", text):  # "A. Paris" names A, the "A" is no article
            written = _texts(words_of(text))
            same = [i for i, o in enumerate(self.texts) if _texts(words_of(o)) == written]
            return self.letters[same[0]] if len(same) == 1 else None
        return self._with_text(text)

    def _with_text(self, text: str) -> str | None:
        """The one option whose text this is: as it stands, or else normalised."""
        same = [i for i, option in enumerate(self.texts) if option.strip() == text.strip()]
        if not same and (normal := normalise_text(text)):
            same = [i for i, option in enumerate(self.normal) if option == normal]
        return self.letters[same[0]] if len(same) == 1 else None

    def _fragment(self, text: str) -> str | None:
        """The letter with which `text` starts, if it starts with one."""
        text = re.sub(r"^[\s:]*(?:(?:option|choice|letter|answer)\s+)?", "", text, flags=re.I)
        match = re.match(rf"[\s\"'(\[{{]*({self.either})(?![^\W_])", text)
        if match is None:
            return None
        letter, rest = match[1].upper(), text[match.end() :]
        enclosed = bool(re.match(r"[\s\"']*[(\[{]", text)) and rest[:1] in tuple(")]}")
        if match[1].islower() and not (enclosed or re.match(r"[).:\]]|\s*$", rest)):
            return None
        if re.match(r"['’][a-z]|\W*\s(?:is|was)\s+(?:not|incorrect|wrong|false)\b", rest):
            return None
        own = self.normal[self.letters.index(letter)]
        follows_own = normalise_text(rest).startswith(own) and own != ""
        separated = _AFTER_LETTER.match(rest) and not (letter == "I" and rest[:1].isspace())
        if not (enclosed or follows_own or separated):
            return None
        second = re.match(
            rf"[)\].]*\s*(?:,|and|or|&|/)\s*(?:or\s+|and\s+)?[(\[]?({self.either})(?![^\W_'’])",
            rest,
        )
        if second and second[1].isupper() and second[1] != letter and not follows_own:
            raise _Ambiguous
        named = self._with_text(_AFTER_MARK.sub("", rest).split("\n", 1)[0])
        if named not in (None, letter):
            raise _Ambiguous
        return letter

    def _stated(self, text: str) -> str | None:
        """The last "the answer is ...", "it's ...", "... is correct" that names an option."""
        found: list[tuple[int, str]] = []  # "?" where a statement is ambiguous
        position = 0
        for statement in answer_statements(text, _NOUNS):
            position = text.index(statement, position)
            try:
                letter = self._statement(statement)
            except _Ambiguous:
                letter = "?"
            if letter is not None:
                found.append((position, letter))
        for match in _PICKS.finditer(text):
            rest = text[match.end() :].split("\n", 1)[0]
            if (letter := self._fragment(rest)) is not None:
                found.append((match.start(), letter))
        judged = rf"(?<![^\W_])[(\[]?({self.upper})[)\].]?{_JUDGED_RIGHT}"
        found.extend((m.start(), m[1]) for m in re.finditer(judged, text))
        if not found:
            return None
        last = max(found)[1]
        if last == "?":
            raise _Ambiguous
        return last

    def _statement(self, statement: str) -> str | None:
        contrast = re.match(r"not\b.*?\bbut\s+(?:rather\s+)?", statement, re.IGNORECASE)
        if contrast:
            statement = statement[contrast.end() :]
        elif re.match(r"not\b", statement, re.IGNORECASE):
            return None
        return (
            self._exact(statement)
            or self._fragment(statement)
            or self._leading_option(statement)
            or self._mentioned(statement)
        )

    def _repeats_options(self, text: str) -> bool:
        """Whether the text lists the options again, from the first on, and says nothing else."""
        marked = re.findall(rf"(?m)^\s*[(\[]?({self.either})[)\].:]\s", text)
        return [letter.upper() for letter in marked[:2]] == list(self.letters[:2])

    def _leading_option(self, text: str) -> str | None:
        """The option whose text is the first clause: "Yes, it is", "Paris because ..."."""
        first = _CLAUSE_END.split(text.strip(), maxsplit=1)[0]
        return self._with_text(first) if first.strip() else None

    def _lone_letter(self, text: str) -> str | None:
        """The one letter that stands in parentheses, after "option", or alone on the last line."""
        named = rf"\(({self.upper})\)|\b(?:[Oo]ption|[Cc]hoice)\s+({self.upper})(?![^\W_])"
        letters = {a or b for a, b in re.findall(named, text)}
        if not letters:
            last = text.strip().rsplit("\n", 1)[-1]
            match = re.fullmatch(rf"\W*({self.upper})\W*", last)
            letters = {match[1]} if match else set()
        if len(letters) > 1:
            raise _Ambiguous
        return letters.pop() if letters else None

    def _mentioned(self, text: str) -> str | None:
        """The one option whose text is asserted somewhere, outside any longer option's text."""
        words = without_articles(words_of(text))
        places: list[tuple[int, Occurrence]] = []
        for i, option in enumerate(self.texts):
            phrase = without_articles(words_of(option))
            places += [(i, place) for place in find_phrase(words, phrase)]
        kept = {
            i
            for i, place in places
            if not is_negated(words, place)
            and not any(_inside(place, other) for j, other in places if j != i)
        }
        return self.letters[kept.pop()] if len(kept) == 1 else None

    def _numeric(self, text: str) -> str | None:
        options = [parse_numeral(option) for option in self.texts]
        found = select_numeral(text)
        if found is None or any(option is None for option in options):
            return None
        same = [i for i, o in enumerate(options) if o is not None and same_number(o, found)]
        return self.letters[same[0]] if len(same) == 1 else None


def _inside(place: Occurrence, other: Occurrence) -> bool:
    longer = other.end - other.start > place.end - place.start
    return longer and other.start <= place.start and place.end <= other.end


def _texts(words: Sequence[Word]) -> list[str]:
    return [word.text for word in words]


def _without_markup(text: str) -> str:
    text = text.translate(_FULL_WIDTH)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|boxed|fbox)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\*+|__|`|\\[()\[\]]|\$(?!\d)", "", text)
