"""What each stream mode costs: time to the first text, and decisions that come out otherwise.

    python -m benchmarks.streaming                     # some ten minutes; --markdown prints a table
    python -m benchmarks.streaming --tokens 8 --questions 20

Questions of the built-in hold-out's kinds, drawn with another seed than any calibration's, are
asked one at a time, through the engine in one process, streamed. Of each answer is noted when its
first text came (what the mode ``local`` shows), when it was looked at after so many tokens (what
``commit`` waits for) and when it was whole (what ``hold`` waits for); and what the calibration
decides at the look and in the end. No time of an upstream is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.datasets import builtin
from calibration.datasets.sampling import spread
from router.answer import Query
from router.binding import load_calibration
from router.config import Settings
from router.engine import local_engine
from router.engine.engine import Engine
from router.engine.messages import Completion, GenerateRequest, Look, Message, TextDelta
from router.judge import Judge

SEED = 7
"""Of the questions: the shipped calibration was made with those of seed 0."""

NEVER = math.inf


@dataclass(frozen=True)
class Seen:
    """One streamed answer.

    Attributes
    ----------
    first, looked, whole : seconds from the question to its first text, to the look (to the end,
        where the answer ended before), and to the end.
    at_look, at_end : whether it would be kept, by what was known then.
    n_tokens : of the whole answer.
    """

    first: float
    looked: float
    whole: float
    at_look: bool
    at_end: bool
    n_tokens: int


async def watch(engine: Engine, judge: Judge, question: str, tokens: int, longest: int) -> Seen:
    """Ask `question` and note what comes when, with a look after `tokens`."""
    query = Query((Message("user", question),), body={}, max_tokens=longest)
    request = GenerateRequest(
        query.messages,
        max_tokens=longest,
        stream=True,
        hidden=True,
        look=Look(tokens, NEVER),
        tenant=f"{tokens}",  # else the question would be in the cache the second time
    )

    def kept(completion: Completion) -> bool:
        return judge.decide(query, judge.scores(completion.trace)).route == "local"

    began = time.perf_counter()
    first = looked = NEVER
    at_look: bool | None = None
    async for part in engine.stream(request):
        now = time.perf_counter() - began
        if isinstance(part, TextDelta):
            first = min(first, now)
        elif isinstance(part, Completion):
            at_end = kept(part)
            return Seen(
                min(first, now),
                min(looked, now),
                now,
                at_end if at_look is None else at_look,
                at_end,
                len(part.trace),
            )
        else:
            looked, at_look = now, kept(part.completion)
    raise RuntimeError("the engine ended an answer without completing it")


async def measure(
    looks: Sequence[int], n_questions: int, longest: int, threads: int
) -> dict[int, list[Seen]]:
    """Ask all questions once for each number of tokens to look after, in turn."""
    items = spread(list(builtin.generate(SEED)), SEED)[:n_questions]
    engine = local_engine(Settings(threads=threads, slots=1))
    await engine.start()
    try:
        calibration, _ = load_calibration("", engine.info)
        if calibration is None:
            raise SystemExit("the default model has no calibration to decide by")
        judge = Judge(calibration)
        found: dict[int, list[Seen]] = {tokens: [] for tokens in looks}
        await watch(engine, judge, "Hello!", 1, 8)
        for i, item in enumerate(items):
            for tokens in looks:
                found[tokens].append(await watch(engine, judge, item.prompt(), tokens, longest))
            if (i + 1) % 50 == 0:
                print(f"{i + 1} of {len(items)} questions", file=sys.stderr)
    finally:
        await engine.close()
    return found


def rows(found: dict[int, list[Seen]]) -> Iterator[tuple[str, ...]]:
    """Yield the table: a line for each mode."""
    everything = [seen for each in found.values() for seen in each]
    yield "mode", "first text ms, p50", "p95", "kept", "degraded", "kept by `hold`, not by this"
    yield ("`local`", *_times([s.first for s in everything]), "all", "", "")
    for tokens, each in found.items():
        n = len(each)
        yield (
            f"`commit` after {tokens} tokens",
            *_times([s.looked for s in each]),
            f"{sum(s.at_look for s in each) / n:.1%}",
            f"{sum(s.at_look and not s.at_end for s in each) / n:.1%}",
            f"{sum(s.at_end and not s.at_look for s in each) / n:.1%}",
        )
    kept = sum(s.at_end for s in everything) / len(everything)
    yield ("`hold`", *_times([s.whole for s in everything]), f"{kept:.1%}", "", "")


def _times(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{1e3 * np.percentile(seconds, 50):.0f}", f"{1e3 * np.percentile(seconds, 95):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--longest", type=int, default=96, help="tokens of an answer, at most")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.tokens, asked.questions, asked.longest, asked.threads))
    lengths = [seen.n_tokens for each in found.values() for seen in each]
    table = list(rows(found))
    for i, row in enumerate(table):
        print("| " + " | ".join(row) + " |" if asked.markdown else "  ".join(row))
        if asked.markdown and i == 0:
            print("|" + " --- |" * len(row))
    print(f"\n{asked.questions} questions; answers of {np.median(lengths):.0f} tokens (median)")


if __name__ == "__main__":
    main()
