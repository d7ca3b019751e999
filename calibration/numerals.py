r"""Numbers in answers: reading them, choosing the one that is meant, comparing it.

Read are ``1,234.5``, ``-3/4``, ``1 1/2``, ``2.5e3``, ``\frac{3}{4}``, ``$12``, ``25%``, ``forty``.

A number is a `Numeral`: its exact value, and how it was written where that matters for comparing.
English notation only: a comma groups digits, a point starts the decimals. Dates, times, ratios and
version numbers (3/4/2020, 3:45, 1.2.3) are not numbers, nor are digits inside a name (H2O, B12).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from calibration.phrases import answer_statements, boxed

_MAX_DIGITS = 400
"""Longer numbers are ignored: nobody's answer, and exact arithmetic on them could take long."""

_UNITS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {
    word: 20 + 10 * i for i, word in enumerate(_TENS)
}
_WEAK_WORDS = {"one", "none"}
"""Mostly used as pronouns ("no one", "one of them"): numbers only where a text has no other."""

_WORD = "|".join(sorted([*_SMALL, "hundred", *_SCALES], key=len, reverse=True))
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_CONCLUSION = re.compile(
    r"\W*(?:so|thus|therefore|hence|altogether|finally|in\s+(?:total|all|conclusion))\b", re.I
)
_VERB_BEFORE = re.compile(
    r"""\b(?:is|are|was|were|be|has|have|had|equals|needs?|needed|takes?|took|pays?|paid|costs?|gets?|got
        |buys?|bought|sells?|sold|makes?|made|earns?|earned|gives?|gave|spends?|spent|eats?|ate)
        (?:\s+(?:us|exactly|only|about|approximately|now|a\s+total\s+of))*\s+$""",
    re.IGNORECASE | re.VERBOSE,
)

_GROUP = r"[,'\u00a0\u2009\u202f]"

_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![^\W_])(?<![)\]}}])[-+]|\b(?:minus|negative)\s+)?
    (?P<currency>(?:[$€£¥₹]|(?<![^\W_])(?:rs\.?|usd|eur|gbp|us\$)\s?)\s?(?P<sign2>-)?)?
    (?:
      (?<![^\W_])(?<![^\W_]\^)(?<!\^)(?<![A-Za-z]-)(?<!\d[./:])(?<!\d\.-)
      (?:
        (?P<whole>\d+)\s+(?:and\s+)?(?P<mixed_top>\d+)\s*/\s*(?P<mixed_bottom>\d+)(?!\d|\s*/\s*\d)
      | (?P<top>\d+(?:\.\d+)?)\s*/\s*(?P<bottom>\d+(?:\.\d+)?)(?!\d|\s*/\s*\d)
      | (?P<integer>\d{{1,3}}(?:{_GROUP}\d{{2,3}})*{_GROUP}\d{{3}}(?!\d)|\d+)?
        (?P<decimals>\.\d+)?
        (?<=\d)(?!\d|[./:]\d|\s*/\s*\d)
        (?:
          e(?P<exponent>[-+]?\d{{1,3}})(?![^\W_])
        | \s*[×x*·]\s*10\s*(?:\^|\*\*)\s*[({{]?(?P<ten>[-+]?\d{{1,3}})[)}}]?
        | \s*(?:\^|\*\*)\s*[({{]?(?P<power>[-+]?\d{{1,3}})[)}}]?
        )?
      )
      (?:\s*(?P<scale>thousand|million|billion|trillion)\b)?
      (?P<percent>\s*(?:%|percent\b|per\s+cent\b|pct\b))?
    | (?<![^\W_-])(?P<words>(?:{_WORD})(?:(?:\s+and\s+|[\s-]+)(?:{_WORD}))*)(?![^\W_])
      (?P<words_percent>\s*(?:percent\b|per\s+cent\b))?
    | \b(?P<none>none)\b
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Numeral:
    """One number as it stands in a text.

    Attributes
    ----------
    value : exact; a percent sign does not divide it.
    decimals : digits after the point; None when it was not written as a decimal number.
    percent : whether a percent sign or word followed.
    start, end : where it stands in the text it was found in (after `plain`).
    weak : "one" or "none" as a word, which may as well be a pronoun.
    """

    value: Fraction
    decimals: int | None
    percent: bool = False
    start: int = 0
    end: int = 0
    weak: bool = False


def plain(text: str) -> str:
    """Return `text` with LaTeX, emphasis and typographic variants in plain notation."""
    text = re.sub(r"[−﹣－]", "-", text)
    text = re.sub(r"(?<![\d)])–(?=\d)", "-", text)
    text = re.sub(
        "[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: "^" + found.group().translate(_SUPERSCRIPTS), text
    )
    text = "".join(_vulgar_fraction(char) for char in text)
    text = re.sub(r"\\(?:,|;|!|:|\s)|\{,\}", _thin_space, text)
    text = re.sub(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", _fraction, text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\(?:times|cdot)\b", "×", text)
    text = re.sub(r"\\([$%#_])", r"\1", text)
    return text.replace("**", " ").replace("`", " ") if _bold(text) else text


def find_numerals(text: str) -> list[Numeral]:
    """Return all numbers of `text` (already `plain`), in the order in which they stand."""
    found = [numeral for match in _NUMBER.finditer(text) for numeral in _read(match)]
    strong = [numeral for numeral in found if not numeral.weak]
    return strong or found


def parse_numeral(text: str) -> Numeral | None:
    """Return `text` as a number if it is nothing else; a currency or percent sign is allowed."""
    text = plain(text).strip()
    match = _NUMBER.fullmatch(text.rstrip(".").strip())
    if match is None:
        return None
    numerals = _read(match)
    return numerals[0] if len(numerals) == 1 and match["none"] is None else None


def extract_number(text: str) -> Fraction | None:
    r"""Return the number that `text` gives as its answer, exactly; None when there is none.

    The first of these that holds a number decides: the last ``\boxed{}``; what follows the last
    ``####``; the last "the answer is ..." (its first number, or the one after its last ``=``); the
    last line or sentence with a number in it (the first after its last ``=``, or in a conclusion
    the first after its verb - "So she needs 12 eggs for 2 cakes" -, else its last). Numbers that
    are negated ("not 5") or mark a list entry ("2. ") don't count, and one of two joined by "or" is
    no answer. Currency and percent signs and units are dropped: "25%" is 25.

    >>> extract_number(r"5 + 7 = 12, so \boxed{\frac{12}{5}}")
    Fraction(12, 5)
    >>> extract_number("She has 3 - 1 = 2 apples left in 1 basket.")
    Fraction(2, 1)
    """
    found = select_numeral(text)
    return None if found is None else found.value


def select_numeral(text: str) -> Numeral | None:
    """Return the number that `text` gives as its answer, as `extract_number` does, unconverted."""
    inside = boxed(text)
    if inside is not None and (numerals := find_numerals(plain(inside))):
        return numerals[-1]
    text = plain(text)
    if "####" in text:
        line = text.rsplit("####", 1)[1].strip().split("\n", 1)[0]
        if numerals := find_numerals(line):
            return numerals[0]
    for statement in reversed(answer_statements(text)):
        if (result := _after_equals(statement)) is not None:
            return result
        if numerals := find_numerals(statement):
            return _unhedged(statement, numerals, numerals[0])
    without_markers = re.sub(r"(?m)^\s*(?:step\s+)?\d+\s*[.):]\s+(?=\S)", "", text, flags=re.I)
    for candidate in (without_markers, text):
        for sentence in reversed(re.split(r"\n|(?<=[.!?])\s", candidate)):
            if numerals := [n for n in find_numerals(sentence) if not _is_negated_at(sentence, n)]:
                result = _after_equals(sentence)
                return result or _unhedged(sentence, numerals, _concluded(sentence, numerals))
    return None


def _after_equals(text: str) -> Numeral | None:
    """The first number after the last ``=``; the last one where a calculation follows it."""
    _, equals, tail = text.rpartition("=")
    numerals = find_numerals(tail) if equals else []
    if len(numerals) > 1 and re.fullmatch(
        r"\s*[-+*/×·x÷]\s*", tail[numerals[0].end : numerals[1].start]
    ):
        return numerals[-1]
    return numerals[0] if numerals else None


def _concluded(sentence: str, numerals: Sequence[Numeral]) -> Numeral:
    """The last number; in a sentence that concludes, rather the first that follows its verb."""
    if _CONCLUSION.match(sentence):
        for numeral in numerals:
            if _VERB_BEFORE.search(sentence[: numeral.start]):
                return numeral
    return numerals[-1]


def _is_negated_at(text: str, numeral: Numeral) -> bool:
    return re.search(r"(?:\bnot|n['’]t)\s+(?:\w+\s+)?$", text[: numeral.start]) is not None


def _unhedged(text: str, numerals: Sequence[Numeral], chosen: Numeral) -> Numeral | None:
    """Return `chosen`, the next one where it is negated, or None where "or" joins it to another."""
    usable = [n for n in numerals if not _is_negated_at(text, n)]
    if not usable:
        return None
    if chosen not in usable:
        chosen = usable[0]
    i = usable.index(chosen)
    gaps = [(usable[j], usable[j + 1]) for j in (i - 1, i) if 0 <= j < len(usable) - 1]
    hedged = any(re.fullmatch(r"[\s,]*or\s+", text[a.end : b.start]) for a, b in gaps)
    return None if hedged else chosen


def same_number(accepted: Numeral, found: Numeral) -> bool:
    """Whether `found` is the accepted number.

    Equal means exactly equal, but for two liberties. A percent sign may be read as a unit or as a
    division by 100 ("25%" is 25 and 0.25). Rounding: more decimals than an accepted answer with at
    least two (3.14159 for 3.14), or at least two decimals of an accepted fraction without a finite
    decimal form (0.33 for 1/3).
    """
    values = {found.value}
    targets = {accepted.value}
    if found.percent and not accepted.percent:
        values.add(found.value / 100)
    elif accepted.percent and not found.percent:
        targets.add(accepted.value / 100)
    return any(
        _equal(target, value, accepted.decimals, found.decimals)
        for target in targets
        for value in values
    )


def _equal(target: Fraction, value: Fraction, wanted: int | None, given: int | None) -> bool:
    if target == value:
        return True
    if given is None or given < 2:
        return False
    if wanted is None:
        rounding = given if not _is_finite_decimal(target) else None
    else:
        rounding = wanted if 2 <= wanted < given else None
    return rounding is not None and abs(target - value) <= Fraction(1, 2 * 10**rounding)


def _is_finite_decimal(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _read(match: re.Match[str]) -> list[Numeral]:
    negative = bool(match["sign"] and match["sign"].strip() != "+") != bool(match["sign2"])
    start, end = match.span()
    if match["words"] or match["none"]:
        words = (match["words"] or "none").lower()
        values = [0] if words == "none" else _word_values(words)
        percent = match["words_percent"] is not None
        return [
            Numeral(
                Fraction(-value if negative else value),
                0,
                percent,
                start,
                end,
                words in _WEAK_WORDS,
            )
            for value in values
        ]
    value = _value(match)
    if value is None:
        return []
    decimals = match["decimals"]
    is_decimal = match["integer"] is not None or decimals is not None
    is_plain = not any(match[name] for name in ("exponent", "ten", "power", "scale"))
    return [
        Numeral(
            -value if negative else value,
            len((decimals or ".")[1:]) if is_decimal and is_plain else None,
            match["percent"] is not None,
            start,
            end,
        )
    ]


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    if match["whole"] is not None:
        top, bottom = int(match["mixed_top"]), int(match["mixed_bottom"])
        value = None if bottom == 0 else int(match["whole"]) + Fraction(top, bottom)
    elif match["top"] is not None:
        bottom_value = Fraction(match["bottom"])
        value = None if bottom_value == 0 else Fraction(match["top"]) / bottom_value
    else:
        digits = re.sub(r"\D", "", match["integer"] or "0")
        value = Fraction(digits + (match["decimals"] or ""))
        if match["power"] is not None:
            value = _power(value, int(match["power"]))
        elif shift := int(match["exponent"] or match["ten"] or 0):
            value *= Fraction(10) ** shift
    if value is not None and match["scale"]:
        value *= _SCALES[match["scale"].lower()]
    return value


def _power(base: Fraction, exponent: int) -> Fraction | None:
    size = len(str(base.numerator)) + len(str(base.denominator))
    if size * abs(exponent) > _MAX_DIGITS or (base == 0 and exponent < 0):
        return None
    return base**exponent


def _word_values(words: str) -> list[int]:
    """Read number words; "two thousand and five" is one number, "nineteen eighty" two."""
    values: list[int] = []
    total, current, previous = 0, 0, ""
    started = False
    for word in re.split(r"[\s-]+", words):
        if word == "and":
            if previous not in {"hundred", *_SCALES}:
                values.append(total + current)
                total, current, started = 0, 0, False
        elif word == "hundred":
            current = max(current, 1) * 100
            started = True
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
            started = True
        else:
            value = _SMALL[word]
            follows = not started or previous in {"hundred", "and", *_SCALES}
            if not follows and not (previous in _TENS and 0 < value < 10):
                values.append(total + current)
                total, current = 0, 0
            current, started = current + value, True
        previous = word
    if started:
        values.append(total + current)
    return values


def _vulgar_fraction(char: str) -> str:
    if (
        char.isascii()
        or unicodedata.category(char) != "No"
        or "⁄" not in (parts := unicodedata.normalize("NFKC", char))
    ):
        return char
    return " " + parts.replace("⁄", "/")


def _thin_space(found: re.Match[str]) -> str:
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return "," if before.isdigit() and after.isdigit() else " "


def _fraction(found: re.Match[str]) -> str:
    top, bottom = found[1] or found[2] or "", found[3] or found[4] or ""
    before = found.string[: found.start()].rstrip()[-1:]
    return f"{' ' if before.isdigit() else ''}{top.strip()}/{bottom.strip()}"


def _bold(text: str) -> bool:
    """Whether ``**`` marks emphasis here rather than a power: a pair of it does."""
    return bool(re.search(r"\*\*[^*\n]+\*\*", text)) or "`" in text
