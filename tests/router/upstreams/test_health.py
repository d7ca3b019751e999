"""Rests, the budget of repeats, what is usual."""

from __future__ import annotations

import logging

import pytest

from router.upstreams.breaker import BreakerRules
from router.upstreams.health import LONGEST_REST, Health, Latencies, RetryBudget
from tests.router.upstreams.test_breaker import Clock


def health(clock: Clock | None = None) -> Health:
    return Health("near", rules=BreakerRules(in_a_row=2), clock=clock or Clock())


def test_it_rests_as_long_as_it_asked() -> None:
    clock = Clock()
    made = health(clock)
    made.rest(5.0)
    assert made.enter() is None
    assert (made.standing, made.retry_in) == ("resting", 5.0)
    clock.now += 5.0
    assert made.enter() is not None
    assert made.standing == "closed"


def test_a_rest_is_bounded_and_never_shortened() -> None:
    made = health()
    made.rest(1e9)
    made.rest(1.0)
    assert made.retry_in == LONGEST_REST
    assert made.report().rests == 1


def test_repeats_are_a_share_of_the_calls() -> None:
    budget = RetryBudget(share=0.2, reserve=2.0)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.called()
    assert [budget.take() for _ in range(2)] == [True, False]
    for _ in range(1000):
        budget.called()
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_what_is_usual_is_known_after_some_answers() -> None:
    latencies = Latencies()
    for i in range(19):
        latencies.add(i)
    assert latencies.p95() is None
    latencies.add(19)
    assert latencies.p95() == 18
    for _ in range(100):
        latencies.add(1.0)
    assert latencies.p95() == 1.0


def test_each_change_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    made = health(clock)
    made.explain("status 500")
    for _ in range(2):
        ticket = made.enter()
        assert ticket is not None
        ticket.fail()
    assert made.enter() is None
    clock.now += made.retry_in
    probe = made.enter()
    assert probe is not None
    probe.succeed()
    assert [record.getMessage() for record in caplog.records] == [
        "breaker of the upstream near: closed -> open: status 500",
        "breaker of the upstream near: open -> half_open",
        "breaker of the upstream near: half_open -> closed",
    ]
    report = made.report()
    assert report.transitions == {"open": 1, "half_open": 1, "closed": 1}
    assert report.calls == {"failed": 2, "refused": 1, "ok": 1}
    assert report.standing == "closed"


def test_a_hedge_is_taken_from_the_budget_and_never_from_the_sick() -> None:
    made = Health("a", budget=RetryBudget(reserve=1.0), clock=Clock())
    assert [made.may_hedge(), made.may_hedge()] == [True, False]
    sick = health()
    sick.rest(3.0)
    assert not sick.may_hedge()
    assert sick.report().hedges == 0
