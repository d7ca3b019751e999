"""When an engine process that died is started again."""

from __future__ import annotations

import pytest

from router.engine.restarts import Restarts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_lone_crash_is_repaired_at_once(clock: Clock) -> None:
    pauses = Restarts(clock=clock)
    for _ in range(5):
        assert pauses.crashed() == 0.1
        assert not pauses.open
        clock.now += 31


def test_three_crashes_within_a_minute_open_the_breaker(clock: Clock) -> None:
    pauses = Restarts(clock=clock)
    waits = []
    for _ in range(3):
        waits.append(pauses.crashed())
        clock.now += 10
    assert waits == [0.1, 0.1, 30.0]
    assert pauses.open
    assert "tried again in 20 s" in pauses.trouble


def test_it_closes_once_a_minute_holds_fewer(clock: Clock) -> None:
    pauses = Restarts(clock=clock)
    for _ in range(3):
        pauses.crashed()
        clock.now += 10
    clock.now += 41
    assert not pauses.open
    assert pauses.crashed() == 0.1


def test_one_that_crashes_right_after_its_rest_rests_again(clock: Clock) -> None:
    pauses = Restarts(clock=clock)
    for _ in range(3):
        pauses.crashed()
    clock.now += 30
    assert pauses.crashed() == 30.0


def test_starts_that_fail_are_tried_less_and_less_often(clock: Clock) -> None:
    pauses = Restarts(clock=clock)
    pauses.crashed()
    assert [pauses.failed() for _ in range(5)] == [1.0, 5.0, 30.0, 30.0, 30.0]
    assert pauses.crashed() == 0.1, "a start that worked counts from the beginning"
