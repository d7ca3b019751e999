"""A routed answer, end to end: easy questions kept, hard ones escalated, both clients at work."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from router_client import AsyncRouterClient, BadRequest, RouterClient

from calibration.datasets import builtin
from tests.e2e.conftest import Gateway

# Questions of another seed than the one the shipped calibration was made with.
ITEMS = builtin.generate(seed=1)[::150]


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[RouterClient]:
    with RouterClient(gateway.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def theirs(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_easy_questions_are_kept_and_hard_ones_escalated(client: RouterClient) -> None:
    answers = [client.ask(item.prompt(), max_tokens=item.max_tokens) for item in ITEMS]
    kept = [a for a in answers if a.router.route == "local"]
    escalated = [a for a in answers if a.router.route == "remote"]
    assert kept
    assert escalated
    for answer in kept:
        assert answer.router.reason == "confident"
        assert answer.router.p_correct is not None
        assert answer.router.threshold is not None
        assert answer.router.p_correct >= answer.router.threshold
        assert answer.router.cost_usd == 0
        assert answer.router.saved_usd > 0
    # The threshold is certified behind the gate, which a share of the queries is spared.
    certificates = [it for a in kept if (it := a.router.certificate) is not None]
    assert certificates
    for certificate in certificates:
        assert certificate["threshold"] == kept[0].router.threshold
        assert [claim["target"] for claim in certificate["claims"]] == ["risk=0.3"]
    assert {answer.router.reason for answer in escalated} <= {"uncertain", "gated"}
    for answer in escalated:
        if answer.router.reason == "gated":  # before there was an answer to judge
            assert answer.router.p_correct is None
            assert not answer.router.uncertainty
        else:
            assert answer.router.uncertainty
            assert answer.router.p_correct is not None
            assert answer.router.threshold is not None
            assert answer.router.p_correct < answer.router.threshold
        assert answer.router.cost_usd > 0
        assert answer.text
    assert all(a.router.uncertainty for a in kept)


def test_the_same_question_again_comes_from_the_cache(client: RouterClient) -> None:
    question = "What is the colour of fresh snow?"
    first = client.ask(question, max_tokens=12)
    second = client.ask(question, max_tokens=12)
    assert first.router.cache == "miss"
    assert second.router.cache == "hit"
    assert second.text == first.text
    assert second.router.cost_usd == 0


def test_the_decision_without_the_answer(client: RouterClient, gateway: Gateway) -> None:
    before = gateway.metric("router_tokens_total", 'leg="remote"')
    decision = client.route("How many moons does the planet Zog have?", max_tokens=12)
    assert decision.router.route in ("local", "remote")
    assert decision.router.uncertainty
    assert gateway.metric("router_tokens_total", 'leg="remote"') == before


def test_the_callers_own_policy(client: RouterClient) -> None:
    question = "Name a town by the sea."
    local = client.ask(question, mode="local", max_tokens=8)
    remote = client.ask(question, mode="remote", max_tokens=8)
    keeps_all = client.ask(question, threshold=0.0, max_tokens=8)
    keeps_none = client.ask(question, threshold=1.0, max_tokens=8)
    private = client.ask(question, threshold=1.0, local_only=True, max_tokens=8)
    assert (local.router.route, local.router.reason) == ("local", "policy")
    assert (remote.router.route, remote.router.reason) == ("remote", "policy")
    assert (keeps_all.router.route, keeps_all.router.reason) == ("local", "confident")
    assert (keeps_none.router.route, keeps_none.router.reason) == ("remote", "uncertain")
    assert (private.router.route, private.router.degraded) == ("local", True)
    # The upstream is the same model, asked the same: the same answer.
    assert remote.text == local.text


def test_what_the_small_model_can_not_do_goes_remote(client: RouterClient) -> None:
    long = client.ask("word " * 1050 + "How many words?", max_tokens=8, mode="auto", stop=["\n"])
    assert long.router.reason == "capability"


def test_a_stream_of_ours(client: RouterClient) -> None:
    whole = client.ask("Say hello to Ann.", max_tokens=12)
    with client.stream("Say hello to Ann, please.", max_tokens=12) as stream:
        text = "".join(stream)
    assert text
    assert stream.router.route in ("local", "remote")
    assert stream.router.uncertainty
    assert whole.text


async def test_the_async_client(gateway: Gateway) -> None:
    async with AsyncRouterClient(gateway.url, timeout=120) as client:
        answer = await client.ask("Say hello to Bob.", max_tokens=12)
        async with client.stream("Say hello to Bob, please.", max_tokens=12) as stream:
            text = "".join([piece async for piece in stream])
    assert answer.text
    assert text


@pytest.mark.parametrize("model", ["local", "remote", "auto"])
def test_the_openai_package_unmodified(theirs: openai.OpenAI, model: str) -> None:
    reply = theirs.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello to Eve."}], max_tokens=12
    )
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0
    router = (reply.model_extra or {})["router"]
    assert router["route"] in (("local", "remote") if model == "auto" else (model,))


@pytest.mark.parametrize("model", ["local", "remote"])
@pytest.mark.parametrize("with_usage", [True, False])
def test_the_openai_package_streamed(theirs: openai.OpenAI, model: str, with_usage: bool) -> None:
    extra = {"stream_options": {"include_usage": True}} if with_usage else {}
    chunks = list(
        theirs.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"Say hello to Max {with_usage}."}],
            max_tokens=12,
            stream=True,
            extra_body=extra,
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert (chunks[-1].model_extra or {})["router"]["route"] == model
    if with_usage:
        assert chunks[-1].usage is not None
    else:
        assert chunks[-1].choices[0].finish_reason


def test_an_unknown_parameter_is_named(client: RouterClient) -> None:
    with pytest.raises(BadRequest, match="temprature"):
        client.ask("hello", temprature=1)


def test_what_is_loaded_is_told(client: RouterClient, gateway: Gateway) -> None:
    assert [m.id for m in client.models()] == ["auto", "local", "remote"]
    assert client.calibration()["id"].startswith("sha256:")
    assert client.health()
    assert client.ready()
    assert gateway.metric("router_answers_total") > 0


def test_a_local_answer_is_streamed_as_it_is_made(theirs: openai.OpenAI) -> None:
    def written() -> int:
        text = httpx.get(str(theirs.base_url).removesuffix("v1/") + "metrics").text
        return int(float(re.findall(r'router_engine_tokens{what="written"} (\S+)', text)[0]))

    before = written()
    stream = theirs.chat.completions.create(
        model="local",
        messages=[{"role": "user", "content": "Write a very long story about a brave mouse."}],
        max_tokens=200,
        stream=True,
    )
    first = next(chunk for chunk in stream if chunk.choices[0].delta.content)
    assert first
    assert written() - before < 100
    *_, last = stream
    assert (last.model_extra or {})["router"]["p_correct"] is not None


def test_a_conversation_is_not_read_again_but_for_its_own_tenant(gateway: Gateway) -> None:
    rules = " ".join(f"Never say the word number {i}." for i in range(20))
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": rules},
        {"role": "user", "content": "What colour is grass?"},
    ]

    def cached(key: str, question: str) -> int:
        with openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0) as client:
            messages[-1] = {"role": "user", "content": question}
            reply = client.chat.completions.create(model="local", messages=messages, max_tokens=4)
        assert reply.usage is not None
        details = reply.usage.prompt_tokens_details
        return 0 if details is None else details.cached_tokens or 0

    assert cached("mine", "What colour is grass?") == 0
    assert cached("mine", "What colour is snow?") > 150
    assert cached("theirs", "What colour is milk?") == 0
