"""The built-in hold-out's families: each one's answers worked out anew."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from calibration.datasets import builtin
from calibration.datasets.builtin import commonsense, facts, language
from calibration.datasets.builtin.material import KINDS
from calibration.datasets.builtin.symbols import in_words
from tests.calibration.holdout_items import matched, numbers, of, right


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
