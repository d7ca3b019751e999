r"""Is this answer correct?

Three rules, chosen by an item's `grader`. All are deliberate compromises: a rule that reads free
text will misjudge some of it, and every misjudged answer is noise in the calibration made from it.
What each accepts and refuses stands in its docstring and in the table of hard cases of its tests.

A contradictory, hedged or negated answer is not correct: "A or B", "A. <text of B>", "not Paris",
"Paris or London".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from calibration.items import Item
from calibration.numerals import extract_number, parse_numeral, same_number, select_numeral
from calibration.options import extract_choice
from calibration.phrases import (
    ARTICLES,
    Occurrence,
    Word,
    answer_statements,
    find_phrase,
    is_example,
    is_negated,
    normalise_text,
    quoted_phrases,
    without_articles,
    words_of,
)

__all__ = ["extract_choice", "extract_number", "grade", "normalise_text"]

_POLAR = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no"}
_OPPOSITE = {"true": "false", "false": "true"}
_COPULAS = frozenset({"is", "was", "are", "were", "be"})
_CONTRACTED = frozenset({"its", "thats"})  # "its" only where it begins a sentence: "It's X"
_ALTERNATIVES = frozenset({"or", "and", "than"})

# Words so common that finding one in an answer says nothing: they count only as the whole answer,
# as the answer stated, or in quotation marks.
_COMMON_WORDS = ARTICLES | frozenset(
    re.findall(
        r"\w+",
        "i me my you he him his she her it its we us our they them their who what which this that "
        "these those and or but if of in on at to for by with from as is are was were be been do "
        "does did has have had will would can could may might must not no yes so than then there "
        "here all some any one up out off over how when where why",
    )
)


def grade(item: Item, text: str) -> bool:
    """Whether `text` answers `item` correctly, by the item's own grader.

    ``choice``: `extract_choice` finds the right letter. ``number``: `extract_number`'s number is
    one of the accepted ones (`calibration.numerals.same_number` tells of percent signs and
    rounding). ``text``: one of the accepted answers is what `text` says (see `_says`).
    """
    if item.choices is not None:
        return extract_choice(text, item.choices) == item.answer
    if item.grader == "number":
        found = select_numeral(text)
        accepted = [parse_numeral(answer) for answer in item.answers]
        return found is not None and any(same_number(a, found) for a in accepted if a is not None)
    return _says(text, item.answers, item.question)


def _says(text: str, accepted: Sequence[str], question: str) -> bool:
    """Whether `text` gives one of the `accepted` answers.

    It does when both are equal after `normalise_text`, or when the text contains the answer, at
    word borders, as an assertion. If the text says "the answer is ...", only that statement is
    searched. A mention is no assertion when it is negated, joined by "or" to something not
    accepted, given as an example ("such as ..."), or in a question. An answer that is a single
    character or a word like "of" must be stated or quoted. An answer that stands in the question
    must follow "is"; if the question offers alternatives ("a mouse or an elephant?"), it may also
    begin a sentence. Yes and no are read from the first word, or from "the answer is".

    Known limits: an answer inside a longer name counts ("New York" in "New York Times"), and so
    does one of several in a list ("red, white and blue"); paraphrases don't.
    """
    text = re.sub(r"^\s*(?:A|Answer)\s*:\s*", "", text)
    stated = answer_statements(text)[-1:]
    if any(_equal_text(whole, answer) for whole in (text, *stated) for answer in accepted):
        return True
    polar = {normalise_text(answer) for answer in accepted}
    if polar <= {"yes", "no", "true", "false"}:
        return _polarity(text) in polar
    searched = re.sub(r"[^.!?\n]*\?", " ", (stated or [text])[0])  # a question asserts nothing
    return any(
        _asserts(searched, accepted, question, split_hyphens=split, keep_articles=keep)
        for split in (False, True)
        for keep in (True, False)
    )


def _equal_text(text: str, answer: str) -> bool:
    if not normalise_text(answer):  # nothing but marks, like "<" or "+"
        return answer.strip() in (text.strip(), text.strip("\"'`*. \n"))
    return any(
        [w.text for w in without_articles(words_of(text, split_hyphens=split))]
        == [w.text for w in without_articles(words_of(answer, split_hyphens=split))]
        for split in (False, True)
    )


def _polarity(text: str) -> str | None:
    for statement in [text, *reversed(answer_statements(text))]:
        words = words_of(statement)
        first = words[0].text if words else ""
        if words[1:] and words[1].text == "or":
            continue
        if first in _POLAR or first in _OPPOSITE:
            return _POLAR.get(first, first)
    words = words_of(text)
    verdicts = {
        _OPPOSITE[word.text] if is_negated(words, Occurrence(i, i + 1)) else word.text
        for i, word in enumerate(words)
        if word.text in _OPPOSITE
    }
    last = words[-2:]  # "... So no." and "...\nNo": a last sentence of its own
    if len(last) == 2 and last[1].text in _POLAR and _begins_sentence(words, len(words) - 1):
        verdicts.add(_POLAR[last[1].text])
    return verdicts.pop() if len(verdicts) == 1 else None


def _asserts(
    text: str, accepted: Sequence[str], question: str, *, split_hyphens: bool, keep_articles: bool
) -> bool:
    def words_in(part: str) -> list[Word]:
        words = words_of(part, split_hyphens=split_hyphens)
        return words if keep_articles else without_articles(words)

    words = words_in(text)
    asked = words_in((re.findall(r"[^.!?\n]*\?", question) or [question])[-1])
    has_alternatives = any(word.text in _ALTERNATIVES for word in asked)
    places: list[tuple[Occurrence, bool]] = []
    for answer in accepted:
        phrase = words_in(answer)
        if _is_common(phrase):
            if _is_set_apart(text, answer):
                return True
            continue
        is_echo = next(find_phrase(asked, phrase), None) is not None
        places += [(place, is_echo) for place in find_phrase(words, phrase)]
    found = [place for place, _ in places]
    return any(
        _is_assertion(words, place, found)
        and (not is_echo or _is_chosen(words, place, may_begin=has_alternatives))
        for place, is_echo in places
    )


def _is_common(phrase: Sequence[Word]) -> bool:
    texts = [word.text for word in phrase]
    return all(text in _COMMON_WORDS for text in texts) or (
        len(texts) == 1 and len(texts[0]) == 1 and not texts[0].isdigit()
    )


def _is_set_apart(text: str, answer: str) -> bool:
    """Whether `answer` is in quotes or, in the middle of a sentence, a name: "in May"."""
    if normalise_text(answer) in map(normalise_text, quoted_phrases(text)):
        return True
    name = re.escape(answer.strip().capitalize())
    return len(answer.strip()) > 1 and re.search(rf"[a-z,]\s+{name}(?!\w)", text) is not None


def _is_assertion(words: Sequence[Word], place: Occurrence, places: Sequence[Occurrence]) -> bool:
    if is_negated(words, place) or is_example(words, place):
        return False
    before = _before_articles(words, place.start)
    same_sentence = before >= 0 and not _begins_sentence(words, before + 1)
    if same_sentence and words[before].text in {"or", "either"}:
        return any(other.end == before for other in places)
    after = place.end
    if after < len(words) and words[after].text == "or" and not _begins_sentence(words, after):
        return any(_before_articles(words, other.start) == after for other in places)
    return True


def _is_chosen(words: Sequence[Word], place: Occurrence, *, may_begin: bool) -> bool:
    """Whether a phrase of the question's own is the answer here, and no mere echo.

    It is when it is the whole sentence, follows "is", or, with `may_begin`, begins a sentence.
    """
    before = _before_articles(words, place.start)
    if _begins_sentence(words, before + 1):
        is_whole = place.end == len(words) or _begins_sentence(words, place.end)
        return may_begin or is_whole
    word = words[before].text
    return word in _COPULAS or (word in _CONTRACTED and _begins_sentence(words, before))


def _before_articles(words: Sequence[Word], position: int) -> int:
    """Index of the last word before `position` that is no article; -1 when there is none."""
    position -= 1
    while position >= 0 and words[position].text in ARTICLES:
        position -= 1
    return position


def _begins_sentence(words: Sequence[Word], position: int) -> bool:
    return position == 0 or words[position - 1].sentence < words[position].sentence
