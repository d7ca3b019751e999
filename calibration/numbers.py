r"""Which number does an answer give, and is it the one asked for?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from calibration.numerals import Numeral, find_numerals, plain
from calibration.phrases import answer_statements, boxed

__all__ = ["extract_number", "same_number", "select_numeral"]


def extract_number(text: str) -> Fraction | None:
    r"""Return the number that `text` gives as its answer, exactly; None when there is none.

    The first of these that holds a number decides: the last ``\boxed{}``; what follows the last
    ``####``; the last "the answer is ..." (the first number in it, or the one after its last ``=``);
    the last line or sentence with a number in it (its last number, or the first after its last
    ``=``). Numbers that are negated ("not 5") or mark a list entry ("2. ") don't count, and one of
    two joined by "or" is no answer. Percent signs, currencies and units are dropped: "$25%" is 25.

    >>> extract_number(r"5 + 7 = 12, so \\boxed{\\frac{12}{5}}")
    Fraction(12, 5)
    >>> extract_number("She has 3 - 1 = 2 apples left in 1 basket.")
    Fraction(2, 1)
    """
    found = select_numeral(text)
    return None if found is None else found.value


def select_numeral(text: str) -> Numeral | None:
    inside = boxed(text)
    if inside is not None and (numerals := find_numerals(plain(inside))):
        return numerals[-1]
    text = plain(text)
    if "####" in text:
        line = text.rsplit("####", 1)[1].strip().split("\n", 1)[0]
        if numerals := find_numerals(line):
            return numerals[0]
    for statement in reversed(answer_statements(text)):
        if numerals := find_numerals(_after_equals(statement)):
            return _unhedged(_after_equals(statement), numerals, numerals[0])
    without_markers = re.sub(r"(?m)^\s*(?:step\s+)?\d+\s*[.):]\s+(?=\S)", "", text, flags=re.I)
    for candidate in (without_markers, text):
        for sentence in reversed(re.split(r"\n|(?<=[.!?])\s", candidate)):
            if numerals := [n for n in find_numerals(sentence) if not _is_negated_at(sentence, n)]:
                tail = find_numerals(_after_equals(sentence)) if "=" in sentence else []
                return tail[0] if tail else _unhedged(sentence, numerals, numerals[-1])
    return None


def _after_equals(text: str) -> str:
    parts = re.split(r"=(?!=)", text)
    return parts[-1] if find_numerals(parts[-1]) else text


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
    least two (3.14159 for 3.14), or at least two decimals of an accepted fraction that has no finite
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
