"""`extract_choice`: which option an answer settles on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.grading import extract_choice

CITIES = ("Rome", "Paris", "New Paris", "Madrid")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "B\n",
        "  B  ",
        "(b)",
        "[B]",
        "'B'",
        '"B"',
        "B.",
        "b)",
        "B:",
        "（Ｂ）",
        "**B**",
        "`B`",
        "B. Paris",
        "b. paris",
        "B) Paris",
        "(B) Paris",
        "B: Paris",
        "B - Paris",
        "B – Paris",
        "B Paris",
        "B, because Rome is in Italy",
        "B because Rome is in Italy",
        "B. It is not Rome.",
        "B\n\nParis has been the capital since 987.",
        "Option B",
        "Choice B: Paris",
        "The answer is B",
        "The answer is b.",
        "The answer is (B).",
        "The answer is: B) Paris",
        "The answer to the question is B.",
        "The correct option is B",
        "The correct answer is option (B).",
        "The correct letter is B",
        "The best choice would be B.",
        "My choice: B",
        "Answer: **B**",
        "**Answer:** B",
        "Answer:\nB",
        "Final answer: B",
        "Sure! The answer is (B).",
        "Therefore, the right answer is\n\nB",
        "I choose B.",
        "I would go with B",
        "so it must be B",
        "it is b)",
        "B is correct",
        "B is the correct answer",
        "(B) is the right one, I think: it is the best.",
        "A is incorrect. B is correct.",
        "(A) is wrong. The answer is (B).",
        "The answer is not A but B.",
        "The answer is not A. It's B.",
        "Answer: A. Wait, no. Answer: B",
        "The answer is A or B. On reflection, the answer is B.",
        "A. Rome\n\nThe correct answer is B. Paris",
        "A. Rome\nB. Paris\nC. New Paris\nD. Madrid\n\nAnswer: B",
        "Well... (B)",
        "Hard to say.\nB",
        r"\boxed{B}",
        r"\boxed{\text{B}}",
        r"$\boxed{(B)}$",
        r"Since Rome is in Italy, \boxed{\text{Paris}}",
        "Paris",
        "paris.",
        "It is Paris.",
        "The capital is Paris, of course.",
        "The answer is Paris",
        "Paris, not Rome",
        "Not Rome but Paris",
        "A city is Paris",
        "Paris because Rome is in Italy",
    ],
)
def test_it_is_b(text: str) -> None:
    assert extract_choice(text, CITIES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "E",  # there is no such option
        "I don't know",
        "A capital",  # an article, and no option's text
        "A city",
        "Bravo",
        "B's",
        "A. Paris",  # the letter of one option with the text of another
        "The answer is A. Paris",
        "A and B",
        "A or B",
        "A, B",
        "B/C",
        "B & C",
        "Both A and B are correct",
        "The answer is A or B",
        "Answer: B. Hm. Answer: A or B",
        "(A) or (B)",
        "(A) is wrong, (B) as well",
        "Rome or Paris",
        "Not Paris",
        "The answer is not B",
        "Madrid is in Spain, while Paris is the capital of France.",
        "A. Rome\nB. Paris\nC. New Paris\nD. Madrid",  # the options again, and nothing else
        "A. Rome\nB. Paris",
        "New York",
    ],
)
def test_it_is_nothing(text: str) -> None:
    assert extract_choice(text, CITIES) is None


@pytest.mark.parametrize(
    ("text", "choices", "letter"),
    [
        # "A" and "I" are words, too
        ("A dog", ("cat", "dog"), "B"),
        ("A dog barks.", ("cat", "dog"), "B"),
        ("A cat", ("cat", "dog"), "A"),
        ("A", ("cat", "dog"), "A"),
        ("a", ("cat", "dog"), "A"),
        ("A is right", ("cat", "dog"), "A"),
        ("A because it meows", ("cat", "dog"), "A"),
        ("The answer is a dog", ("cat", "dog"), "B"),
        ("The answer is A", ("cat", "dog"), "A"),
        ("I was there", tuple("zyxwvutsr"), None),
        ("I'm sure", tuple("zyxwvutsr"), None),
        ("I.", tuple("zyxwvutsr"), "I"),
        # options that look like something else
        ("E. coli", ("S. aureus", "B. subtilis", "C. tetani", "D. vulgaris", "E. coli"), "E"),
        ("B. subtilis", ("E. coli", "S. aureus", "B. subtilis"), "C"),
        ("vitamin B", ("vitamin A", "vitamin B"), "B"),
        ("<", ("<", ">"), "A"),
        (">", ("<", ">"), "B"),
        ("B.", ("<", ">"), "B"),
        ("!", ("<", ">"), None),
        # one option's text inside another's
        ("New Paris", CITIES, "C"),
        ("It is New Paris.", CITIES, "C"),
        ("New Paris, not Paris", CITIES, "C"),
        ("not New Paris, but Paris", CITIES, "B"),
        ("Wrong, Not wrong", ("Wrong, Wrong", "Wrong, Not wrong", "Not wrong, Wrong"), "B"),
        # yes and no
        ("Yes, that is no problem.", ("Yes", "No"), "A"),
        ("No, yes would be wrong.", ("Yes", "No"), "B"),
        ("A. Yes", ("Yes", "No"), "A"),
        ("A. No", ("Yes", "No"), None),
        ("A. Yes\n\nThe answer is B. No", ("Yes", "No"), "B"),
        # numbers
        ("C. 300", ("100", "200", "300"), "C"),
        ("The cost is $300.", ("100", "200", "300"), "C"),
        ("It is 3.", ("30", "3", "300"), "B"),
        ("15 * 20 = 300", ("15", "20", "300"), "C"),
        ("1,200 dollars", ("1200", "1300"), "A"),
        ("It is 0.5", ("1/4", "1/2"), "B"),
        ("A. 12", ("6", "12", "30"), None),
        ("So we get 7", ("100", "200"), None),
        ("It is 5", ("5", "cat"), "A"),
        ("It is 5.0", ("5", "cat"), None),
        # a repeated wrong text in the options is nobody's
        ("clumsy", ("clumsy", "dull", "clumsy"), None),
        # many options
        ("The answer is M.", tuple(f"option number {i}" for i in range(13)), "M"),
        ("N", tuple(f"option number {i}" for i in range(13)), None),
    ],
)
def test_known(text: str, choices: tuple[str, ...], letter: str | None) -> None:
    assert extract_choice(text, choices) == letter


@given(
    index=st.integers(0, 3),
    form=st.sampled_from(
        ["{}", "({})", "{}.", "{})", "Answer: {}", "The answer is {}.", "**{}**", r"\boxed{{{}}}"]
    ),
    lower=st.booleans(),
)
def test_any_letter_in_any_form(index: int, form: str, lower: bool) -> None:
    letter = "ABCD"[index]
    text = form.format(letter.lower() if lower else letter)
    assert extract_choice(text, CITIES) == letter


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert extract_choice(text, CITIES) in (None, "A", "B", "C", "D")
