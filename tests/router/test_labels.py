"""Labels from the LLM: by rule, by the LLM as judge, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.items import Item, Question
from router.answer import Usage
from router.errors import UpstreamUnavailable
from router.labels import (
    JUDGE_PROMPT,
    Label,
    LlmLabels,
    ask_llm,
    ask_llm_outcomes,
    items_for_llm,
    label_by_llm,
)
from router.llm_answers import Spending
from tests.router.fake_upstream import Server, Step
from tests.router.llm import DOWN, REJECTION, cut_answer, llm, prompts, question

LONG = "Because the light of short wavelengths is scattered more by the molecules of the air. " * 2
CAPITAL = question("What is the capital of Peru?")
EGGS = question("How many eggs are left?")
METAL = question("Which is a metal?", ("oak", "iron", "wool"))
SKY = question("Why is the sky blue?")
LATE = question("Why is it late?")
BAD = question("How do I do harm?")
VAGUE = question("Which of these?", ("this", "that"))
ALL = [CAPITAL, EGGS, METAL, SKY, LATE, BAD, VAGUE]

REPLIES: dict[str, str | Step] = {
    CAPITAL.prompt(): "The capital of Peru is Lima.",
    EGGS.prompt(): "3 * 5 = 15, so 15 eggs are left.",
    METAL.prompt(): "B. iron",
    SKY.prompt(): LONG,
    LATE.prompt(): cut_answer("Well, as"),
    BAD.prompt(): REJECTION,
    VAGUE.prompt(): "It depends on what you mean.",
}
RIGHT = {
    CAPITAL: "Lima",
    EGGS: "15",
    METAL: "B",
    SKY: "Air scatters blue light more than red.",
    LATE: "It is night.",
    BAD: "You don't.",
    VAGUE: "A",
}
WRONG = {CAPITAL: "Quito", EGGS: "12 eggs", METAL: "A. oak", SKY: "The sea is mirrored in it."}


def texts(answers: dict[Question, str]) -> dict[tuple[str, str], str]:
    return {("d", question.id): text for question, text in answers.items()}


def reply(prompt: str) -> str | Step:
    """Answers the questions; as judge, finds that who says "Air" agrees."""
    if prompt in REPLIES:
        return REPLIES[prompt]
    assert prompt.startswith(JUDGE_PROMPT.split("\n", 1)[0])
    return "Yes." if "Air scatters" in prompt else "no"


def is_judging(server: Server) -> list[bool]:
    return [prompt not in REPLIES for prompt in prompts(server)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "llm.jsonl"


class TestLabels:
    async def test_agreement_is_the_label(self, path: Path) -> None:
        async with llm(reply) as (upstream, server):
            right = await label_by_llm(ALL, texts(RIGHT), upstream, path, judge=True)
            assert is_judging(server).count(True) == 1
            wrong = await label_by_llm(ALL[:4], texts(WRONG), upstream, path, judge=True)
            assert is_judging(server).count(True) == 2
        assert list(right.labels.values()) == [
            Label(True, "match"),
            Label(True, "match"),
            Label(True, "match"),
            Label(True, "judge"),
            Label(None, left_out="cut"),
            Label(None, left_out="rejected"),
            Label(None, left_out="incomparable"),
        ]
        assert list(wrong.labels.values()) == [
            Label(False, "match"),
            Label(False, "match"),
            Label(False, "match"),
            Label(False, "judge"),
        ]

    async def test_without_a_judge_long_answers_are_left_out(self, path: Path) -> None:
        async with llm(reply) as (upstream, server):
            labels = await label_by_llm(ALL, texts(RIGHT), upstream, path, judge=False)
        assert not any(is_judging(server))
        assert labels.labels["d", SKY.id] == Label(None, left_out="incomparable")
        assert (labels.n, labels.n_match, labels.n_judge, labels.n_left_out) == (7, 3, 0, 4)
        assert labels.left_out() == {"incomparable": 2, "cut": 1, "rejected": 1}
        assert labels.correct() == {("d", q.id): True for q in (CAPITAL, EGGS, METAL)}

    async def test_what_the_judge_sees(self, path: Path) -> None:
        asked = question("Why {so}?", context="It is.")
        local = texts({asked: "Because of {this} % and that."})
        replies: dict[str, str] = {asked.prompt(): LONG}
        async with llm(lambda p: replies.get(p, "no")) as (upstream, server):
            await label_by_llm([asked], local, upstream, path, judge=True)
        request = server.requests[-1].body
        prompt = request["messages"][0]["content"]
        assert "<question>\nIt is.\n\nWhy {so}?\n</question>" in prompt
        assert f"<reference>\n{LONG}\n</reference>" in prompt
        assert "<answer>\nBecause of {this} % and that.\n</answer>" in prompt
        assert request["temperature"] == 0

    @pytest.mark.parametrize(
        ("said", "verdict"),
        [
            ("yes", True),
            (" YES.\n", True),
            ("No", False),
            ("no.", False),
            ("unknown", None),
            ("", None),
            ("yes and no", None),
            ("Yes, they agree", None),
            ("**yes**", None),
            ("true", None),
            ("I think the answer says no such thing", None),
        ],
    )
    async def test_a_verdict_is_one_word(self, path: Path, said: str, verdict: bool | None) -> None:
        async with llm(lambda p: REPLIES.get(p, said)) as (upstream, _):
            labels = await label_by_llm([SKY], texts(RIGHT), upstream, path, judge=True)
        no_verdict = Label(None, left_out="no verdict")
        label = no_verdict if verdict is None else Label(verdict, "judge")
        assert list(labels.labels.values()) == [label]

    async def test_a_rejected_judgement_is_no_verdict(self, path: Path) -> None:
        async with llm(lambda p: REPLIES.get(p, REJECTION)) as (upstream, _):
            labels = await label_by_llm([SKY], texts(RIGHT), upstream, path, judge=True)
        assert labels.left_out() == {"no verdict": 1}

    @pytest.mark.parametrize("empty", ["", " \n"])
    async def test_nothing_agrees_with_nothing(self, path: Path, empty: str) -> None:
        async with llm(reply) as (upstream, server):
            labels = await label_by_llm(
                ALL[:4], texts(dict.fromkeys(ALL[:4], empty)), upstream, path, judge=True
            )
        assert not any(is_judging(server))
        assert set(labels.labels.values()) == {Label(False, "match")}

    async def test_an_empty_answer_of_the_llm_can_not_be_compared(self, path: Path) -> None:
        async with llm(lambda _: " ") as (upstream, _):
            labels = await label_by_llm([SKY], texts(RIGHT), upstream, path, judge=True)
        assert labels.left_out() == {"incomparable": 1}

    async def test_a_question_without_a_local_answer_is_left_out(self, path: Path) -> None:
        async with llm(reply) as (upstream, _):
            labels = await label_by_llm([CAPITAL, LATE], {}, upstream, path, judge=True)
        assert labels.left_out() == {"no local answer": 1, "cut": 1}

    async def test_an_option_that_occurs_twice_can_not_be_compared(self, path: Path) -> None:
        twice = question("Which?", ("x", "y", "x"))
        async with llm(lambda _: "A") as (upstream, _):
            labels = await label_by_llm([twice], texts({twice: "A"}), upstream, path, judge=True)
        assert labels.left_out() == {"incomparable": 1}

    @pytest.mark.parametrize("local", ["Lima", "Quito", "no idea", "word " * 50, "?"])
    async def test_who_gets_a_label_does_not_depend_on_the_local_answer(
        self, path: Path, local: str
    ) -> None:
        async with llm(reply) as (upstream, _):
            labels = await label_by_llm(
                ALL, texts(dict.fromkeys(ALL, local)), upstream, path, judge=False
            )
        assert [q for q in ALL if labels.labels["d", q.id].method] == [CAPITAL, EGGS, METAL]


class TestResuming:
    async def test_verdicts_survive_an_interruption(self, path: Path) -> None:
        both = [SKY, question("Why is the sea blue?")]
        local = texts(dict.fromkeys(both, RIGHT[SKY]))
        broken = True

        def failing(prompt: str) -> str | Step:
            if prompt in (q.prompt() for q in both):
                return LONG
            return DOWN if broken and "sea blue" in prompt else "yes"

        async with llm(failing) as (upstream, server):
            with pytest.raises(UpstreamUnavailable, match="1 of 2 questions are done"):
                await label_by_llm(both, local, upstream, path, judge=True, concurrency=1)
            before = len(server.requests)
            broken = False
            labels = await label_by_llm(both, local, upstream, path, judge=True, concurrency=1)
            assert len(server.requests) == before + 1  # the verdict that was missing
            await label_by_llm(both, local, upstream, path, judge=True)
            assert len(server.requests) == before + 1
        assert set(labels.labels.values()) == {Label(True, "judge")}
        assert labels.spending.now == Usage(7, 3)
        assert labels.spending.in_all == Usage(28, 12)

    async def test_another_local_answer_is_judged_anew(self, path: Path) -> None:
        async with llm(reply) as (upstream, _):
            first = await label_by_llm([SKY], texts(RIGHT), upstream, path, judge=True)
            then = await label_by_llm([SKY], texts(WRONG), upstream, path, judge=True)
        assert first.correct() == {("d", SKY.id): True}
        assert then.correct() == {("d", SKY.id): False}


class TestItems:
    @pytest.mark.parametrize("judge", [False, True])
    async def test_exactly_what_can_be_labelled_is_to_be_answered(
        self, path: Path, judge: bool
    ) -> None:
        async with llm(reply) as (upstream, _):
            answers = await ask_llm(ALL, upstream, path)
            items = items_for_llm(ALL, answers, judge=judge)
            local = {(item.dataset, item.id): "B" for item in items}
            labels = await label_by_llm(ALL, local, upstream, path, judge=judge)
        wanted = [CAPITAL, EGGS, METAL, SKY] if judge else [CAPITAL, EGGS, METAL]
        assert [item.prompt() for item in items] == [q.prompt() for q in wanted]
        assert [item.max_tokens for item in items] == [q.max_tokens for q in wanted]
        assert "no local answer" not in labels.left_out()
        assert labels.n_match + labels.n_judge == len(items)

    async def test_a_named_option_is_the_items_answer(self, path: Path) -> None:
        async with llm(lambda _: "The answer is (B), because iron conducts.") as (upstream, _):
            answers = await ask_llm([METAL], upstream, path)
        [item] = items_for_llm([METAL], answers, judge=False)
        assert (item.grader, item.answer) == ("choice", "B")


class TestClaim:
    @staticmethod
    def labels(match: int, judge: int, **left_out: int) -> LlmLabels:
        every = [Label(True, "match")] * match + [Label(False, "judge")] * judge
        every += [Label(None, left_out="cut")] * left_out.get("cut", 0)
        every += [Label(None, left_out="incomparable")] * left_out.get("incomparable", 0)
        usage = Usage(70, 30)
        return LlmLabels(
            model="gpt-x",
            judge=judge > 0,
            labels={("d", str(i)): label for i, label in enumerate(every)},
            spending=Spending(usage, usage, 0.5, 0.5),
        )

    def test_all_compared_by_rule(self) -> None:
        assert self.labels(1200, 0).widened_claim(0.1) == (
            "At most 10% of what is kept differs from gpt-x's answer. This is no share of wrong "
            "answers: where gpt-x itself is wrong in a share e of what is kept, up to 10% + e may "
            "be wrong. It rests on 1,200 questions (1,200 compared by rule)."
        )

    def test_judged_and_left_out(self) -> None:
        claim = self.labels(6, 3, cut=1, incomparable=2).widened_claim(0.07)
        assert claim.startswith("At most 7% of what")
        assert claim.endswith(
            "It rests on 9 questions (6 compared by rule, 3 judged by gpt-x itself) and says "
            "nothing about questions like the 3 of 12 that are left out (2 where its answer can't "
            "be compared by rule, 1 where its answer was cut or filtered)."
        )

    @pytest.mark.parametrize("risk", [-0.1, 1.1, float("nan")])
    def test_a_risk_is_a_share(self, risk: float) -> None:
        with pytest.raises(ValueError, match="a share from 0 to 1"):
            self.labels(1, 0).widened_claim(risk)

    def test_the_summary(self) -> None:
        assert self.labels(6, 3, cut=1).to_dict() == {
            "labels": "llm",
            "model": "gpt-x",
            "judge": True,
            "n": 10,
            "n_match": 6,
            "n_judge": 3,
            "left_out": {"cut": 1},
            "prompt_tokens": 70,
            "completion_tokens": 30,
            "cost_usd": 0.5,
        }


class TestOutcomes:
    async def test_the_llm_is_graded_by_the_right_answers(self, path: Path) -> None:
        items = [
            Item("Peru", "d", "", CAPITAL.question, "Lima", "text"),
            Item("metal", "d", "", METAL.question, "C", "choice", choices=METAL.choices),
            Item("eggs", "d", "", EGGS.question, "15", "number"),
            Item("late", "d", "", LATE.question, "night", "text"),
            Item("bad", "d", "", BAD.question, "no", "text"),
        ]
        async with llm(reply) as (upstream, server):
            outcomes = await ask_llm_outcomes(items, upstream, path)
            assert len(server.requests) == 5
            await label_by_llm([CAPITAL, METAL], texts(RIGHT), upstream, path, judge=False)
            assert len(server.requests) == 5  # the same words, the same file
        assert outcomes.right == {
            ("d", "Peru"): True,
            ("d", "metal"): False,
            ("d", "eggs"): True,
        }
        assert outcomes.left_out == {"rejected": 1, "cut": 1}
        assert outcomes.model == "big"
        assert outcomes.spending.in_all == Usage(28, 12)
