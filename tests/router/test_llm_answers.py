"""The LLM over a set of questions: asked once, kept, resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibration.errors import DataError
from router.answer import Usage
from router.errors import ConfigError, UpstreamRejected, UpstreamUnavailable
from router.llm_answers import ROOM, LlmProgress, ask_llm
from router.prices import Prices
from tests.router.fake_upstream import Step, silence
from tests.router.llm import BUSY, DOWN, REJECTION, cut_answer, llm, prompts, question

QUESTIONS = [question(f"Question {n}?") for n in range(6)]


def echo(prompt: str) -> str:
    return f"answer to {prompt}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "llm.jsonl"


class TestAsking:
    async def test_each_question_gets_its_answer(self, path: Path) -> None:
        async with llm(echo) as (upstream, _):
            asked = await ask_llm(QUESTIONS, upstream, path, concurrency=3)
        assert asked.model == "big"
        assert asked.rejected == ()
        assert list(asked.answers) == [("d", f"Question {n}?") for n in range(6)]
        for (_, name), answer in asked.answers.items():
            assert answer.text == f"answer to {name}"
            assert answer.finish_reason == "stop"

    async def test_what_is_sent(self, path: Path) -> None:
        one = question("Which?", ("oak", "iron"), context="Wood is no metal.", max_tokens=8)
        async with llm(echo) as (upstream, server):
            await ask_llm([one, question("Long?", max_tokens=5000)], upstream, path, concurrency=1)
        assert [request.body for request in server.requests] == [
            {
                "model": "big",
                "messages": [{"role": "user", "content": one.prompt()}],
                "max_tokens": ROOM,
                "temperature": 0,
            },
            {
                "model": "big",
                "messages": [{"role": "user", "content": "Long?"}],
                "max_tokens": 5000,
                "temperature": 0,
            },
        ]

    async def test_tokens_and_costs_of_this_run_and_in_all(self, path: Path) -> None:
        prices = Prices(prompt=1.0, answer=10.0)
        async with llm(echo) as (upstream, _):
            first = await ask_llm(QUESTIONS[:2], upstream, path, prices=prices)
            then = await ask_llm(QUESTIONS[:3], upstream, path, prices=prices)
        assert first.spending.now == first.spending.in_all == Usage(14, 6)
        assert first.spending.cost_usd == pytest.approx(74e-6)
        assert then.spending.now == Usage(7, 3)
        assert then.spending.in_all == Usage(21, 9)
        assert then.spending.cost_usd == pytest.approx(37e-6)
        assert then.spending.cost_usd_in_all == pytest.approx(111e-6)

    async def test_progress(self, path: Path) -> None:
        seen: list[LlmProgress] = []
        async with llm(echo) as (upstream, _):
            await ask_llm(QUESTIONS[:2], upstream, path)
            await ask_llm(QUESTIONS[:3], upstream, path, concurrency=1, on_progress=seen.append)
        assert [(p.done, p.total, p.reused) for p in seen] == [
            (0, 3, 0),
            (1, 3, 1),
            (2, 3, 2),
            (3, 3, 2),
        ]
        assert seen[-1].spent == Usage(7, 3)

    async def test_the_same_words_are_asked_once_even_at_the_same_time(self, path: Path) -> None:
        twins = [question("Same?"), question("Same?")]
        async with llm(echo) as (upstream, server):
            await ask_llm(twins, upstream, path, concurrency=2)
        assert prompts(server) == ["Same?"]

    async def test_a_cut_or_filtered_answer_is_not_whole(self, path: Path) -> None:
        replies: dict[str, str | Step] = {
            "Cut?": cut_answer("Well,"),
            "Filtered?": cut_answer("", "content_filter"),
            "Whole?": "Yes",
        }
        async with llm(replies.__getitem__) as (upstream, _):
            asked = await ask_llm([question(text) for text in replies], upstream, path)
        assert [answer.is_whole for answer in asked.answers.values()] == [False, False, True]

    async def test_an_upstream_without_a_model_has_no_name_to_rest_on(self, path: Path) -> None:
        async with llm(echo, model="") as (upstream, _):
            with pytest.raises(ConfigError, match="upstream_model"):
                await ask_llm(QUESTIONS, upstream, path)
        assert not path.exists()


class TestInterruptions:
    async def test_an_upstream_that_fails_stops_it_and_it_goes_on_from_there(
        self, path: Path
    ) -> None:
        broken = True

        def reply(prompt: str) -> str | Step:
            return DOWN if broken and prompt == "Question 3?" else echo(prompt)

        async with llm(reply) as (upstream, server):
            with pytest.raises(
                UpstreamUnavailable, match=r"status 500.*3 of 6 questions are done.*goes on"
            ):
                await ask_llm(QUESTIONS, upstream, path, concurrency=1)
            assert len(server.requests) == 4
            broken = False
            asked = await ask_llm(QUESTIONS, upstream, path, concurrency=1)
        assert prompts(server)[4:] == ["Question 3?", "Question 4?", "Question 5?"]
        assert len(asked.answers) == 6

    async def test_what_is_under_way_ends_before_it_stops(self, path: Path) -> None:
        failed = asyncio.Event()

        def reply(prompt: str) -> str | Step:
            async def fail(writer: asyncio.StreamWriter) -> None:
                await DOWN(writer)
                failed.set()

            async def answer_late(writer: asyncio.StreamWriter) -> None:
                await failed.wait()
                await late(writer)

            late = cut_answer("late", "stop")
            return fail if prompt == "Question 0?" else answer_late

        async with llm(reply) as (upstream, server):
            with pytest.raises(UpstreamUnavailable):
                await ask_llm(QUESTIONS, upstream, path, concurrency=3)
        assert sorted(prompts(server)) == ["Question 0?", "Question 1?", "Question 2?"]
        assert path.read_text().count('"late"') == 2

    async def test_too_many_requests_is_waited_for_then_said(self, path: Path) -> None:
        replies: Iterator[str | Step] = iter([BUSY, "first", BUSY, BUSY])
        async with llm(lambda _: next(replies), retries=1) as (upstream, server):
            with pytest.raises(UpstreamUnavailable, match=r"429.*tried 2 times.*1 of 6"):
                await ask_llm(QUESTIONS, upstream, path, concurrency=1)
        assert len(server.requests) == 4
        assert path.read_text().count("\n") == 2

    async def test_cancelling_keeps_what_was_answered(self, path: Path) -> None:
        def reply(prompt: str) -> str | Step:
            return silence if prompt == "Question 2?" else echo(prompt)

        done = asyncio.Event()

        def watch(progress: LlmProgress) -> None:
            if progress.done == 2:
                done.set()

        async with llm(reply) as (upstream, _):
            task = asyncio.create_task(
                ask_llm(QUESTIONS, upstream, path, concurrency=1, on_progress=watch)
            )
            await done.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with llm(echo) as (upstream, server):
            await ask_llm(QUESTIONS, upstream, path, concurrency=1)
        assert prompts(server) == [f"Question {n}?" for n in range(2, 6)]

    async def test_a_torn_line_is_asked_again(self, path: Path) -> None:
        async with llm(echo) as (upstream, server):
            await ask_llm(QUESTIONS[:3], upstream, path, concurrency=1)
            path.write_bytes(path.read_bytes()[:-5])
            await ask_llm(QUESTIONS[:3], upstream, path, concurrency=1)
        assert prompts(server)[3:] == ["Question 2?"]

    async def test_another_models_file_is_refused(self, path: Path) -> None:
        async with llm(echo) as (upstream, _):
            await ask_llm(QUESTIONS[:1], upstream, path)
        async with llm(echo, model="bigger") as (upstream, server):
            with pytest.raises(DataError, match="upstream_model was 'big' and is 'bigger'"):
                await ask_llm(QUESTIONS[:1], upstream, path)
        assert server.requests == []

    @pytest.mark.parametrize("field", ["text", "completion_tokens"])
    async def test_a_damaged_line_is_named(self, path: Path, field: str) -> None:
        async with llm(echo) as (upstream, _):
            await ask_llm(QUESTIONS[:2], upstream, path, concurrency=1)
            header, first, second = path.read_text().splitlines()
            path.write_text("\n".join([header, json.dumps({**json.loads(first), field: None})]))
            with path.open("a") as file:
                file.write(f"\n{second}\n")
            with pytest.raises(DataError, match="line 2: damaged"):
                await ask_llm(QUESTIONS[:2], upstream, path)


class TestRejections:
    async def test_a_rejected_question_has_no_answer(self, path: Path) -> None:
        def reply(prompt: str) -> str | Step:
            return REJECTION if prompt == "Question 1?" else echo(prompt)

        async with llm(reply) as (upstream, server):
            asked = await ask_llm(QUESTIONS, upstream, path)
            assert asked.rejected == (("d", "Question 1?"),)
            assert len(asked.answers) == 5
            await ask_llm(QUESTIONS, upstream, path)
        assert prompts(server)[6:] == ["Question 1?"]  # was not billed, and may be taken now

    async def test_an_upstream_that_rejects_everything_stops_it(self, path: Path) -> None:
        many = [question(f"{n}?") for n in range(100)]
        async with llm(lambda _: REJECTION) as (upstream, server):
            with pytest.raises(UpstreamRejected, match="content policy"):
                await ask_llm(many, upstream, path, concurrency=1)
        assert len(server.requests) == 10

    async def test_many_rejections_after_an_answer_do_not(self, path: Path) -> None:
        many = [question(f"{n}?") for n in range(30)]
        async with llm(lambda p: "yes" if p == "0?" else REJECTION) as (upstream, _):
            for _ in range(2):
                asked = await ask_llm(many, upstream, path, concurrency=1)
                assert len(asked.rejected) == 29
