"""What is shown while the model answers a set of questions."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from router.cli.collecting import describe, duration, shown
from router.collect import Progress


def progress(
    done: int, *, reused: int = 0, correct: int = 0, tokens: int = 0, too_long: int = 0
) -> Progress:
    return Progress(
        done=done,
        total=100,
        reused=reused,
        correct=correct,
        tokens=tokens,
        too_long=tuple(str(i) for i in range(too_long)),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool) -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, force_terminal=terminal, width=100, _environ={}), out


@pytest.mark.parametrize(
    ("seen", "seconds", "text"),
    [
        (progress(0), 0.0, "0/100"),
        (progress(30, reused=30, correct=15), 2.0, "30/100, 50% right"),
        (
            progress(40, reused=30, correct=10, tokens=200),
            5.0,
            "40/100, 2.0/s, 40 tok/s, 30 s left, 25% right",
        ),
        (
            progress(100, correct=80, tokens=900, too_long=20),
            10.0,
            "100/100, 10.0/s, 90 tok/s, 100% right",
        ),
        (progress(2, too_long=2), 1.0, "2/100, 2.0/s, 0 tok/s, 49 s left"),
        (progress(2, correct=2), 0.0, "2/100, 100% right"),
    ],
)
def test_describe(seen: Progress, seconds: float, text: str) -> None:
    assert describe(seen, seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_a_line_now_and_then() -> None:
    clock = Clock()
    screen, out = console(terminal=False)
    with shown(screen, clock) as show:
        for done, now in [(0, 50.0), (1, 51.0), (2, 59.0), (3, 61.0), (4, 62.0), (100, 63.0)]:
            clock.now = now
            show(progress(done, correct=done))
    assert out.getvalue().splitlines() == [
        "0/100",
        "3/100, 0.3/s, 0 tok/s, 5 min 56 s left, 100% right",
        "100/100, 7.7/s, 0 tok/s, 100% right",
    ]


def test_on_a_terminal_a_bar() -> None:
    screen, out = console(terminal=True)
    with shown(screen, Clock()) as show:
        show(progress(40, correct=10))
        show(progress(100, correct=100))
    assert "100/100, 100% right" in out.getvalue()
    assert "━" in out.getvalue()
