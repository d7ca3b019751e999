"""What `router doctor --bench` measures: prompts read and answers written, for some seconds."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence

from router.cli.doctor_bench import (
    BUDGET,
    CHUNKS,
    Bench,
    Choice,
    Plan,
    Trial,
    make_plan,
    still_open,
    thread_counts,
)
from router.config import Settings
from router.engine import engine_config
from router.engine.context import BatchEntry, Context, KVTypes
from router.engine.llama import Model
from router.engine.local import load_model
from router.engine.messages import EngineConfig
from router.engine.threads import allowed_cpus, cpu_quota, usable_cores

_SLICE = 0.15
"""Seconds for which answers are decoded in one go."""
_STEPS = 96
"""Most tokens of an answer."""


def run_bench(settings: Settings, *, budget: float = BUDGET) -> Bench:
    """Load the model as `serve` would, and try for about `budget` seconds.

    Raises ModelError, EngineError.
    """
    config = engine_config(settings)
    cores = usable_cores()
    logical = max(1, math.floor(min(len(allowed_cpus()), cpu_quota() or math.inf)))
    current = Choice(config.threads or cores, config.prefill_chunk)
    load = os.getloadavg()[0]
    model, _ = load_model(config)
    try:
        began = time.perf_counter()
        runner = _Runner(model, config)
        plan = make_plan(
            current,
            thread_counts(cores, logical, current.threads),
            seconds_per_token=runner.seconds_per_token(current),
            context=config.context,
            budget=budget,
        )
        rates = runner.run(plan, began + budget)
        rounds = max(map(len, rates.values()))
        return Bench(plan, rates, rounds, time.perf_counter() - began, config.slots, load)
    finally:
        model.close()


class _Runner:
    """Times trials on one model, with a context of its own for each number of threads."""

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._model = model
        self._config = config

    def seconds_per_token(self, choice: Choice) -> float:
        """What reading a prompt takes with these threads; the second of two tries counts."""
        n = min(CHUNKS[0], self._config.context)
        with self._context(choice.threads, n, n) as context:
            self._read(context, n, n)
            return 1 / self._read(context, n, n)

    def run(self, plan: Plan, end: float) -> dict[Trial, list[float]]:
        """Rounds until `end` on the clock of time.perf_counter, at least one."""
        rates: dict[Trial, list[float]] = {trial: [] for trial in plan.trials}
        trials = plan.trials
        for step in itertools.cycle((1, -1)):  # there and back: who goes first is no advantage
            began = time.perf_counter()
            for trial, rate in self._round(plan, trials[::step]):
                rates[trial].append(rate)
            trials = still_open(plan, rates)
            now = time.perf_counter()
            if now + (now - began) > end:
                break
        return rates

    def _round(self, plan: Plan, trials: Sequence[Trial]) -> Iterator[tuple[Trial, float]]:
        n_batch = max(self._config.slots, *(trial.choice.prefill_chunk for trial in plan.trials))
        for threads in dict.fromkeys(trial.choice.threads for trial in trials):
            with self._context(threads, max(plan.long_prompt, _STEPS), n_batch) as context:
                for trial in trials:
                    if trial.choice.threads == threads:
                        yield trial, self._time(context, trial, plan)

    def _time(self, context: Context, trial: Trial, plan: Plan) -> float:
        if trial.kind in ("prompt", "long_prompt"):
            length = plan.prompt if trial.kind == "prompt" else plan.long_prompt
            return self._read(context, length, trial.choice.prefill_chunk)
        return self._answer(context, 1 if trial.kind == "answer" else self._config.slots)

    def _context(self, threads: int, n_context: int, n_batch: int) -> Context:
        config = self._config
        return Context(
            self._model,
            n_context=n_context,
            n_seq=config.slots,
            n_batch=n_batch,
            n_threads=threads,
            kv_types=KVTypes.suited_to(self._model, config.kv_type_k, config.kv_type_v),
            flash_attn=config.flash_attn,
        )

    def _read(self, context: Context, prompt: int, chunk: int) -> float:
        """Tokens per second of reading a prompt in chunks."""
        tokens = self._tokens(prompt)
        context.clear(0)
        began = time.perf_counter()
        for start in range(0, prompt, chunk):
            part = tokens[start : start + chunk]
            context.decode([BatchEntry(0, part, start, want_logits=True)])
        context.logits(len(part) - 1)  # on an accelerator: waits until it is done
        return prompt / (time.perf_counter() - began)

    def _answer(self, context: Context, n_seq: int) -> float:
        """Tokens per second of `n_seq` answers that are written at once."""
        for seq in range(n_seq):
            context.clear(seq)
        tokens = self._tokens(_STEPS)
        began = time.perf_counter()
        for step, token in enumerate(tokens, start=1):
            context.decode(
                [BatchEntry(seq, [token], step - 1, want_logits=True) for seq in range(n_seq)]
            )
            context.logits(n_seq - 1)
            seconds = time.perf_counter() - began
            if seconds >= _SLICE:
                break
        return step * n_seq / seconds

    def _tokens(self, n: int) -> list[int]:
        """Tokens of no sense: what is computed takes the same time."""
        return [i * 7919 % self._model.n_vocab for i in range(n)]
