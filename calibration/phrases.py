"""Finding a short phrase in an answer, and telling an assertion from a mention.

The normalisation follows SQuAD's evaluation (Rajpurkar et al. 2016, arXiv 1606.05250): lower case,
no punctuation, no articles, single spaces. Where that would make different answers equal, less is
removed; `normalise_text` lists it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ARTICLES = frozenset({"a", "an", "the"})

_NEGATORS = frozenset(
    re.findall(
        r"\w+",
        "not never no neither nor cannot cant isnt wasnt arent werent dont doesnt didnt wont "
        "wouldnt shouldnt couldnt without except unlike instead rather",
    )
)
_NEGATED_VERBS = frozenset(
    {"isnt", "wasnt", "arent", "werent", "doesnt", "didnt", "cant", "cannot"}
)
_VERBS = frozenset(
    {"is", "was", "are", "were", "does", "did", "can", "could", "has", "had", "will"}
)
_EXAMPLE_MARKERS = (
    ("such", "as"),
    ("including",),
    ("for", "example"),
    ("for", "instance"),
    ("eg",),
)
_NEGATION_REACH = 5
"""How many words before a phrase, in its own clause, a negation still governs it."""

_QUOTED = re.compile(r"[\"“”«‘'`*]+([^\"“”»’'`*\n]{1,80}?)[\"“”»’'`*]+")
_ANSWER_IS = r"""\b(?:{nouns})
    (?:\s+(?:to|for|of|in|from|among|here|that)\b[^.\n:=]{{0,160}}?)?
    \s*(?:\b(?:is|are|was|equals)\b|\b(?:would|should|must|will|can\s+only)\s+be\b|:|=)
    \s*:?\s*"""
_STATEMENT_END = re.compile(r"\n|[.!?](?=\s|$)")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:(?:[a-z]\.)*[a-z]|mrs?|ms|dr|st|mt|ft|jr|sr|vs)$", re.I)


@dataclass(frozen=True, slots=True)
class Word:
    """One normalised word of a text, with the clause and the sentence it stands in."""

    text: str
    clause: int
    sentence: int


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Where a phrase stands in a text, as a half-open range of words."""

    start: int
    end: int


def normalise_text(text: str) -> str:
    """Return `text` in the form in which two answers are compared.

    Unicode compatibility forms and accents are folded, letters lower-cased, punctuation and
    articles removed, spaces collapsed. Kept, unlike in SQuAD, because removing them would make
    different answers equal: ``. : /`` between digits (3.5 is not 35, 3:45 is not 345), a minus sign
    before a number, ``+`` and ``#`` after a letter (C++, C#), and an article that ends the text
    (vitamin A).

    >>> normalise_text("The  U.S.A.!")
    'usa'
    >>> normalise_text("-3.50, a pair")
    '-3.50 pair'
    """
    return " ".join(word.text for word in without_articles(words_of(text)))


def words_of(text: str, *, split_hyphens: bool = False) -> list[Word]:
    """Split `text` into normalised words, articles included.

    Hyphens, dashes and slashes between letters are removed ("Spider-Man" -> "spiderman"), or, with
    `split_hyphens`, part the words they join.
    """
    words: list[Word] = []
    clause = sentence = 0
    for chunk in re.findall(r"\S+|\n", _fold(text)):
        if chunk == "\n":
            clause, sentence = clause + 1, sentence + 1
            continue
        pieces = re.split(r"(?<=[^\W\d_])[-/](?=[^\W\d_])", chunk) if split_hyphens else [chunk]
        words.extend(
            Word(piece, clause, sentence) for raw in pieces if (piece := _strip_marks(raw))
        )
        end = chunk.rstrip("\"')]}*_`")
        if end.endswith((".", "!", "?")) and not _ABBREVIATION.search(end[:-1]):
            clause, sentence = clause + 1, sentence + 1
        elif end.endswith((",", ";", ":")) or chunk == "-":
            clause += 1
    return words


def without_articles(words: Sequence[Word]) -> list[Word]:
    """Drop articles that a word follows; a last "a" is more likely a name, as in "vitamin A"."""
    last = len(words) - 1
    return [word for i, word in enumerate(words) if i == last or word.text not in ARTICLES]


def find_phrase(words: Sequence[Word], phrase: Sequence[Word]) -> Iterator[Occurrence]:
    """Yield every place where the words of `phrase` stand together in `words`."""
    wanted = [word.text for word in phrase]
    size = len(wanted)
    if not size:
        return
    for start in range(len(words) - size + 1):
        if all(words[start + i].text == wanted[i] for i in range(size)):
            yield Occurrence(start, start + size)


def is_negated(words: Sequence[Word], place: Occurrence) -> bool:
    """Whether a negation governs the phrase: "not X", "I don't think it is X", "X is not ..."."""
    clause = words[place.start].clause
    before = words[max(0, place.start - _NEGATION_REACH) : place.start]
    for word in reversed(before):
        if word.clause != clause or word.text in {"but", "only"}:
            break
        if word.text in _NEGATORS:
            return True
    after = [word.text for word in words[place.end : place.end + 3] if word.clause == clause]
    if after and after[0] in _NEGATED_VERBS:
        return True
    return (
        after[:1] != [] and after[0] in _VERBS and after[1:2] == ["not"] and after[2:] != ["only"]
    )


def is_example(words: Sequence[Word], place: Occurrence) -> bool:
    """Whether the phrase only illustrates: after "such as", "including", "for example"."""
    sentence = words[place.start].sentence
    before = [word.text for word in words[: place.start] if word.sentence == sentence]
    return any(
        tuple(before[i : i + len(marker)]) == marker
        for marker in _EXAMPLE_MARKERS
        for i in range(len(before))
    )


def quoted_phrases(text: str) -> list[str]:
    """Return what stands in quotation marks, backticks or bold, as written."""
    return [match.group(1) for match in _QUOTED.finditer(text)]


def answer_statements(text: str, nouns: Sequence[str] = ("answer",)) -> list[str]:
    """Return what follows each "the answer is", "Answer:" and the like, to the sentence's end.

    `nouns` are the words that can stand for "answer".
    """
    found = []
    pattern = _ANSWER_IS.format(nouns="|".join(nouns))
    for match in re.finditer(pattern, text, re.IGNORECASE | re.VERBOSE):
        rest = text[match.end() :]
        found.append(rest[: _statement_length(rest)].strip())
    return [statement for statement in found if statement]


def boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` or ``\fbox{...}`` holds, braces matched; else None."""
    starts = list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))
    for match in reversed(starts):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position]
    return None


def _statement_length(rest: str) -> int:
    for match in _STATEMENT_END.finditer(rest):
        is_stop = match.group() == "."
        head = rest[: match.start()]
        # "(B." and "B. Paris" go on after the letter; so do initials and "St."
        goes_on = bool(rest[match.end() :].strip())
        if (
            is_stop
            and goes_on
            and (_ABBREVIATION.search(head) or re.fullmatch(r"[\s(*\[]*[A-Za-z]", head))
        ):
            continue
        if head.strip():
            return match.start()
    return len(rest)


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[‐‑‒–—−]", "-", text).replace("\u2044", "/")  # NFKC writes ½ as 1⁄2
    text = re.sub(r"(?<=\s)&(?=\s)", "and", text)
    text = re.sub(r"\b([a-z])\.\s+(?=[a-z]\.)", r"\1.", text)  # initials: "J. K." is "J.K."
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _strip_marks(chunk: str) -> str:
    kept: list[str] = []
    for i, char in enumerate(chunk):
        before, after = chunk[i - 1 : i], chunk[i + 1 : i + 2]
        inside = (before.isdigit() and char in ".:/") or (char == "-" and not before.isalnum())
        if (
            char.isalnum()
            or (inside and after.isdigit())
            or (char == "." and after.isdigit() and not before)
            or (char in "+#" and (before.isalpha() or kept[-1:] == ["+"]))
        ):
            kept.append(char)
    return "".join(kept)
