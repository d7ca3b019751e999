"""The LLM over a set of questions: each asked once, its answer kept in a file as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from calibration.append_log import AppendLog
from calibration.items import Item, Question
from calibration.records import Key
from router.answer import Usage
from router.errors import ConfigError, UpstreamRejected, UpstreamUnavailable
from router.prices import FREE, Prices
from router.remote import Upstream

T = TypeVar("T")
Q = TypeVar("Q", bound=Question | Item)

FORMAT = 1

ROOM = 1024
"""Tokens that the LLM may take for an answer; more where the question gives more."""

_REJECTED_AT_FIRST = 10
"""So many rejections before the first answer: it is not the questions that are at fault."""


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """What the LLM answered, how that ended, and what it cost."""

    text: str
    finish_reason: str
    usage: Usage

    @property
    def is_whole(self) -> bool:
        """Whether the answer ended by itself, neither cut for its length nor filtered."""
        return self.finish_reason not in ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class LlmProgress:
    """How far the LLM has come.

    Attributes
    ----------
    done, total : questions dealt with, of all.
    reused : answers and verdicts that were in the file already.
    spent, cost_usd : tokens of this run, and their price.
    """

    done: int
    total: int
    reused: int
    spent: Usage
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What was paid: `now` in this run, `in_all` for everything used, earlier runs included."""

    now: Usage
    in_all: Usage
    cost_usd: float
    cost_usd_in_all: float


@dataclass(frozen=True, slots=True)
class LlmAnswers:
    """The LLM's answers by data set and id; a question that it rejected has none."""

    model: str
    answers: Mapping[Key, LlmAnswer]
    rejected: tuple[Key, ...]
    spending: Spending


class LlmLog:
    """Asks an upstream, greedily, what its file does not hold.

    Parameters
    ----------
    upstream : it must name its model: the file is bound to that name.
    path : an append-only JSON Lines file (`calibration.append_log`). It holds the answers, and for
        each a hash of what was sent, not the prompt.

    Attributes
    ----------
    spent, reused : tokens of what was asked here; answers taken from the file.

    Raises
    ------
    ConfigError
        The upstream has no model name.
    DataError
        The file is another model's, or unusable; see `AppendLog`.
    """

    def __init__(self, upstream: Upstream, path: str | os.PathLike[str]) -> None:
        if not upstream.model:
            raise ConfigError(
                "labels rest on one LLM, which has to be named; set `upstream_model` (any name "
                "that the upstream takes)"
            )
        self.spent = Usage()
        self.reused = 0
        self._upstream = upstream
        self._rejected = 0
        self._asking: dict[str, asyncio.Lock] = {}
        self._used: dict[str, Usage] = {}
        self._log = AppendLog(
            path,
            kind="llm_log",
            version=FORMAT,
            binding={"upstream_model": upstream.model},
            parse=_parse,
        )
        self._answers = dict(self._log.loaded)

    def __enter__(self) -> LlmLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._log.close()

    @property
    def in_all(self) -> Usage:
        """Tokens of all answers that were needed here, those from the file included."""
        return _total(self._used.values())

    async def ask(self, prompt: str, max_tokens: int) -> LlmAnswer | None:
        """The answer to one user message, at temperature 0; None when the upstream rejects it.

        Raises
        ------
        UpstreamUnavailable
            See `Upstream.chat`.
        UpstreamRejected
            The upstream has rejected all that it was ever asked.
        DataError
            The answer can't be written.
        """
        body = {
            "model": self._upstream.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        asked = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:32]
        async with self._asking.setdefault(asked, asyncio.Lock()):
            answer = self._answers.get(asked)
            if answer is None:
                answer = await self._send(body, asked)
            elif asked not in self._used:
                self.reused += 1
            if answer is not None:
                self._used[asked] = answer.usage
            return answer

    async def _send(self, body: dict[str, Any], asked: str) -> LlmAnswer | None:
        try:
            said = await self._upstream.chat(body)
        except UpstreamRejected:
            self._rejected += 1
            if self._rejected >= _REJECTED_AT_FIRST and not self._answers:
                raise
            return None
        answer = LlmAnswer(said.text, said.finish_reason, said.usage)
        self.spent = _total((self.spent, said.usage))
        self._log.append(_row(asked, answer))
        self._answers[asked] = answer
        return answer


async def ask_llm(
    questions: Sequence[Question] | Sequence[Item],
    upstream: Upstream,
    log_path: str | os.PathLike[str],
    *,
    concurrency: int = 8,
    on_progress: Callable[[LlmProgress], None] | None = None,
    prices: Prices = FREE,
) -> LlmAnswers:
    """Ask the LLM every question, alone, in one user message, at temperature 0.

    Each answer is in the file at `log_path` before the next question of its worker begins, and what
    is there is not asked again.

    Parameters
    ----------
    log_path : an append-only file bound to the upstream's model name.
    concurrency : how many questions are asked at once.
    on_progress : called once at the start, and after each question.
    prices : for the costs that are reported.

    Raises
    ------
    UpstreamUnavailable
        It can't be reached, or keeps answering 429 or 5xx. What it has answered is kept.
    UpstreamRejected
        It rejects every question.
    ConfigError
        `upstream` names no model.
    DataError
        The file is another model's, damaged, in use, or can't be written.
    """
    answers: dict[Key, LlmAnswer | None] = {}
    with LlmLog(upstream, log_path) as log:

        async def work(question: Question | Item) -> None:
            answers[key_of(question)] = await ask_one(log, question)

        run = Run(log, prices, on_progress)
        await run.over(questions, work, concurrency)
        keys = [key_of(question) for question in questions]
        return LlmAnswers(
            model=upstream.model,
            answers={key: answer for key in keys if (answer := answers[key]) is not None},
            rejected=tuple(key for key in keys if answers[key] is None),
            spending=run.spending(),
        )


class Run:
    """Asking a set of questions: progress, costs, and what to say when the upstream fails."""

    def __init__(
        self, log: LlmLog, prices: Prices, on_progress: Callable[[LlmProgress], None] | None
    ) -> None:
        self._log = log
        self._prices = prices
        self._on_progress = on_progress
        self._done = 0

    async def over(
        self, questions: Sequence[Q], work: Callable[[Q], Awaitable[None]], concurrency: int
    ) -> None:
        async def work_and_tell(question: Q) -> None:
            await work(question)
            self._done += 1
            self._report(len(questions))

        self._report(len(questions))
        try:
            await _for_each(questions, work_and_tell, concurrency)
        except UpstreamUnavailable as error:
            raise UpstreamUnavailable(
                f"{error}. {self._done:,} of {len(questions):,} questions are done; all answers "
                "are kept, the same command goes on from there"
            ) from error

    def spending(self) -> Spending:
        now, in_all = self._log.spent, self._log.in_all
        return Spending(now, in_all, self._prices.cost(now), self._prices.cost(in_all))

    def _report(self, total: int) -> None:
        if self._on_progress is not None:
            log, cost = self._log, self._prices.cost(self._log.spent)
            self._on_progress(LlmProgress(self._done, total, log.reused, log.spent, cost))


def key_of(question: Question | Item) -> Key:
    """What the question is found by: data set and id."""
    return question.dataset, question.id


async def ask_one(log: LlmLog, question: Question | Item) -> LlmAnswer | None:
    """Ask one question, with room for an answer that explains itself; see `LlmLog.ask`."""
    return await log.ask(question.prompt(), max(question.max_tokens, ROOM))


async def _for_each(
    things: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int
) -> None:
    """Await `work` on all things, so many at once.

    After an error nothing new is begun, what is under way ends first (it is being paid for), and
    the first error is raised. Cancelling cancels what is under way.
    """
    waiting = iter(things)
    failed = False

    async def work_on() -> None:
        nonlocal failed
        for thing in waiting:
            if failed:
                return
            try:
                await work(thing)
            except BaseException:
                failed = True
                raise

    workers = (work_on() for _ in range(concurrency))
    for result in await asyncio.gather(*workers, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _row(asked: str, answer: LlmAnswer) -> dict[str, Any]:
    return {
        "asked": asked,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
    }


def _parse(row: dict[str, Any]) -> tuple[str, LlmAnswer]:
    counts = (row["prompt_tokens"], row["completion_tokens"])
    texts = (row["asked"], row["text"], row["finish_reason"])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("text is expected")
    if not all(type(count) is int for count in counts):
        raise TypeError("whole numbers are expected")
    return texts[0], LlmAnswer(texts[1], texts[2], Usage(*counts))


def _total(usages: Iterable[Usage]) -> Usage:
    parts = list(usages)
    return Usage(
        sum(usage.prompt_tokens for usage in parts), sum(usage.completion_tokens for usage in parts)
    )
