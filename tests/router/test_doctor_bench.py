"""`router doctor --bench`: what it tries, what it concludes, and one short real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from router.cli import main
from router.cli.doctor import Finding, try_settings
from router.cli.doctor_bench import (
    CHUNKS,
    ENOUGH_ROUNDS,
    KINDS,
    Bench,
    Choice,
    Plan,
    Trial,
    make_plan,
    still_open,
    suggest,
    thread_counts,
)
from router.cli.doctor_trials import run_bench
from router.config import Settings
from router.errors import RouterError

NOW = Choice(4, 256)


def plan(seconds_per_token: float = 1e-4, *, current: Choice = NOW, context: int = 2048) -> Plan:
    return make_plan(
        current, (1, 3, 4, 8), seconds_per_token=seconds_per_token, context=context, budget=20
    )


def rates(
    made: Plan, factors: dict[Choice, float], rounds: int = 5, wobble: float = 0.0
) -> dict[Trial, list[float]]:
    """What is tried is as many times faster than 100 tokens/s; every other round by chance."""
    return {
        trial: [
            100 * factors.get(trial.choice, 1.0) * (1 + wobble * (-1) ** i * (trial.choice != NOW))
            for i in range(rounds)
        ]
        for trial in made.trials
    }


class TestThreadCounts:
    @pytest.mark.parametrize(
        ("physical", "logical", "current", "counts"),
        [
            (8, 16, 8, (1, 7, 8, 16)),
            (8, 8, 3, (1, 3, 7, 8)),
            (2, 2, 2, (1, 2)),
            (1, 1, 1, (1,)),
        ],
    )
    def test_distinct(
        self, physical: int, logical: int, current: int, counts: tuple[int, ...]
    ) -> None:
        assert thread_counts(physical, logical, current) == counts


class TestPlan:
    def test_threads_with_all_kinds_and_chunks_with_prompts(self) -> None:
        made = plan()
        assert (made.prompt, made.long_prompt) == (128, 512)
        assert len(set(made.trials)) == len(made.trials)
        assert set(made.trials) == {
            *(Trial(Choice(threads, 256), kind) for threads in (1, 3, 4, 8) for kind in KINDS),
            *(Trial(Choice(4, chunk), "long_prompt") for chunk in CHUNKS),
        }

    def test_trials_of_one_number_of_threads_are_neighbours(self) -> None:
        threads = [trial.choice.threads for trial in plan().trials]
        assert threads == sorted(threads)

    def test_a_slow_machine_reads_short_prompts(self) -> None:
        lengths = [plan(seconds).long_prompt for seconds in (1e-4, 1e-3, 1e-2, 1.0)]
        assert lengths[0] == 512
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[-1] == 64

    def test_prompts_fit_the_context(self) -> None:
        made = plan(context=100)
        assert (made.prompt, made.long_prompt) == (100, 100)

    def test_chunks_longer_than_the_prompt_are_not_judged(self) -> None:
        chunks = {trial.choice.prefill_chunk for trial in plan(1.0).trials}
        assert chunks == {256}
        assert "long_prompt" not in {trial.kind for trial in plan(1.0).trials}
        short = {trial.choice.prefill_chunk for trial in plan(1.0, current=Choice(4, 32)).trials}
        assert short == {32, 64}

    def test_a_chunk_of_ones_own(self) -> None:
        current = Choice(4, 200)
        chunks = {trial.choice.prefill_chunk for trial in plan(current=current).trials}
        assert chunks == {200, *CHUNKS}


class TestSuggestions:
    def test_nothing_is_better(self) -> None:
        made = plan()
        assert suggest(made, rates(made, {})) == ()
        assert suggest(made, rates(made, {Choice(8, 256): 0.8, Choice(4, 512): 1.02})) == ()

    def test_threads(self) -> None:
        made = plan()
        (found,) = suggest(made, rates(made, {Choice(8, 256): 1.1, Choice(3, 256): 1.25}))
        assert (found.name, found.value) == ("threads", 3)
        assert found.gain == pytest.approx(0.25)
        assert str(found) == "threads = 3  # +25%, noise 3%"

    def test_all_kinds_count(self) -> None:
        made = plan()
        measured = rates(made, {})
        measured[Trial(Choice(8, 256), "prompt")] = [150.0] * 5
        measured[Trial(Choice(8, 256), "answer")] = [60.0] * 5
        assert suggest(made, measured) == ()  # 1.5 * 0.6 < 1

    def test_of_equal_chunks_the_smallest(self) -> None:
        made = plan()
        factors = {Choice(4, 64): 0.7, Choice(4, 128): 1.19, Choice(4, 512): 1.2}
        (found,) = suggest(made, rates(made, factors))
        assert (found.name, found.value) == ("prefill_chunk", 128)

    def test_both(self) -> None:
        made = plan()
        found = suggest(made, rates(made, {Choice(3, 256): 1.2, Choice(4, 512): 1.2}))
        assert [each.name for each in found] == ["threads", "prefill_chunk"]

    def test_noise(self) -> None:
        made = plan()
        faster = {Choice(3, 256): 1.2}
        assert suggest(made, rates(made, faster, rounds=6, wobble=0.02))
        assert not suggest(made, rates(made, faster, rounds=6, wobble=0.3))

    def test_too_few_rounds(self) -> None:
        made = plan()
        assert not suggest(made, rates(made, {Choice(3, 256): 2.0}, rounds=ENOUGH_ROUNDS - 1))

    def test_what_is_hopeless_is_given_up_after_a_round(self) -> None:
        made = plan()
        factors = {Choice(1, 256): 0.3, NOW: 1.0, Choice(3, 256): 1.2}
        left = still_open(made, rates(made, factors, rounds=1))
        assert {trial.choice.threads for trial in left} == {3, 4, 8}
        measured = rates(made, factors)
        for kind in KINDS:
            del measured[Trial(Choice(1, 256), kind)][1:]
        assert [each.value for each in suggest(made, measured)] == [3]


class TestReport:
    @staticmethod
    def bench(factors: dict[Choice, float], rounds: int = 5, load: float = 0.1) -> Bench:
        made = plan()
        return Bench(made, rates(made, factors, rounds), rounds, 19.7, 8, load)

    def test_lines(self) -> None:
        lines = list(self.bench({Choice(3, 256): 1.2, Choice(4, 512): 1.1}).lines())
        assert "  8 answers  " in lines[0]
        assert [line for line in lines if line.endswith("set now")] == [
            "       4            256        100.0        100.0        100.0        100.0  set now"
        ]
        assert lines[-4:] == [
            "tokens/s, medians of 5 rounds in 20 s",
            "for router.toml:",
            "  threads = 3  # +20%, noise 3%",
            "  prefill_chunk = 512  # +10%, noise 3%",
        ]

    def test_nothing_to_suggest(self) -> None:
        assert list(self.bench({}).lines())[-1] == "tokens/s, medians of 5 rounds in 20 s"
        assert self.bench({}).summary().startswith("nothing is faster than what is set")
        assert self.bench({}, rounds=2).summary() == "too slow for a suggestion: 2 rounds in 20 s"

    def test_a_busy_machine(self) -> None:
        assert list(self.bench({}, load=3.0).lines())[-1].startswith("the machine was busy (load 3")

    def test_json(self) -> None:
        report = json.loads(json.dumps(self.bench({Choice(3, 256): 1.2}).as_json()))
        assert report["set"] == {"threads": 4, "prefill_chunk": 256}
        assert {"threads": 4, "prefill_chunk": 512, "long_prompt": 100.0} in report[
            "tokens_per_second"
        ]
        (suggestion,) = report["suggestions"]
        assert (suggestion["name"], suggestion["value"]) == ("threads", 3)


class TestCommand:
    def test_without_a_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(main, ["doctor", "--bench", "--model", "none.gguf"])
        assert result.exit_code == 1
        assert "warn  bench        not made, because the model could not be loaded" in result.output
        result = CliRunner().invoke(main, ["doctor", "--bench", "--json", "--model", "none.gguf"])
        assert "bench" not in json.loads(result.output)

    def test_what_fails_is_a_finding(self, tmp_path: Path) -> None:
        finding, tried = try_settings(Settings(model=str(tmp_path / "none.gguf")), [])
        assert tried is None
        assert finding.name == "bench"
        assert finding.status == "FAIL"

    @pytest.mark.model
    def test_a_short_run(self) -> None:
        settings = Settings(slots=2, context=128, threads=1, prefill_chunk=64)
        finding, tried = try_settings(settings, [Finding("model", "ok", "")], budget=0.5)
        assert finding.status == "ok"
        assert tried is not None
        assert tried.rounds >= 1
        assert tried.plan.current == Choice(1, 64)
        assert all(rate > 0 for found in tried.rates.values() for rate in found)
        assert json.dumps(tried.as_json())
        assert "set now" in "\n".join(tried.lines())


def test_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(RouterError):
        run_bench(Settings(model=str(tmp_path / "none.gguf")), budget=0.1)
