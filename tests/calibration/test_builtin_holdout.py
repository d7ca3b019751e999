"""The built-in hold-out: its promises as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from calibration.datasets import builtin
from calibration.datasets.builtin import commonsense, facts, language
from calibration.datasets.builtin.family import Family, choice, number, pick, pick_some, text, whole
from calibration.datasets.builtin.material import KINDS
from calibration.grading import grade
from calibration.items import LETTERS, Item
from tests.calibration.holdout_items import DOMAINS, ITEMS, OTHERS, right


def test_same_seed_same_items_other_seed_other_items() -> None:
    assert builtin.generate(0) == ITEMS
    assert builtin.generate() == ITEMS
    prompts, others = ({item.prompt() for item in items} for items in (ITEMS, OTHERS))
    assert len(prompts - others) > len(prompts) / 3


def test_items_do_not_depend_on_the_process() -> None:
    code = (
        "import hashlib; from calibration.datasets import builtin;"
        "print(hashlib.sha256(repr(builtin.generate(3)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(builtin.__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_size_families_domains_graders_and_forms() -> None:
    assert len(ITEMS) >= 2000
    assert len(builtin.FAMILIES) >= 24
    assert {item.domain for item in ITEMS} == DOMAINS
    assert {item.grader for item in ITEMS} == {"choice", "number", "text"}
    assert {family.form for family in builtin.FAMILIES} == {"free", "choice", "steps"}
    assert Counter(item.family for item in ITEMS) == {
        family.name: family.size for family in builtin.FAMILIES
    }
    assert all(family.description for family in builtin.FAMILIES)


def test_every_item_is_labelled_with_where_it_comes_from() -> None:
    families = {family.name: family for family in builtin.FAMILIES}
    assert len(families) == len(builtin.FAMILIES)
    counts: Counter[str] = Counter()
    for item in ITEMS:
        assert item.family is not None
        family = families[item.family]
        assert item.dataset == "holdout"
        assert item.domain == family.domain
        assert item.id == f"holdout-{family.name}-{counts[family.name]:04d}"
        assert (item.choices is not None) == (family.form == "choice")
        counts[family.name] += 1


@pytest.mark.parametrize("seed", range(4))
def test_no_prompt_and_no_id_twice(seed: int) -> None:
    items = builtin.generate(seed)
    assert len({item.prompt() for item in items}) == len(items)
    assert len({item.id for item in items}) == len(items)


def test_a_question_comes_back_only_where_the_options_make_it() -> None:
    for family in builtin.FAMILIES:
        items = [item for item in ITEMS if item.family == family.name]
        asked = {
            (item.context, item.question)
            + ((tuple(sorted(item.choices or ())),) if family.asks_options else ())
            for item in items
        }
        assert len(asked) == len(items), family.name


def test_answers_are_short_and_choices_differ() -> None:
    for item in ITEMS:
        assert 8 <= item.max_tokens <= 96
        if item.choices is not None:
            assert len(set(item.choices)) == len(item.choices) >= 2


def test_every_option_letter_is_right_about_equally_often() -> None:
    pairs = [item for item in (*ITEMS, *OTHERS) if item.choices and len(item.choices) == 2]
    share = sum(item.answer == "A" for item in pairs) / len(pairs)
    assert 0.4 < share < 0.6


def test_own_answers_grade_as_correct() -> None:
    for item in ITEMS:
        for answer in item.answers:
            assert grade(item, answer), (item.id, answer)
        if item.choices is not None:
            assert grade(item, f"{item.answer}. {right(item)}"), item.id
        elif item.grader == "number":
            assert grade(item, f"The answer is {item.answer}."), item.id


ANSWERS = {
    family.name: tuple(dict.fromkeys(i.answer for i in ITEMS if i.family == family.name))
    for family in builtin.FAMILIES
}


def wrong_answers(item: Item) -> Iterator[str]:
    if item.choices is not None:
        for letter, option in zip(LETTERS, item.choices, strict=False):
            if letter != item.answer:
                yield letter
                yield option
    elif item.grader == "number":
        yield str(int(item.answer) + 1)
    else:
        yield "I don't know."
        yield from (answer for answer in ANSWERS[item.family or ""] if not overlaps(answer, item))


def overlaps(answer: str, item: Item) -> bool:
    return any(
        set(re.findall(r"\w+", answer.lower())) & set(re.findall(r"\w+", own.lower()))
        for own in item.answers
    )


def test_wrong_answers_grade_as_wrong() -> None:
    for item in ITEMS:
        for answer in islice(wrong_answers(item), 3):
            assert not grade(item, answer), (item.id, answer)


def test_too_little_material_is_an_error_that_names_the_family() -> None:
    poor = Family("poor", "logic", "one question", "free", lambda _: text("Why?", "so"), size=2)
    with pytest.raises(RuntimeError, match=r"'poor' has 1 different questions, but 2"):
        builtin._draw(poor, seed=0)


# --- the moves ----------------------------------------------------------------------------------


def test_draws_stay_in_range_and_reach_both_ends() -> None:
    rng = Random(0)
    assert {whole(rng, 2, 4) for _ in range(200)} == {2, 3, 4}
    assert {pick(rng, "ab") for _ in range(50)} == {"a", "b"}
    assert sorted(pick_some(rng, range(5), 5)) == [0, 1, 2, 3, 4]


def test_items_of_the_three_graders() -> None:
    assert number("How many?", 3).answers == ("3",)
    assert text("Who?", "Shakespeare", "W. S.").answers == ("Shakespeare", "W. S.")
    drawn = [choice(Random(seed), "Which?", "yes", ("no", "maybe")) for seed in range(30)]
    assert {right(item) for item in drawn} == {"yes"}
    assert {item.answer for item in drawn} == {"A", "B", "C"}


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        list(facts.CAPITALS),
        list(facts.SYMBOLS),
        list(facts.SYMBOLS.values()),
        list(facts.NUMBERS),
        list(facts.LANGUAGES),
        [country for countries in facts.CONTINENTS.values() for country in countries],
        [question for question, _ in facts.MAKERS],
        [place for place, _ in facts.LANDMARKS],
        [answers[0] for answers in facts.CAPITALS.values()],
        [thing for thing, _ in commonsense.PLACES],
        [start for start, _ in commonsense.SAYINGS],
        [*commonsense.GOOD, *commonsense.BAD],
        list(language.OPPOSITES),
        list(language.PLURALS),
        list(language.SYNONYMS),
        list(language.SYNONYMS.values()),
        [word for pair in language.SPELLINGS for word in pair],
        [described for described, _ in language.MEANINGS],
        list(language.ABBREVIATIONS),
        [member for members in KINDS.values() for member in members],
    ],
)
def test_tables_have_no_entry_twice(keys: list[str]) -> None:
    assert [key for key, n in Counter(keys).items() if n > 1] == []


@pytest.mark.parametrize("entries", [facts, language])
def test_dictionaries_in_the_source_have_no_key_twice(entries: object) -> None:
    # A second entry would silently replace the first, so look at the source and not at the dict.
    path = getattr(entries, "__file__", "")
    assert path
    with open(path, encoding="utf-8") as file:
        tables = re.findall(r"(?ms)^[A-Z_]+: dict\[.*?^\}", file.read())
    assert tables
    for table in tables:
        keys = re.findall(r'(?m)^    "([^"]+)":', table)
        assert len(set(keys)) == len(keys)
