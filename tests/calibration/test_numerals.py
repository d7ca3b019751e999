"""Numbers in answers: reading, choosing, comparing."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.grading import extract_number
from calibration.numerals import find_numerals, parse_numeral, plain, same_number


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7", ["7"]),
        ("-5", ["-5"]),
        ("+5", ["5"]),
        ("−5", ["-5"]),
        ("it fell to –7 degrees", ["-7"]),
        ("minus seven", ["-7"]),
        ("negative 7", ["-7"]),
        ("10-5", ["10", "5"]),
        ("10 - 5", ["10", "5"]),
        ("x=-3", ["-3"]),
        ("(-3)", ["-3"]),
        ("between 3-5", ["3", "5"]),
        ("1,234,567.89", ["1234567.89"]),
        ("1,23,456", ["123456"]),
        ("1'000'000", ["1000000"]),
        ("1\u00a0234", ["1234"]),
        ("1 234", ["1", "234"]),
        ("1,2,3", ["1", "2", "3"]),
        ("12,345,6", ["12345", "6"]),
        (".5", ["0.5"]),
        ("5.", ["5"]),
        ("0.10", ["0.1"]),
        ("$12", ["12"]),
        ("$-5", ["-5"]),
        ("-$5", ["-5"]),
        ("US$5", ["5"]),
        ("Rs.360", ["360"]),
        ("€ 3.50", ["3.5"]),
        ("25%", ["25"]),
        ("25 percent", ["25"]),
        ("3/4", ["3/4"]),
        ("1.5/2", ["3/4"]),
        ("1 3/4", ["7/4"]),
        ("2 and 1/2 cups", ["5/2"]),
        ("½", ["1/2"]),
        ("1½", ["3/2"]),
        ("7 / 0", []),
        (r"\frac{3}{4}", ["3/4"]),
        (r"-\frac{3}{4}", ["-3/4"]),
        (r"1\frac{3}{4}", ["7/4"]),
        (r"\dfrac12", ["1/2"]),
        (r"\$1{,}234", ["1234"]),
        (r"1\,234", ["1234"]),
        ("2.5e3", ["2500"]),
        ("2.5E-3", ["0.0025"]),
        ("3 × 10^5", ["300000"]),
        (r"3 \times 10^{5}", ["300000"]),
        ("3*10**2", ["300"]),
        ("10⁵", ["100000"]),
        ("10^-3", ["0.001"]),
        ("2^10", ["1024"]),
        ("0^-1", []),
        ("9^999", []),  # nobody's answer
        ("9" * 500, []),
        ("3 million", ["3000000"]),
        ("$3.5 billion", ["3500000000"]),
        ("forty-two", ["42"]),
        ("Twenty one", ["21"]),
        ("one hundred and eight", ["108"]),
        ("two thousand and five", ["2005"]),
        ("a hundred", ["100"]),
        ("three million five hundred thousand", ["3500000"]),
        ("nineteen eighty-four", ["19", "84"]),
        ("twenty and five", ["20", "5"]),
        ("five percent", ["5"]),
        ("no one", ["1"]),  # only where there is nothing else
        ("one of the 3", ["3"]),
        ("None.", ["0"]),
        ("none of the 4", ["4"]),
        ("5km", ["5"]),
        ("3rd", ["3"]),
        ("**42**", ["42"]),
        ("_42_", ["42"]),
        ("$42$", ["42"]),
        # no numbers
        ("", []),
        ("anyone", []),
        ("H2O and B12", []),
        ("COVID-19", []),
        ("x^2", []),
        ("m²", []),
        ("3/4/2020", []),
        ("3:45", []),
        ("version 1.2.3", []),
    ],
)
def test_find(text: str, values: list[str]) -> None:
    assert [numeral.value for numeral in find_numerals(plain(text))] == [
        Fraction(value) for value in values
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("12.", "12"),
        (" 1,200 ", "1200"),
        ("$12.50", "12.5"),
        ("25%", "25"),
        ("3/4", "3/4"),
        ("forty-two", "42"),
        ("one", "1"),
    ],
)
def test_parse(text: str, value: str) -> None:
    numeral = parse_numeral(text)
    assert numeral is not None
    assert numeral.value == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["", "5 km", "7 Up", "none", "1, 2", "3:45", "nineteen eighty", "abc", "50 states", "x2"],
)
def test_parse_nothing_else(text: str) -> None:
    assert parse_numeral(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("So 42 apples.", "42"),
        ("There are seven apples.", "7"),
        ("-7 degrees", "-7"),
        ("It is 5,000.", "5000"),
        ("1 1/2 cups", "3/2"),
        ("approx. 3.14159", "3.14159"),
        ("None", "0"),
        # the sum's result, not what is left of the sentence
        ("5 + 7 = 12", "12"),
        ("2 x 3 = 6.0", "6"),
        ("1/2 + 1/4 = 3/4", "3/4"),
        ("3 + 4 = 7 apples in 2 baskets", "7"),
        ("$75 = 15 * 5, which is 50.", "50"),
        # boxed before anything else, the last one, with anything inside
        (r"\boxed{\frac{3}{4}} and 9", "3/4"),
        (r"\boxed{5} no, \boxed{6}", "6"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{\text{five}} 9", "5"),
        (r"\boxed{so} 9", "9"),
        (r"\boxed{12", "12"),
        # GSM8K's mark
        ("#### 12 apples in 3 boxes", "12"),
        ("x\n#### 1,234\nmore 5", "1234"),
        ("4\n####", "4"),
        # statements
        ("The answer is 42.", "42"),
        ("The final answer is **18**.", "18"),
        ("The answer is 42 apples in 3 boxes.", "42"),
        ("The answer is 3 + 4 = 7", "7"),
        ("the answer to 3 + 4 is 7", "7"),
        ("The answer: 12\n\nThis is because 3 x 4", "12"),
        ("Answer: $1,200.50", "1200.5"),
        ("Answer: five", "5"),
        ("The answer is 5 (five).", "5"),
        ("The answer is 10^3", "1000"),
        (r"The answer is: \( 7 \)", "7"),
        ("$$x = 18$$", "18"),
        ("The answer is 4. Wait, the answer is 5.", "5"),
        ("The answer is not 5 but 6.", "6"),
        ("The answer is simple. It is 6.", "6"),
        ("6, not 5", "6"),
        ("It isn't 5. It's 6.", "6"),
        # worked answers
        ("Step 1: 3+4=7\nStep 2: 7*2=14", "14"),
        ("1. Add 3 and 4 to get 7.\n2. Done.", "7"),
        ("42. That's it.", "42"),
        ("Total: 12 + 43 = 55.\nSo each pays $55.", "55"),
        ("She has 3 boxes with 4 apples each, which makes 12", "12"),
        ("So Robert will need 300 slats to build his 15 foot long fence.", "300"),
        ("Therefore, after 3 days she has 12 apples.", "12"),
        ("Thus we get 12 for 3", "12"),
        ("So 3 of 12", "12"),
        ("He has 3 boxes of one kind", "3"),
        # hedged, or none
        ("It's 5 or 6.", None),
        ("The answer is 5 or 6", None),
        ("The answer is not 5.", None),
        ("", None),
        ("no idea", None),
        ("at 3:45", None),
    ],
)
def test_extract(text: str, value: str | None) -> None:
    assert extract_number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("accepted", "given_answer"),
    [
        ("18", "18"),
        ("18", "18.0"),
        ("18", "$18.00"),
        ("1200", "1,200"),
        ("0.5", "1/2"),
        ("1/2", "0.5"),
        ("7/4", "1 3/4"),
        ("25", "25%"),
        ("25%", "25"),
        ("0.25", "25%"),
        ("25%", "0.25"),
        ("25%", "25 percent"),
        ("3.14", "3.14159"),
        ("3.14", "3.141"),
        ("1/3", "0.33"),
        ("2/3", "0.667"),
        ("1000", "10^3"),
        ("-4", "−4"),
        ("3000000", "3 million"),
    ],
)
def test_same(accepted: str, given_answer: str) -> None:
    assert _same(accepted, given_answer)


@pytest.mark.parametrize(
    ("accepted", "given_answer"),
    [
        ("18", "-18"),
        ("18", "180"),
        ("18", "18.4"),
        ("18", "17.999"),
        ("0.5", "0.52"),  # one decimal may be exact
        ("0.125", "0.13"),  # fewer decimals than asked for
        ("2.75", "2.8"),
        ("1/3", "0.3"),
        ("1/3", "0.34"),
        ("1/4", "0.251"),
        ("3.14", "3.15"),
        ("25%", "25.5%"),
        ("25", "0.25"),
        ("3.14", "3.1459"),
    ],
)
def test_different(accepted: str, given_answer: str) -> None:
    assert not _same(accepted, given_answer)


def _same(accepted: str, given_answer: str) -> bool:
    wanted = parse_numeral(accepted)
    [found] = find_numerals(plain(given_answer))
    assert wanted is not None
    return same_number(wanted, found)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "${:,}", "{}.0", "**{}**"]))
def test_any_whole_number_in_any_notation(value: int, form: str) -> None:
    assert extract_number("The answer is " + form.format(value)) == value


@given(st.decimals(-(10**6), 10**6, places=3))
def test_any_decimal(value: object) -> None:
    assert extract_number(f"It costs {value}.") == Fraction(str(value))


@given(st.integers(0, 9_999))
def test_number_words(value: int) -> None:
    [numeral] = find_numerals(_in_words(value))
    assert numeral.value == value


_SMALL: list[str] = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen",
)


def _in_words(value: int) -> str:
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if value < 20:
        return _SMALL[value]
    if value < 100:
        return tens[value // 10] + (f"-{_SMALL[value % 10]}" if value % 10 else "")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = f" and {_in_words(value % size)}" if value % size else ""
            return f"{_in_words(value // size)} {name}{rest}"
    raise AssertionError(value)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    extract_number(text)


@given(st.text(alphabet="0123456789.,/-+^e%$ =\\boxedfrac{}()", max_size=60))
def test_anything_like_a_number_is_read(text: str) -> None:
    extract_number(text)
