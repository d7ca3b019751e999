"""What becomes of queries when money is limited: kept, refused, paced; and what is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calibration.learned import Learned
from router.account import Account
from router.answer import Answer, Decision, Need, Query, RemoteChunk, Usage
from router.budget import Budgets, Standing, open_budgets
from router.budgets import Limits, RedisStore, SqliteStore, Store
from router.config import Settings
from router.engine.messages import TextDelta
from router.errors import BudgetSpent, ConfigError, EngineBusy, LedgerError, UpstreamUnavailable
from router.pipeline import Pipeline
from router.prices import Prices
from router.remote_body import RemoteAnswer
from tests.redis_server import RedisServer
from tests.router.calibrations import GATE, INFO, PROBES, calibration
from tests.router.test_pipeline import query
from tests.router.test_spending import GATED, SURE
from tests.router.test_spending import Engine as Exiting
from tests.router.traffic import LLM, Traffic, held_out, perplexities, ratio, traffic

NOON = 1_700_049_600.0  # 15 November 2023, 12:00 UTC
PRICES = Prices(1000.0, 10_000.0)  # USD a million: an answer of 10 tokens to 100 costs 0.2
COST = 0.2
BODY = {"model": "auto", "messages": [{"role": "user", "content": "x" * 396}], "max_tokens": 10}
"""Expected to take 100 tokens and 10, which is what it takes."""
ADA = Account(id="ada", usd_per_day=1.0)


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def budgets(store: Store | None = None, clock: Clock | None = None, **limits: float) -> Budgets:
    return Budgets(store, Limits(**limits), clock=clock or Clock())


@asynccontextmanager
async def spending(
    folder: Path, made: Budgets, llm: LLM | None = None, **options: Any
) -> AsyncIterator[Traffic]:
    """Traffic under a fixed threshold of 0.5: 0.8 is kept, 1.2 is escalated."""
    fixed = options.pop("calibration", None) or held_out("threshold=0.5")
    async with traffic(folder, fixed, llm=llm, prices=PRICES, budgets=made, **options) as running:
        yield running


def asked(account: Account = ADA, **options: Any) -> Query:
    return query(**{"account": account, "body": BODY, **options})


async def spend(running: Traffic, account: Account = ADA, n: int = 5) -> None:
    """Ask the remote model by name, which no threshold keeps."""
    for _ in range(n):
        await running.pipeline.answer(asked(account, mode="remote"))


async def standing(made: Budgets, account: Account = ADA) -> Standing:
    return (await made.look(account))[0]


async def test_money_is_counted_as_it_is_spent(tmp_path: Path) -> None:
    made = budgets()
    async with spending(tmp_path, made) as running:
        decisions = await running.ask([0.8, 1.2, 0.8], asked())
        seen = await standing(made)
    assert [each.route for each in decisions] == ["local", "remote", "local"]
    assert [each.budget is not None for each in decisions] == [True] * 3
    assert (seen.limit, seen.usd, seen.reserved) == ("key/day", 1.0, 0.0)
    assert seen.spent == pytest.approx(COST)
    assert seen.left == pytest.approx(1.0 - COST)
    assert seen.ends == NOON + 43_200


async def test_without_a_limit_nothing_is_said_and_nothing_counted(tmp_path: Path) -> None:
    made = budgets()
    async with spending(tmp_path, made) as running:
        (decision,) = await running.ask([1.2], asked(Account()))
    assert decision.route == "remote"
    assert decision.budget is None
    assert made.gateway() == []


async def test_spent_means_local_only_and_says_so(tmp_path: Path) -> None:
    made = budgets()
    async with spending(tmp_path, made) as running:
        await spend(running)
        (refused,) = await running.ask([1.2], asked())
        assert (await standing(made)).spent <= 1.0
        kept, private = (
            *(await running.ask([0.8], asked())),
            *(await running.ask([1.2], asked(mode="local"))),
        )
        running.engine.coming = [1.2]
        would = await running.pipeline.route(asked())
    assert (refused.route, refused.reason, refused.degraded) == ("local", "budget", True)
    assert refused.certificate is None
    assert refused.budget is not None
    assert (refused.budget.limit, refused.budget.threshold_moved) == ("key/day", False)
    assert refused.budget.usd_left == pytest.approx(0.0, abs=COST)
    assert (kept.reason, kept.degraded, kept.threshold) == ("confident", False, 0.5)
    assert (private.reason, private.budget) == ("policy", None)
    assert (would.decision.reason, would.decision.degraded) == ("budget", True)


async def test_each_key_has_its_own_money_and_the_gateway_all_of_it(tmp_path: Path) -> None:
    made = budgets(usd_per_month=1.5)
    bob = Account(id="bob", usd_per_day=1.0)
    async with spending(tmp_path, made) as running:
        await spend(running, ADA, 3)
        await spend(running, bob, 4)
        ada, bobs = await standing(made), await standing(made, bob)
        (gateway,) = made.gateway()
        (refused,) = await running.ask([1.2], asked(Account(id="eve", usd_per_day=9.0)))
    assert gateway.limit == "gateway/month"
    assert gateway.spent == pytest.approx(ada.spent + bobs.spent)
    assert gateway.spent == pytest.approx(1.4)
    assert refused.reason == "budget"
    assert refused.budget is not None
    assert (refused.budget.limit, refused.budget.usd_left) == ("gateway/month", None)


async def test_a_limit_of_nothing_spends_nothing(tmp_path: Path) -> None:
    async with spending(tmp_path, budgets()) as running:
        decisions = await running.ask([1.2] * 3, asked(Account(id="ada", usd_per_month=0.0)))
    assert {each.reason for each in decisions} == {"budget"}


@pytest.mark.parametrize("options", [{"mode": "remote"}, {"needs": (Need("tools", "tool calls"),)}])
async def test_where_only_the_remote_model_can_answer_it_is_an_error(
    tmp_path: Path, options: Mapping[str, Any]
) -> None:
    made = budgets()
    async with spending(tmp_path, made) as running:
        for _ in range(5):
            await running.pipeline.answer(asked(**options))
        with pytest.raises(BudgetSpent, match=r"this key .* each day .* 2023-11-16 00:00 UTC"):
            await running.pipeline.answer(asked(**options))
        with pytest.raises(BudgetSpent):
            await anext(running.pipeline.stream(asked(**options)))
        running.engine.reply = EngineBusy(9, 2.0)
        with pytest.raises(EngineBusy):  # which passes sooner
            await running.pipeline.answer(asked())
        assert (await standing(made)).spent == pytest.approx(5 * COST)


async def test_a_new_day_brings_new_money(tmp_path: Path) -> None:
    clock = Clock()
    async with spending(tmp_path, budgets(clock=clock)) as running:
        await spend(running)
        clock.now = NOON + 43_200
        (decision,) = await running.ask([1.2], asked())
    assert decision.route == "remote"


async def test_the_threshold_moves_so_that_the_money_lasts_and_says_so(tmp_path: Path) -> None:
    clock = Clock()
    made = budgets(clock=clock)
    account = Account(id="ada", usd_per_day=20.0)
    async with spending(tmp_path, made) as running:
        decisions = []
        for perplexity in perplexities((0.8, 1.2), 400):  # a query each 30 s: 1440 until midnight
            clock.now += 30
            decisions += await running.ask([perplexity], asked(account))
            await made.sync()
    late = decisions[200:]
    moved = [each for each in late if each.budget is not None and each.budget.threshold_moved]
    assert len(moved) > 190
    assert ratio(late) < 0.15  # 100 escalations are paid for
    assert not any(each.degraded for each in late)
    for each in moved:
        assert each.threshold is not None
        assert each.threshold < 0.5
        assert each.certificate is None
        assert each.budget is not None
        assert each.budget.threshold_wanted == 0.5
    between = [each for each in moved if (each.p_correct or 0) < 0.5 and each.route == "local"]
    assert {each.reason for each in between} == {"confident"}


async def test_no_threshold_is_raised(tmp_path: Path) -> None:
    """With money for everything, what the calibration keeps is kept."""
    clock = Clock()
    made = budgets(clock=clock)
    async with spending(tmp_path, made) as running:
        for _ in range(50):
            clock.now += 60
            (kept,) = await running.ask([0.9], asked(Account(id="ada", usd_per_day=1e6)))
            await made.sync()
    assert (kept.reason, kept.threshold) == ("confident", 0.5)
    assert kept.budget is not None
    assert not kept.budget.threshold_moved


async def test_what_was_given_up_is_made_whole_where_the_money_is_spent(tmp_path: Path) -> None:
    calibration(learned=Learned(PROBES), gate=GATE).save(tmp_path)
    engine = Exiting(SURE, given_up=GATED)
    upstream: Any = LLM()
    account = Account(id="ada", usd_per_day=COST)
    pipeline = Pipeline(
        engine,
        calibration_folder=str(tmp_path),
        upstream=upstream,
        prices=PRICES,
        budgets=budgets(),
    )
    await pipeline.start()
    first = await pipeline.answer(asked(account))
    second = await pipeline.answer(asked(account))
    third = await pipeline.answer(asked(account))
    await pipeline.close()
    assert engine.info is INFO
    assert first.decision.reason == "gated"
    assert (second.text, second.finish_reason) == ("Paris", "stop")
    assert second.decision.reason == "confident"
    assert third.decision.reason == "confident"
    assert engine.asked[-1].exits is None  # known to be spent: nothing is given up


class Cutting(LLM):
    """Begins an answer and breaks off, or waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = asyncio.Event()

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        self.waiting.set()
        await asyncio.Event().wait()
        return await super().chat(body)

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        async for chunk in super().chunks(body):
            yield chunk
        raise UpstreamUnavailable("it cut")


class Billing(LLM):
    """Streams an answer with its usage."""

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        async for chunk in super().chunks(body):
            yield chunk
        yield {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}


async def stream(running: Traffic, question: Query) -> list[Any]:
    running.engine.coming = [1.2]
    return [event async for event in running.pipeline.stream(question)]


BRIEF = {"model": "auto", "messages": [], "max_tokens": 10}
EXPECTED = (1 * 1000.0 + 10 * 10_000.0) / 1e6


async def test_streams_are_paid_and_refused_too(tmp_path: Path) -> None:
    made = budgets()
    async with spending(tmp_path, made, Billing()) as running:
        events = await stream(running, asked())
        assert isinstance(events[-1], Answer)
        assert events[-1].cost_usd == pytest.approx(COST)
        assert (await standing(made)).spent == pytest.approx(COST)
        await spend(running, n=4)
        events = await stream(running, asked())
        assert (await standing(made)).spent == pytest.approx(1.0)
    head, *pieces, last = events
    assert isinstance(head, Decision)
    assert isinstance(last, Answer)
    assert (head.reason, head.degraded, last.decision) == ("budget", True, head)
    assert all(isinstance(piece, TextDelta) for piece in pieces)


async def test_what_is_cut_counts_as_expected_and_what_failed_costs_nothing(
    tmp_path: Path,
) -> None:
    made = budgets()
    async with spending(tmp_path, made, Cutting()) as running:
        with pytest.raises(UpstreamUnavailable):
            await stream(running, asked(body=BRIEF))
        assert (await standing(made)).spent == pytest.approx(EXPECTED)
        running.engine.coming = [1.2]
        async with aclosing(running.pipeline.stream(asked(body=BRIEF))) as events:
            async for event in events:
                if isinstance(event, RemoteChunk):  # and the client goes away
                    break
        assert (await standing(made)).spent == pytest.approx(2 * EXPECTED)
        task = asyncio.create_task(running.pipeline.answer(asked(mode="remote", body=BRIEF)))
        assert isinstance(running.llm, Cutting)
        await running.llm.waiting.wait()
        assert (await standing(made)).reserved == pytest.approx(EXPECTED)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await standing(made)).spent == pytest.approx(3 * EXPECTED)
    made = budgets()
    async with spending(tmp_path, made, LLM()) as running:
        assert running.llm is not None
        running.llm.down = True
        running.engine.coming = [1.2]
        assert (await running.pipeline.answer(asked())).decision.reason == "upstream_down"
        await stream(running, asked())
        seen = await standing(made)
        assert (seen.spent, seen.reserved) == (0.0, 0.0)


async def test_an_unknown_price_counts_as_expected(tmp_path: Path) -> None:
    made = budgets()
    async with spending(tmp_path, made, LLM(Usage())) as running:
        await running.ask([1.2], asked(body=BRIEF))
        assert (await standing(made)).spent == pytest.approx(EXPECTED)


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "budget.db"
    for _ in range(2):
        made = budgets(SqliteStore(path))
        async with spending(tmp_path / "calibration", made) as running:
            await spend(running, n=2)
            seen = await standing(made)
    assert seen.spent == pytest.approx(4 * COST)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_gateways_together_never_pass_a_limit(
    tmp_path: Path, redis_server: RedisServer, kind: str
) -> None:
    """Five gateways, 20 queries at a time each, money for 100 of the 200."""

    def store() -> Store:
        if kind == "sqlite":
            return SqliteStore(tmp_path / "b.db")
        return RedisStore(redis_server.url, timeout=60.0)  # slow ones come below

    account = Account(id="ada", usd_per_day=100 * COST)

    async def gateway(number: int) -> int:
        made = budgets(store())
        async with spending(tmp_path / str(number), made) as running:
            questions = [asked(account, mode="remote") for _ in range(40)]
            given = await asyncio.gather(
                *(running.pipeline.answer(each) for each in questions), return_exceptions=True
            )
        assert all(isinstance(each, Answer | BudgetSpent) for each in given)
        return sum(isinstance(each, Answer) for each in given)

    n = sum(await asyncio.gather(*(gateway(number) for number in range(5))))
    assert 95 <= n <= 100
    last = budgets(store())
    seen = await standing(last, account)
    assert seen.spent == pytest.approx(n * COST)
    assert seen.reserved == 0.0
    await last.close()


async def test_while_the_store_fails_a_gateway_spends_its_share(
    tmp_path: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[LedgerError] = []
    clock = Clock()
    one, other = (budgets(RedisStore(redis_server.url, timeout=0.2), clock) for _ in range(2))
    one.on_fault = faults.append
    account = Account(id="ada", usd_per_day=20 * COST)
    async with spending(tmp_path, one) as running:
        for made in (one, other, one):
            await made.look(account)
        redis_server.stop()
        with caplog.at_level(logging.INFO, "router.budget"):
            decisions = await running.ask([1.2] * 20, asked(account, threshold=1.0))
            n = sum(each.route == "remote" for each in decisions)
            assert 8 <= n <= 10  # half of what there was
            assert one.broken
            assert faults
            (stranger,) = await running.ask([1.2], asked(Account(id="eve", usd_per_day=9.0)))
            assert stranger.reason == "budget"  # nobody knows what it has spent already
            redis_server.start()
            seen = await standing(one, account)
        assert not one.broken
        assert seen.spent == pytest.approx(n * COST)
        assert (await standing(other, account)).spent == pytest.approx(n * COST)
    assert "its share (1 of 2)" in caplog.text
    assert "counted again" in caplog.text
    await other.close()


async def test_a_kept_answer_waits_for_no_store(tmp_path: Path, redis_server: RedisServer) -> None:
    made = budgets(RedisStore(redis_server.url, timeout=30.0))
    async with spending(tmp_path, made) as running:
        await running.ask([0.8, 1.2], asked())
        redis_server.hang()
        try:
            async with asyncio.timeout(5):
                (kept,) = await running.ask([0.8], asked())
        finally:
            redis_server.go_on()
    assert kept.reason == "confident"


async def test_a_budget_needs_a_price() -> None:
    limited: dict[str, Any] = {
        "budget_usd_per_day": 1.0,
        "upstream": "http://127.0.0.1:9/v1",
        "ledger": "off",
    }
    with pytest.raises(ConfigError, match="upstream_price_in"):
        open_budgets(Settings(**limited))
    made = open_budgets(Settings(**limited, upstream_price_in=1.0))
    assert [each.limit for each in made.gateway()] == ["gateway/day"]
    await made.close()
