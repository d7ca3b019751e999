"""The built-in hold-out: its promises as a whole, and each family's answers worked out anew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from calibration.datasets import builtin
from calibration.datasets.builtin import commonsense, facts, language
from calibration.datasets.builtin.family import Family, choice, number, pick, pick_some, text, whole
from calibration.datasets.builtin.material import KINDS
from calibration.datasets.builtin.symbols import in_words
from calibration.grading import grade
from calibration.items import LETTERS, Item

ITEMS = builtin.generate(0)
OTHERS = builtin.generate(1)
DOMAINS = {
    *("arithmetic", "word_problems", "facts", "reading"),
    *("commonsense", "logic", "language", "symbols"),
}


def of(family: str) -> list[Item]:
    found = [item for item in (*ITEMS, *OTHERS) if item.family == family]
    assert found
    return found


def right(item: Item) -> str:
    """The text of the right option, or the answer."""
    return item.answer if item.choices is None else item.choices[LETTERS.index(item.answer)]


def numbers(words: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", words)]


def matched(pattern: str, words: str) -> tuple[str, ...]:
    found = re.search(pattern, words)
    assert found is not None, (pattern, words)
    return tuple(group or "" for group in found.groups())


# --- the whole ----------------------------------------------------------------------------------


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


# --- each family, worked out anew ---------------------------------------------------------------


def test_plus_or_minus() -> None:
    for item in of("plus-or-minus"):
        a, sign, b = matched(r"(\d+) ([+-]) (\d+)\?", item.question)
        assert int(item.answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) >= 0


def test_multiplication() -> None:
    for item in of("multiplication"):
        a, b = numbers(item.question)
        assert int(item.answer) == a * b


def test_part() -> None:
    for item in of("part"):
        found = numbers(item.question)
        whole_number = found[-1]
        share = found[0] if "%" in item.question else 50
        assert int(item.answer) * 100 == share * whole_number


def test_larger_number() -> None:
    for item in of("larger-number"):
        values = [int(option) for option in item.choices or ()]
        best = max(values) if "larg" in item.question else min(values)
        assert int(right(item)) == best
        assert ("est" in item.question) == (len(values) > 2)


def test_worked_sum() -> None:
    for item in of("worked-sum"):
        a, b, sign, c = matched(r"(\d+) \+ (\d+) ([+-]) (\d+)\?", item.question)
        assert int(item.answer) == int(a) + int(b) + (int(c) if sign == "+" else -int(c)) >= 0


def test_more_or_less() -> None:
    for item in of("more-or-less"):
        a, b = numbers(item.question)
        less = re.search(r"gives away|loses|takes", item.question)
        assert int(item.answer) == (a - b if less else a + b) > 0


def test_price() -> None:
    for item in of("price"):
        a, b = numbers(item.question)
        assert int(item.answer) == a * b


def test_two_steps() -> None:
    for item in of("two-steps"):
        a, b, c = numbers(item.question)
        assert int(item.answer) == a + b - c > 0


def looked_up(family: str, pattern: str, table: Callable[[str], tuple[str, ...]]) -> None:
    for item in of(family):
        (key,) = matched(pattern, item.question)
        assert item.answers == table(key), item.id


def test_families_that_ask_a_table() -> None:
    looked_up("capital", r"capital of (.+)\? Answer", facts.CAPITALS.__getitem__)
    looked_up("chemical-symbol", r"symbol for (\w+)\?", lambda name: (facts.SYMBOLS[name],))
    looked_up("spoken-language", r"people in (.+) speak", facts.LANGUAGES.__getitem__)
    looked_up("known-number", r"How many (.+)\? Answer", lambda key: (str(facts.NUMBERS[key]),))
    looked_up("maker", r"^(.+\?) Answer", dict(facts.MAKERS).__getitem__)
    looked_up("landmark", r"country is (.+)\? Answer", dict(facts.LANDMARKS).__getitem__)
    looked_up("opposite", r'of "(.+)"\?', language.OPPOSITES.__getitem__)
    looked_up("meaning", r"you call (.+)\? Answer", dict(language.MEANINGS).__getitem__)
    looked_up("abbreviation", r"abbreviation (.+) stand", language.ABBREVIATIONS.__getitem__)
    looked_up("saying", r"saying: (.+) \.\.\. Answer", lambda k: (dict(commonsense.SAYINGS)[k],))
    for item in of("plural"):
        (word,) = matched(r'"(.+)"', item.question)
        assert item.answer == language.PLURALS[word]


@pytest.mark.parametrize(
    ("family", "asked", "answer"),
    [
        ("capital", "capital of Kenya", "Nairobi"),
        ("chemical-symbol", "symbol for iron?", "Fe"),
        ("spoken-language", "people in Brazil", "Portuguese"),
        ("known-number", "legs does a spider", "8"),
        ("maker", '"Hamlet"', "William Shakespeare"),
        ("landmark", "the Taj Mahal", "India"),
        ("opposite", '"hot"', "cold"),
        ("plural", '"mouse"', "mice"),
        ("meaning", "a baby cat", "kitten"),
        ("abbreviation", "NATO", "North Atlantic Treaty Organization"),
        ("saying", "The early bird catches", "worm"),
    ],
)
def test_known_facts(family: str, asked: str, answer: str) -> None:
    # Seeds draw different entries, so look until one has drawn this.
    made = next(known.make for known in builtin.FAMILIES if known.name == family)
    rng = Random(0)
    drawn = (made(rng) for _ in range(5000))
    assert next(item for item in drawn if asked in item.question).answer == answer


def test_two_hops() -> None:
    capitals = {answers[0]: country for country, answers in facts.CAPITALS.items()}
    for item in of("two-hops"):
        (capital,) = matched(r"country is (.+) the capital", item.question)
        assert capitals[capital] in facts.CONTINENTS[item.answer]


def test_who_where() -> None:
    for item in of("who-where"):
        rows = re.findall(r"(\w+) works as a (\w+) in (\w+)\.", item.context or "")
        by_name = {name: (job, city) for name, job, city in rows}
        assert len(by_name) == len(rows)
        if item.question.startswith("Who"):
            (city,) = matched(r"works in (\w+)\?", item.question)
            assert by_name[item.answer][1] == city
        elif "job" in item.question:
            assert by_name[matched(r"is (\w+)'s job", item.question)[0]][0] == item.answer
        else:
            assert by_name[matched(r"does (\w+) work", item.question)[0]][1] == item.answer


def test_detail() -> None:
    story = (
        r"On (\w+) \w+ took the train to (\w+)\. At the market she bought a (\w+) (\w+) for her "
        r"mother and a (\w+) (\w+) for herself\. For lunch she had (?:an )?(\w+)\."
    )
    for item in of("detail"):
        day, city, colour, gift, second, own, food = matched(story, item.context or "")
        expected = {
            f"What colour is the {gift}": colour,
            f"What colour is the {own}": second,
            "On which day": day,
            "Where did": city,
        }
        asked = [answer for start, answer in expected.items() if item.question.startswith(start)]
        if "lunch" in item.question:
            asked = [food]
        elif "for her mother" in item.question:
            asked = [f"{colour} {gift}"]
        assert asked == [item.answer]


def test_lost_and_found() -> None:
    for item in of("lost-and-found"):
        finder, place = matched(r"(\w+) found (?:it|them) in the (\w+)\.", item.context or "")
        assert item.answer == (finder if item.question.startswith("Who") else place)


def test_message() -> None:
    for item in of("message"):
        who, day, time, room, thing = matched(
            r"with (\w+) is on (\w+) at (\d+ [ap]m) in room (\d+)\..*bring the (.+)\.",
            item.context or "",
        )
        expected = {"In": room, "On": day, "At": time, "Who": who, "What": thing}
        assert item.answer == expected[item.question.split()[0]]


def kind_of(member: str) -> str:
    (kind,) = [kind for kind, members in KINDS.items() if member in members]
    return kind


def test_kind() -> None:
    for item in of("kind"):
        (asked,) = matched(r"names (.+)\.$", item.question)
        fitting = [option for option in item.choices or () if kind_of(option) == asked]
        assert fitting == [right(item)]


def test_odd_one_out() -> None:
    for item in of("odd-one-out"):
        kinds = Counter(kind_of(option) for option in item.choices or ())
        assert kinds[kind_of(right(item))] == 1
        assert len(kinds) == 2


def test_place_and_synonym_and_spelling() -> None:
    places = dict(commonsense.PLACES)
    for item in of("place"):
        assert right(item) == places[matched(r"likely find (.+)\.$", item.question)[0]]
    for item in of("synonym"):
        assert right(item) == language.SYNONYMS[matched(r'"(.+)"', item.question)[0]]
    spelled = dict(language.SPELLINGS)
    for item in of("spelling"):
        assert set(item.choices or ()) == {right(item), spelled[right(item)]}


def test_review() -> None:
    for item in of("review"):
        (review,) = matched(r'"(.+)" Answer', item.question)
        assert (review in commonsense.GOOD) == (item.answer == "positive")
        assert (review in commonsense.BAD) == (item.answer == "negative")
    assert 0.3 < sum(item.answer == "positive" for item in of("review")) / len(of("review")) < 0.7


def test_order() -> None:
    for item in of("order"):
        pairs = re.findall(r"(\w+) is \w+ than (\w+)\.", item.question)
        top = ({a for a, _ in pairs} - {b for _, b in pairs}).pop()
        bottom = ({b for _, b in pairs} - {a for a, _ in pairs}).pop()
        (word,) = matched(r"Who is (?:the )?(\w+)", item.question)
        (more,) = matched(r"is (\w+) than", item.question)
        stem = more.removesuffix("r")
        assert item.answer == (top if word.startswith(stem) else bottom)
        offered = item.question.split("Who is")[1]
        assert all(name in offered for pair in pairs for name in pair)


def test_member() -> None:
    for item in of("member"):
        if "job" in item.question:
            assert f"is a {item.answer}. " in item.question
        else:
            kind = matched(r"\. (?:\w+) (?:is|has) a (\w+)\. What", item.question)[0]
            assert re.search(
                rf"(Every {kind} is a {item.answer}|All {kind}s are {item.answer})\.", item.question
            )


def test_rule() -> None:
    for item in of("rule"):
        rooms = dict(re.findall(r"The (\w+) key opens the (\w+)\.", item.question))
        if "Which room" in item.question:
            assert item.answer == rooms[matched(r"does the (\w+) key open\?", item.question)[0]]
        else:
            assert rooms[item.answer] == matched(r"key to the (\w+)\?", item.question)[0]


def test_letter() -> None:
    for item in of("letter"):
        place, word = matched(r'the (\w+) letter of the word "(\w+)"', item.question)
        assert item.answer == word[{"first": 0, "second": 1, "last": -1}[place]]


def test_next_in_order() -> None:
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    months = [
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December"),
    ]
    for item in of("next-in-order"):
        kind, given = matched(
            r"(number|letter|day|month) (?:right before|after) (\w+)\?", item.question
        )
        step = -1 if "before" in item.question else 1
        if kind == "number":
            assert int(item.answer) == int(given) + step
        elif kind == "letter":
            assert ord(item.answer) == ord(given) + step
        else:
            row = days if kind == "day" else months
            assert item.answer == row[row.index(given) + step]


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty-two"),
        (100, "one hundred"),
        (105, "one hundred and five"),
        (999, "nine hundred and ninety-nine"),
        (2005, "two thousand and five"),
        (3200, "three thousand two hundred"),
        (9876, "nine thousand eight hundred and seventy-six"),
    ],
)
def test_numbers_in_words(n: int, words: str) -> None:
    assert in_words(n) == words


def test_in_figures() -> None:
    values = {in_words(n): n for n in range(10_000)}
    assert len(values) == 10_000
    for item in of("in-figures"):
        (words,) = matched(r"What is (.+) in figures", item.question)
        assert int(item.answer) == values[words]


def test_record() -> None:
    for item in of("record"):
        (field,) = matched(r'value of "(\w+)"', item.question)
        assert json.loads(item.context or "")[field] == item.answer


def test_every_family_is_checked_above() -> None:
    checked = {
        *("plus-or-minus", "multiplication", "part", "larger-number", "worked-sum"),
        *("more-or-less", "price", "two-steps", "capital", "chemical-symbol", "spoken-language"),
        *("known-number", "maker", "landmark", "two-hops", "who-where", "detail"),
        *("lost-and-found", "message", "kind", "place", "saying", "review", "order", "member"),
        *("rule", "odd-one-out", "opposite", "plural", "meaning", "abbreviation", "synonym"),
        *("spelling", "letter", "next-in-order", "in-figures", "record"),
    }
    assert checked == {family.name for family in builtin.FAMILIES}
