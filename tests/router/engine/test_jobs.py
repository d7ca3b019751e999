"""Who is let in, and who is told to come again."""

from __future__ import annotations

import math
import time

import pytest

from router.engine.job import Job
from router.engine.jobs import Jobs
from router.engine.messages import Completion, EngineTimings, GenerateRequest, Sampler
from router.engine.sampling import TokenChooser
from router.engine.sequences import Sequences
from router.engine.text import AnswerText
from router.errors import EngineBusy
from tests.router.samples import trace

DONE = Completion(trace(("blue", 0.5)), EngineTimings())


class Desk:
    """Two slots, worked on by hand."""

    def __init__(self, *, n_queue: int = 100, most_seconds: float = math.inf) -> None:
        self._sequences = Sequences(2)
        self.jobs = Jobs(self._sequences, n_slots=2, n_queue=n_queue, most_seconds=most_seconds)

    def come(self, *, scores: bool = False) -> None:
        job = Job(
            request=GenerateRequest(messages=()),
            prompt=[1],
            sink=lambda _: None,
            max_tokens=1,
            submitted=0.0,
            chooser=TokenChooser(Sampler(), [1]),
            text=AnswerText(()),
            continuations=((1,),) if scores else (),
        )
        self.jobs.enter(job)

    def answer(self, seconds: float) -> None:
        """Answer the next one, as if that had taken so long."""
        self.jobs.take_in()
        self.jobs.start(self._place)
        job = self.jobs.active[0]
        job.admitted = time.perf_counter() - seconds
        self.jobs.complete(job, DONE)

    def _place(self, job: Job) -> None:
        job.seq = self._sequences.take_neighbour()

    def refusal(self) -> EngineBusy:
        with pytest.raises(EngineBusy) as caught:
            self.come()
        return caught.value


def test_as_many_as_there_are_places() -> None:
    desk = Desk(n_queue=1)
    for _ in range(3):
        desk.come()
    told = desk.refusal()
    assert (told.waiting, told.retry_after) == (1, 1.0)
    assert (desk.jobs.n_refused, desk.jobs.n_shed) == (1, 0)
    desk.answer(10.0)
    desk.come()


def test_nobody_who_would_wait_too_long() -> None:
    desk = Desk(most_seconds=12.0)
    desk.come()
    desk.answer(10.0)
    assert desk.jobs.expected_wait() == 0.0
    for _ in range(4):  # two at work; two that wait 5 and 10 s for one of the slots
        desk.come()
    told = desk.refusal()
    assert told.waiting == 2
    assert told.retry_after == pytest.approx(15.0, abs=0.1)
    assert (desk.jobs.n_refused, desk.jobs.n_shed) == (0, 1)
    desk.answer(10.0)
    desk.come()


def test_before_one_was_answered_nobody_knows_how_long_it_takes() -> None:
    desk = Desk(most_seconds=0.001)
    for _ in range(10):
        desk.come()
    assert desk.jobs.n_shed == 0


def test_what_is_known_follows_what_is_asked() -> None:
    desk = Desk(most_seconds=12.0)
    desk.come()
    desk.answer(100.0)
    for _ in range(50):
        desk.come()
        desk.answer(1.0)
    desk.come()
    desk.come()
    assert 0.5 < desk.jobs.expected_wait() < 1.0


def test_scoring_an_answer_that_was_let_in_is_let_in() -> None:
    desk = Desk(most_seconds=1.0)
    desk.come()
    desk.answer(10.0)
    desk.come()
    desk.come()
    desk.refusal()
    desk.come(scores=True)
