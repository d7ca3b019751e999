"""The breaker, by a clock that the tests turn."""

from __future__ import annotations

import pytest

from router.upstreams.breaker import Breaker, BreakerRules, State, Ticket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


USUAL = BreakerRules(in_a_row=3, cool_down=1.0)


class Watched:
    """A breaker with its clock, and the changes it told."""

    def __init__(self, rules: BreakerRules = USUAL) -> None:
        self.clock = Clock()
        self.changes: list[tuple[State, State]] = []
        self.breaker = Breaker(
            rules, on_change=lambda old, new: self.changes.append((old, new)), clock=self.clock
        )

    def state(self) -> State:
        return self.breaker.state

    def enter(self) -> Ticket:
        ticket = self.breaker.enter()
        assert ticket is not None
        return ticket

    def ends(self, outcomes: str) -> None:
        """Calls one after another: + succeeds, - fails."""
        for outcome in outcomes:
            ticket = self.enter()
            (ticket.succeed if outcome == "+" else ticket.fail)()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_failures_in_a_row_open_it(watched: Watched) -> None:
    watched.ends("--+--")
    assert watched.state() == "closed"
    watched.ends("-")
    assert watched.state() == "open"
    assert watched.breaker.enter() is None
    assert watched.breaker.retry_in == 1.0


def test_a_share_of_failures_opens_it() -> None:
    watched = Watched(BreakerRules(in_a_row=99, ratio=0.5, least=10, window=60.0))
    watched.ends("+-+-+-+-+")
    assert watched.state() == "closed"
    watched.ends("-")
    assert watched.state() == "open"


def test_old_failures_do_not_count() -> None:
    watched = Watched(BreakerRules(in_a_row=99, ratio=0.5, least=10, window=60.0))
    watched.ends("-" * 9)
    watched.clock.now += 61
    watched.ends("-" * 9)
    assert watched.state() == "closed"


def test_after_the_cool_down_one_call_tries_it(watched: Watched) -> None:
    watched.ends("---")
    watched.clock.now += 1.0
    probe = watched.enter()
    assert watched.state() == "half_open"
    assert watched.breaker.enter() is None
    assert watched.breaker.retry_in > 0
    probe.succeed()
    assert watched.state() == "closed"
    assert watched.breaker.retry_in == 0.0
    assert watched.changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_failed_probes_double_the_cool_down_up_to_a_limit() -> None:
    watched = Watched(BreakerRules(in_a_row=1, cool_down=1.0, longest=3.0))
    watched.ends("-")
    for expected in (2.0, 3.0, 3.0):
        watched.clock.now += watched.breaker.retry_in
        watched.ends("-")
        assert watched.breaker.retry_in == expected
    watched.clock.now += 3.0
    watched.ends("+-")
    assert watched.breaker.retry_in == 1.0


def test_a_probe_that_was_given_up_leaves_the_place_to_another(watched: Watched) -> None:
    watched.ends("---")
    watched.clock.now += 1.0
    watched.enter().release()
    assert watched.state() == "half_open"
    watched.enter().succeed()
    assert watched.state() == "closed"


def test_calls_from_before_a_change_do_not_count(watched: Watched) -> None:
    late_success, late_failure = watched.enter(), watched.enter()
    watched.ends("---")
    late_success.succeed()
    assert watched.state() == "open"
    watched.clock.now += 1.0
    watched.enter()
    late_failure.fail()
    assert watched.state() == "half_open"


def test_a_call_ends_once(watched: Watched) -> None:
    watched.ends("--")
    ticket = watched.enter()
    ticket.succeed()
    ticket.fail()
    ticket.fail()
    assert watched.state() == "closed"


def test_given_up_calls_say_nothing(watched: Watched) -> None:
    watched.ends("--")
    watched.enter().release()
    watched.ends("-")
    assert watched.state() == "open"


def test_an_answer_that_breaks_off_later_is_a_failure(watched: Watched) -> None:
    for _ in range(3):
        watched.breaker.failed()
    assert watched.state() == "open"
