"""Live traffic by script: a calibration, an engine that gives answers as unsure as it is told."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from calibration.artifact import Calibration
from calibration.figures import Reference
from router.answer import Decision, Query, Usage
from router.budget import Budgets
from router.engine.messages import Completion, EngineTimings, GenerateRequest
from router.errors import UpstreamUnavailable
from router.live import Live
from router.pipeline import Pipeline
from router.prices import Prices
from router.remote_body import RemoteAnswer
from router.upstreams.stream import RemoteStream
from tests.router.calibrations import INFO, calibration, falling
from tests.router.samples import trace
from tests.router.test_pipeline import FakeEngine, query
from uq import Trace

USUAL, SURER, WORSE = (0.8, 1.2), (0.7, 0.85), (1.0, 1.3)
"""Ranges of perplexities: those of the hold-out, and two other kinds of questions."""


def perplexities(kind: tuple[float, float], n: int, seed: int = 0) -> list[float]:
    """Perplexities of `n` answers, evenly spread at random."""
    return cast(list[float], np.random.default_rng(seed).uniform(*kind, n).tolist())


def held_out(target: str = "escalation=0.3", **changes: Any) -> Calibration:
    """A calibration by perplexity, tested on 300 answers of `USUAL`."""
    u = np.array(perplexities(USUAL, 300, seed=99))
    reference = Reference.of(falling(1.0).predict(u), u)
    return calibration(target=target, **({"reference": reference} | changes))


def unsure(perplexity: float) -> Trace:
    """An answer of this perplexity; NaN: of none that is known."""
    return trace(("Pa", math.exp(-perplexity)), ("ris", math.exp(-perplexity)))


class Engine(FakeEngine):
    """Answers one query after another with the perplexities that it is given."""

    info = INFO

    def __init__(self, perplexities: Iterable[float] = ()) -> None:
        super().__init__(None)
        self.coming = list(perplexities)

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return Completion(unsure(self.coming.pop(0)), EngineTimings())


class LLM:
    """Answers at once; `usage` None: it does not say what it read and wrote."""

    def __init__(self, usage: Usage | None = Usage(100, 10)) -> None:  # noqa: B008  frozen
        self.usage = usage
        self.down = False

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        if self.down:
            raise UpstreamUnavailable("down")
        return RemoteAnswer(dict(body), "Paris", "stop", cast(Usage, self.usage))

    def stream(self, body: Mapping[str, Any]) -> RemoteStream:
        return RemoteStream(self.chunks(body))

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        if self.down:
            raise UpstreamUnavailable("down")
        yield {"choices": [{"delta": {"content": body["model"]}, "finish_reason": "stop"}]}

    async def close(self) -> None:
        pass


class Traffic:
    """A started pipeline, and what to ask it."""

    def __init__(self, pipeline: Pipeline, engine: Engine, llm: LLM | None, live: Live) -> None:
        self.pipeline = pipeline
        self.engine = engine
        self.llm = llm
        self.live = live

    async def ask(
        self, perplexities: Iterable[float], asked: Query | None = None
    ) -> list[Decision]:
        """Ask a query for each of these perplexities."""
        decisions = []
        for perplexity in perplexities:
            self.engine.coming.append(perplexity)
            decisions.append((await self.pipeline.answer(asked or query())).decision)
        return decisions

    @property
    def report(self) -> Any:
        """Where live traffic stands."""
        assert self.pipeline.calibration is not None
        return self.live.report(self.pipeline.calibration.id)


def ratio(decisions: Iterable[Decision]) -> float:
    """The share of them that is escalated, or was to be."""
    wanted = [decision.route == "remote" or decision.degraded for decision in decisions]
    return sum(wanted) / len(wanted)


@asynccontextmanager
async def traffic(
    folder: Path,
    made: Calibration | None = None,
    live: Live | None = None,
    *,
    llm: LLM | None = None,
    alone: bool = False,
    prices: Prices = Prices(),  # noqa: B008  frozen
    budgets: Budgets | None = None,
) -> AsyncIterator[Traffic]:
    """Traffic under `made`, kept in `folder`; `alone` without an upstream."""
    (held_out() if made is None else made).save(folder)
    engine, live = Engine(), Live() if live is None else live
    llm = None if alone else llm or LLM()
    pipeline = Pipeline(
        engine,
        calibration_folder=str(folder),
        upstream=llm,
        prices=prices,
        live=live,
        budgets=budgets,
    )
    await pipeline.start()
    yield Traffic(pipeline, engine, llm, live)
    await pipeline.close()
