"""The arithmetic of the benchmark of decode steps, on made-up counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.steps import (
    BenchmarkError,
    Moment,
    Report,
    Row,
    Setup,
    Step,
    goal,
    main,
    markdown,
    median_step,
    question,
    step_between,
    text,
)
from benchmarks.steps_limit import Limit, bandwidth, weights_of
from router.engine.llama import Model
from router.engine.messages import EngineStats


def moment(clock: float, steps: int, **seconds: float) -> Moment:
    extra: dict[str, float] = {
        "steps": steps,
        "seconds_decode": 0.0,
        "seconds_statistics": 0.0,
        "seconds_sampling": 0.0,
        "seconds_text": 0.0,
    }
    return Moment.of(clock, EngineStats(8, 0, 8, 8 * steps, 100, extra={**extra, **seconds}))


BEFORE = moment(
    5.0,
    100,
    seconds_decode=3.0,
    seconds_statistics=1.0,
    seconds_sampling=0.5,
    seconds_text=0.25,
)
AFTER = moment(
    6.0,
    110,
    seconds_decode=3.9,
    seconds_statistics=1.02,
    seconds_sampling=0.505,
    seconds_text=0.255,
)


class TestStep:
    def test_the_mean_step_between_two_moments(self) -> None:
        step = step_between(BEFORE, AFTER)
        assert step.tokens == 8
        assert step.total == pytest.approx(0.1)
        assert step.seconds == pytest.approx(
            {
                "llama_decode": 0.09,
                "statistics": 0.002,
                "sampling": 0.0005,
                "text": 0.0005,
                "rest": 0.007,
            }
        )
        assert step.own_share == pytest.approx(0.025)
        assert step.share("llama_decode") == pytest.approx(0.9)

    def test_no_rest_below_nothing(self) -> None:
        late = moment(5.05, 101, seconds_decode=3.06, **_others(BEFORE))
        assert step_between(BEFORE, late).seconds["rest"] == 0

    def test_without_a_step_there_is_nothing_to_tell(self) -> None:
        with pytest.raises(BenchmarkError, match="no step"):
            step_between(BEFORE, BEFORE)

    def test_an_engine_that_does_not_count(self) -> None:
        nothing = Moment.of(0.0, EngineStats(0, 0, 8, 0, 0))
        with pytest.raises(BenchmarkError, match=r"does not count seconds_decode, .*, steps"):
            step_between(nothing, nothing)

    def test_medians_part_by_part(self) -> None:
        steps = [Step({"a": a, "b": b}, 8) for a, b in ((1, 30), (2, 10), (3, 20))]
        assert median_step(steps) == Step({"a": 2, "b": 20}, 8)

    def test_the_goal(self) -> None:
        reached = Step({"statistics": 2, "sampling": 1, "rest": 97}, 1)
        missed = Step({"statistics": 3, "sampling": 1, "rest": 96}, 1)
        assert goal(reached) == "3.0% (goal 3% reached)"
        assert goal(missed) == "4.0% (goal 3% missed)"


def _others(of: Moment) -> Mapping[str, float]:
    return {name: n for name, n in of.extra.items() if name not in ("steps", "seconds_decode")}


class TestLimit:
    LIMIT = Limit(weight_bytes=10**8, kv_bytes=10_000, bandwidth=10**10, seconds_a_token=0.002)

    def test_by_hand(self) -> None:
        assert self.LIMIT.bytes_read(8, 250) == 1.2e8
        assert self.LIMIT.reading(8, 250) == pytest.approx(0.012)
        assert self.LIMIT.computing(8) == pytest.approx(0.016)

    def test_the_longer_counts(self) -> None:
        assert self.LIMIT.seconds(1, 0) == pytest.approx(0.010)
        assert self.LIMIT.seconds(8, 0) == pytest.approx(0.016)

    def test_bandwidth_is_measured(self) -> None:
        assert bandwidth(2, size=1 << 20, repeats=1) > 0

    def test_a_tied_output_matrix_is_read_whole(self, model_path: Path) -> None:
        model = Model(model_path)
        try:
            weights = weights_of(model)
            assert weights.read_bytes == model.size  # it has no other output matrix
            assert weights.computed_share == pytest.approx(1 - 28.3 / 134.5, abs=0.001)
        finally:
            model.close()


class TestTables:
    LIMIT = Limit(weight_bytes=10**8, kv_bytes=10_000, bandwidth=10**10, seconds_a_token=0.002)
    REPORT = Report("A model", 152_000, LIMIT, [Row(8, 250, step_between(BEFORE, AFTER))])

    def test_markdown(self) -> None:
        first, _, row, blank, second, _, limits = markdown([self.REPORT])
        assert first.count("|") == row.count("|")
        assert second.count("|") == limits.count("|")
        assert blank == ""
        assert row == (
            "| A model | 152,000 | 8 | 100.00 | 90.00 (90.0%) | 2.00 (2.0%) | 0.50 (0.5%) | "
            "0.50 (0.5%) | 7.00 (7.0%) | 2.5% (goal 3% reached) |"
        )
        assert limits == ("| A model | 8 | 250 | 120.0 | 12.00 | 16.00 | 16.00 | 100.00 | 6.25x |")

    def test_text(self) -> None:
        lines = "\n".join(text([self.REPORT]))
        assert "8 sequences: 100.00 ms a step, 80 tokens/s" in lines
        assert "llama_decode    90.000 ms   90.0%" in lines
        assert "limit 16.00 ms (step is 6.25x): 120.0 MB at 250 tokens read in 12.00 ms" in lines


def test_questions_differ_and_are_as_long_as_asked_for() -> None:
    assert len({question(i, 0).messages for i in range(40)}) == 40
    words = len(question(3, 0).messages[0].content.split())
    assert len(question(3, 50).messages[0].content.split()) == words + 50


def test_the_context_holds_prompt_and_steps() -> None:
    assert Setup(1, [1], steps=64, rounds=1, words=0).context == 1024
    assert Setup(1, [1], steps=64, rounds=1, words=4000).context > 4000 + 2 * 64


def test_numbers_below_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sequences", "0"])
    assert "must be at least 1" in capsys.readouterr().err
