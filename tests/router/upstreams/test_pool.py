"""Several upstreams as one: order, fallback, hedging, one deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from router.answer import Usage
from router.config import Settings
from router.errors import UpstreamRejected, UpstreamUnavailable
from router.prices import FREE, Prices
from router.remote import Timeouts, Upstream
from router.upstreams.breaker import BreakerRules
from router.upstreams.entry import Api, UpstreamEntry
from router.upstreams.health import Health, RetryBudget
from router.upstreams.pool import Member, UpstreamPool
from tests.router.fake_upstream import (
    DONE,
    Server,
    Step,
    answer,
    chunk,
    completion,
    cut,
    event,
    reset,
    scripted,
    silence,
    streamed,
)

BODY = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}
NO = answer({"error": "out of order"}, 500)


@dataclass(frozen=True)
class One:
    """An upstream to be set up: what it answers, and how it is used."""

    step: Step
    priority: int = 0
    weight: float = 1.0
    retries: int = 0
    prices: Prices = FREE
    total: float = 10.0
    api: Api = "openai"
    budget: float = 10.0
    in_a_row: int = 5


@asynccontextmanager
async def pool(
    *ones: One, total: float = 10.0, hedge: bool = False, seed: int = 0
) -> AsyncIterator[tuple[UpstreamPool, list[Server]]]:
    """Upstreams called a, b, c ..."""
    async with AsyncExitStack() as stack:
        servers, members = [], []
        for name, one in zip("abcdef", ones, strict=False):
            server = await stack.enter_async_context(scripted(one.step))
            least = max(10, one.in_a_row)
            rules = BreakerRules(one.in_a_row, least=least, cool_down=0.05)
            upstream = Upstream(
                server.url,
                f"model-{name}",
                name=name,
                api=one.api,
                prices=one.prices,
                timeouts=Timeouts(2.0, 5.0, one.total),
                retries=one.retries,
                backoff=0.001,
                patience=0.5,
                health=Health(name, rules=rules, budget=RetryBudget(reserve=one.budget)),
            )
            servers.append(server)
            members.append(Member(upstream, one.priority, one.weight))
        made = UpstreamPool(members, total=total, hedge=hedge, rng=random.Random(seed))
        yield await stack.enter_async_context(made), servers


def says(text: str) -> Step:
    return answer(completion(text))


def streams(text: str) -> Step:
    return streamed(chunk(text), chunk(finish="stop"), DONE)


async def collect(made: UpstreamPool) -> str:
    async with aclosing(made.stream(BODY)) as chunks:
        return "".join([c["choices"][0]["delta"].get("content", "") async for c in chunks])


async def after(seconds: float, step: Step, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(seconds)
    await step(writer)


def slowly(seconds: float, step: Step) -> Step:
    return lambda writer: after(seconds, step, writer)


class TestOrder:
    async def test_the_lowest_number_is_asked_first(self) -> None:
        async with pool(One(says("far"), 1), One(says("near"), 0)) as (made, servers):
            for _ in range(5):
                assert (await made.chat(BODY)).text == "near"
        assert [len(server.requests) for server in servers] == [0, 5]

    async def test_equals_are_drawn_by_weight(self) -> None:
        async with pool(One(says("a"), weight=3.0), One(says("b"))) as (made, _):
            n = Counter([(await made.chat(BODY)).upstream for _ in range(200)])
        assert 130 <= n["a"] <= 170

    async def test_each_is_asked_for_its_own_model(self) -> None:
        async with pool(One(NO, 0), One(says("b"), 1)) as (made, servers):
            await made.chat(BODY)
        asked = [request.body["model"] for server in servers for request in server.requests]
        assert asked == ["model-a", "model-b"]


class TestModels:
    async def test_the_callers_model_is_mapped(self) -> None:
        async with scripted(says("x")) as server:
            entry = {
                "name": "a",
                "url": server.url,
                "model": "usual",
                "models": {"remote": "larger"},
            }
            async with _pool_of(entry) as made:
                await made.chat(BODY)
                await made.chat({**BODY, "model": "remote"})
        assert [request.body["model"] for request in server.requests] == ["usual", "larger"]


@asynccontextmanager
async def _pool_of(*entries: dict[str, Any], **settings: Any) -> AsyncIterator[UpstreamPool]:
    listed = tuple(UpstreamEntry(**entry) for entry in entries)
    made = UpstreamPool.from_settings(Settings(upstreams=listed, **settings))
    assert made is not None
    async with made:
        yield made


class TestSettings:
    def test_money_is_set_aside_for_the_dearest(self) -> None:
        cheap = UpstreamEntry(name="a", url="http://a", price_in=1.0, price_out=4.0)
        dear = UpstreamEntry(name="b", url="http://b", price_in=2.0, price_out=3.0, priority=1)
        settings = Settings(upstreams=(dear, cheap))
        assert settings.upstream_prices() == Prices(1.0, 4.0)
        assert settings.dearest_prices() == Prices(2.0, 4.0)

    def test_without_upstreams_the_prices_are_those_of_the_one_to_come(self) -> None:
        settings = Settings(upstream_price_in=1.0, upstream_price_out=2.0)
        assert settings.dearest_prices() == settings.upstream_prices() == Prices(1.0, 2.0)

    def test_none(self) -> None:
        assert UpstreamPool.from_settings(Settings()) is None

    async def test_keys_go_only_to_whom_they_belong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("A_KEY", "sk-a")
        monkeypatch.setenv("UPSTREAM_API_KEY", "sk-other")
        async with (
            scripted(NO) as first,
            scripted(says("x")) as second,
            _pool_of(
                {"name": "a", "url": first.url, "key_env": "A_KEY"},
                {"name": "b", "url": second.url, "priority": 1},
            ) as made,
        ):
            await made.chat({**BODY, "user": "u"})
        assert first.requests[0].headers["authorization"] == "Bearer sk-a"
        assert "authorization" not in second.requests[0].headers

    async def test_check_asks_all(self) -> None:
        async with scripted(answer({"data": []})) as first, scripted(NO) as second:
            entries = {"name": "a", "url": first.url}, {"name": "b", "url": second.url}
            async with _pool_of(*entries) as made:
                with pytest.raises(UpstreamUnavailable, match="status 500"):
                    await made.check()
        assert (len(first.requests), len(second.requests)) == (1, 1)


class TestFallback:
    @pytest.mark.parametrize(
        "trouble",
        [
            reset,
            NO,
            answer({}, 429, Retry_After="30"),
            answer({}, 401),
            answer(b"<html>"),
            cut(b'{"choices": ['),
        ],
    )
    async def test_the_next_one_answers(self, trouble: Step) -> None:
        async with pool(One(trouble), One(says("b"), 1)) as (made, _):
            result = await made.chat(BODY)
            told = made.report()
        assert (result.text, result.upstream) == ("b", "b")
        assert [report.fallbacks for report in told] == [0, 1]

    @pytest.mark.parametrize("trouble", [reset, NO, streamed(), streamed(DONE), says("x")])
    async def test_before_a_stream_begins(self, trouble: Step) -> None:
        async with pool(One(trouble), One(streams("b"), 1)) as (made, _):
            chunks = made.stream(BODY)
            assert await anext(chunks)
            assert chunks.upstream == "b"
            await chunks.aclose()

    async def test_never_after_a_stream_has_begun(self) -> None:
        async with pool(One(streamed(chunk("a"))), One(streams("b"), 1)) as (made, servers):
            chunks = made.stream(BODY)
            assert (await anext(chunks))["choices"][0]["delta"] == {"content": "a"}
            with pytest.raises(UpstreamUnavailable, match="cut the stream"):
                await anext(chunks)
        assert servers[1].requests == []

    async def test_a_rejected_request_goes_to_no_other(self) -> None:
        no = answer({"error": {"message": "too long"}}, 400)
        async with pool(One(no), One(says("b"), 1)) as (made, servers):
            with pytest.raises(UpstreamRejected):
                await made.chat(BODY)
        assert servers[1].requests == []

    async def test_what_one_api_has_no_words_for_goes_to_the_next(self) -> None:
        async with pool(One(NO, api="anthropic"), One(says("b"), 1)) as (made, servers):
            assert (await made.chat({**BODY, "n": 2})).upstream == "b"
            assert made.report()[0].calls == {}
        assert servers[0].requests == []

    async def test_what_no_api_has_words_for_is_the_callers_fault(self) -> None:
        async with pool(One(NO, api="anthropic")) as (made, _):
            with pytest.raises(UpstreamRejected, match="`n` asks for '2'"):
                await made.chat({**BODY, "n": 2})

    async def test_all_faults_are_told(self) -> None:
        async with pool(One(NO), One(answer({}, 401), 1)) as (made, _):
            with pytest.raises(UpstreamUnavailable, match=r"status 500.*; .*status 401"):
                await made.chat(BODY)

    async def test_the_deadline_is_for_all_together(self) -> None:
        async with pool(One(silence), One(silence, 1), total=0.2) as (made, _):
            began = time.monotonic()
            with pytest.raises(UpstreamUnavailable):
                await made.chat(BODY)
            assert time.monotonic() - began < 1.0

    async def test_one_that_is_given_less_time_leaves_some_for_the_next(self) -> None:
        async with pool(One(silence, total=0.1), One(says("b"), 1)) as (made, _):
            assert (await made.chat(BODY)).upstream == "b"

    async def test_who_had_no_time_left_is_not_blamed(self) -> None:
        ones = One(NO, in_a_row=1), One(silence, 1, in_a_row=1)
        async with pool(*ones, total=0.2) as (made, _):
            with pytest.raises(UpstreamUnavailable, match="when little time was left"):
                await made.chat(BODY)
            assert [report.standing for report in made.report()] == ["open", "closed"]


class TestCosts:
    async def test_by_the_prices_of_who_answered(self) -> None:
        cheap, dear = Prices(1.0, 2.0), Prices(10.0, 20.0)
        async with pool(One(NO, prices=cheap), One(says("b"), 1, prices=dear)) as (made, _):
            assert (await made.chat(BODY)).cost_usd == pytest.approx((70 + 60) / 1e6)

    async def test_not_known_without_prices(self) -> None:
        async with pool(One(says("a"))) as (made, _):
            assert (await made.chat(BODY)).cost_usd is None

    async def test_of_a_stream(self) -> None:
        async with pool(One(streams("a"), prices=Prices(1.0, 2.0))) as (made, _):
            chunks = made.stream(BODY)
            await anext(chunks)
            assert chunks.cost(Usage(1, 1)) == pytest.approx(3 / 1e6)
            await chunks.aclose()


class TestBreaker:
    async def test_an_open_breaker_answers_at_once(self) -> None:
        async with pool(One(NO, in_a_row=2)) as (made, servers):
            for _ in range(20):
                with pytest.raises(UpstreamUnavailable) as caught:
                    await made.chat(BODY)
            assert made.report()[0].standing == "open"
        assert len(servers[0].requests) == 2
        assert "is left alone for another" in str(caught.value)
        assert "since it kept failing (last: status 500)" in str(caught.value)
        assert caught.value.retry_after is not None

    async def test_it_recovers_by_itself_with_one_call(self) -> None:
        async with pool(One(NO, in_a_row=1)) as (made, (server,)):
            with pytest.raises(UpstreamUnavailable):
                await made.chat(BODY)
            server.steps[:] = [slowly(0.05, says("back"))]
            await asyncio.sleep(0.06)
            results = await asyncio.gather(
                *(made.chat(BODY) for _ in range(10)), return_exceptions=True
            )
            assert sum(not isinstance(result, Exception) for result in results) == 1
            assert (await made.chat(BODY)).text == "back"
        assert len(server.requests) == 3

    async def test_a_probe_whose_client_left_is_no_verdict(self) -> None:
        async with pool(One(NO, in_a_row=1)) as (made, (server,)):
            with pytest.raises(UpstreamUnavailable):
                await made.chat(BODY)
            await asyncio.sleep(0.06)
            server.steps[:] = [silence]
            probe = asyncio.create_task(made.chat(BODY))
            while len(server.requests) < 2:
                await asyncio.sleep(0.005)
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            server.steps[:] = [says("back")]
            assert (await made.chat(BODY)).text == "back"

    async def test_streams_that_are_always_cut_open_it(self) -> None:
        async with pool(One(streamed(chunk("a")))) as (made, _):
            for _ in range(5):
                with pytest.raises(UpstreamUnavailable, match="cut the stream"):
                    await collect(made)
            assert made.report()[0].standing == "open"
            assert made.report()[0].calls["cut"] == 5

    async def test_rejections_and_clients_that_leave_do_not_open_it(self) -> None:
        ones = One(answer({"error": {"message": "no"}}, 400), in_a_row=1)
        async with pool(ones) as (made, (server,)):
            with pytest.raises(UpstreamRejected):
                await made.chat(BODY)
            server.steps[:] = [streamed(chunk("a"), 3600.0)]
            async with aclosing(made.stream(BODY)) as chunks:
                await anext(chunks)
            assert made.report()[0].standing == "closed"


class TestRests:
    async def test_who_asks_for_a_rest_gets_it(self) -> None:
        async with pool(One(answer({}, 429, Retry_After="30"), retries=2)) as (made, servers):
            for _ in range(5):
                with pytest.raises(UpstreamUnavailable):
                    await made.chat(BODY)
            (told,) = made.report()
        assert len(servers[0].requests) == 1
        assert (told.standing, told.rests) == ("resting", 1)
        assert 25 < told.retry_in <= 30

    async def test_a_short_one_is_waited_for(self) -> None:
        async with pool(One(answer({}, 429, Retry_After="0"), retries=1)) as (made, (server,)):
            server.steps.append(says("a"))
            assert (await made.chat(BODY)).text == "a"


class TestRetries:
    async def test_they_are_a_share_of_the_calls(self) -> None:
        one = One(answer({}, 503), retries=5, budget=3.0, in_a_row=1000)
        async with pool(one) as (made, servers):
            for _ in range(11):
                with pytest.raises(UpstreamUnavailable):
                    await made.chat(BODY)
            assert made.report()[0].retries == 5  # 3 saved up, and a fifth of the next 10 calls
        assert len(servers[0].requests) == 16


class TestHedging:
    async def _used_to(self, made: UpstreamPool, n: int = 20) -> None:
        for _ in range(n):  # as many as it takes to know what is usual, so that none is hedged
            await made.chat(BODY)

    async def test_off_unless_asked_for(self) -> None:
        async with pool(One(says("a")), One(says("b"), 1)) as (made, (first, _)):
            await self._used_to(made)
            first.steps[:] = [slowly(0.1, says("slow"))]
            assert (await made.chat(BODY)).text == "slow"

    async def test_the_first_answer_counts_and_the_other_call_ends(self) -> None:
        async with pool(One(says("a")), One(says("b"), 1), hedge=True) as (made, servers):
            await self._used_to(made)
            servers[0].steps[:] = [silence]
            assert (await made.chat(BODY)).upstream == "b"
            await asyncio.wait_for(servers[0].hung_up.wait(), 5)
            a, b = made.report()
        assert (a.hedges, b.hedges) == (0, 1)
        assert a.calls["given_up"] == 1

    async def test_a_stream_too(self) -> None:
        async with pool(One(streams("a")), One(streams("b"), 1), hedge=True) as (made, servers):
            for _ in range(20):
                await collect(made)
            servers[0].steps[:] = [silence]
            assert await collect(made) == "b"
            await asyncio.wait_for(servers[0].hung_up.wait(), 5)

    async def test_when_the_second_fails_the_first_is_waited_for(self) -> None:
        async with pool(One(says("a")), One(NO, 1), hedge=True) as (made, servers):
            await self._used_to(made)
            servers[0].steps[:] = [slowly(0.1, says("late"))]
            assert (await made.chat(BODY)).text == "late"
        assert len(servers[1].requests) == 1

    async def test_when_both_fail_the_third_is_asked(self) -> None:
        ones = One(says("a")), One(NO, 1), One(says("c"), 2)
        async with pool(*ones, hedge=True) as (made, servers):
            await self._used_to(made)
            servers[0].steps[:] = [slowly(0.1, NO)]
            assert (await made.chat(BODY)).text == "c"

    async def test_whoever_leaves_ends_both(self) -> None:
        async with pool(One(says("a")), One(silence, 1), hedge=True) as (made, servers):
            await self._used_to(made)
            servers[0].steps[:] = [silence]
            task = asyncio.create_task(made.chat(BODY))
            while not servers[1].requests:
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.wait_for(servers[0].hung_up.wait(), 5)
            await asyncio.wait_for(servers[1].hung_up.wait(), 5)
        assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    async def test_a_rejection_ends_it(self) -> None:
        async with pool(One(says("a")), One(silence, 1), hedge=True) as (made, servers):
            await self._used_to(made)
            servers[0].steps[:] = [slowly(0.1, answer({"error": {"message": "no"}}, 400))]
            with pytest.raises(UpstreamRejected):
                await made.chat(BODY)


async def test_an_event_is_not_lost_between_the_first_and_the_second() -> None:
    pieces = [event({"choices": [{"index": 0, "delta": {"content": c}}]}) for c in "abc"]
    async with pool(One(streamed(*pieces, chunk(finish="stop"), DONE))) as (made, _):
        assert await collect(made) == "abc"
