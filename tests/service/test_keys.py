"""What shares an answer and what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router.answer import Query
from service.keys import (
    UNSHARED,
    CacheUse,
    Facts,
    cache_key,
    cache_use,
    tenant_of,
    worth_keeping,
)
from service.parse import parse_chat_request
from service.query import to_query
from tests.service.scripted import LOCAL, QUESTION, REMOTE

FACTS = Facts("model", "template", 4096, 1024, "sha256:1", "http://up/v1", "big")


def query(**fields: Any) -> Query:
    parsed = parse_chat_request(json.dumps({**QUESTION, **fields}).encode())
    return to_query(parsed.request, parsed.raw, n_vocab=1000)


def key(**fields: Any) -> str:
    return cache_key(query(**fields), FACTS)


def test_it_is_a_hash() -> None:
    tenant, calibration, digest = key().split(":")
    assert (tenant, calibration, len(digest)) == ("", "1", 64)
    assert "German" not in key()
    assert key() == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"temperature": None},
        {"router": {}},
        {"router": {"mode": "auto"}},
    ],
)
def test_how_it_is_delivered_does_not_matter(fields: dict[str, Any]) -> None:
    assert key(**fields) == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "Say hello in French"}]},
        {"messages": [{"role": "system", "content": "x"}, *QUESTION["messages"]]},
        {"model": "local"},
        {"model": "remote"},
        {"router": {"mode": "local"}},
        {"router": {"threshold": 0.5}},
        {"router": {"max_risk": 0.5}},
        {"router": {"local_only": True}},
        {"router": {"uq": ["margin"]}},
        {"temperature": 0.5, "seed": 1},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"stop": "x"},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"user": "someone"},
        {"n": 2},
    ],
)
def test_everything_else_in_the_request_does(fields: dict[str, Any]) -> None:
    assert key(**fields) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "other"},
        {"template_sha256": "other"},
        {"n_context": 2048},
        {"answer_tokens": 256},
        {"calibration": None},
        {"calibration": "sha256:2"},
        {"upstream": None},
        {"upstream_model": "bigger"},
    ],
)
def test_the_facts_matter(change: dict[str, Any]) -> None:
    assert cache_key(query(), replace(FACTS, **change)) != key()


def test_tenants_share_nothing() -> None:
    keys = {cache_key(replace(query(), tenant=tenant), FACTS) for tenant in ("", "a", "b")}
    assert len(keys) == 3


def test_a_tenant_is_known_by_the_key_that_it_sends() -> None:
    assert tenant_of({}) == tenant_of({"authorization": " "}) == ""
    mine, theirs = (tenant_of({"authorization": f"Bearer {key}"}) for key in ("mine", "theirs"))
    assert len({"", mine, theirs}) == 3
    assert "mine" not in mine


@pytest.mark.parametrize(
    ("fields", "headers", "expected"),
    [
        ({}, {}, CacheUse("k")),
        ({"temperature": 0}, {}, CacheUse("k")),
        ({"temperature": 1}, {}, UNSHARED),
        ({"temperature": 1, "seed": 7}, {}, CacheUse("k")),
        ({}, {"cache-control": "no-cache"}, CacheUse("k", reads=False, max_age=0)),
        ({}, {"cache-control": "max-age=0, No-Store"}, UNSHARED),
        ({}, {"cache-control": "max-age=0"}, CacheUse("k", reads=False, max_age=0)),
        ({}, {"cache-control": "Max-Age=5, max-age=9"}, CacheUse("k", max_age=5)),
        ({}, {"cache-control": "max-age=soon, max-age=-1"}, CacheUse("k")),
    ],
)
def test_what_a_request_has_to_do_with_the_cache(
    fields: dict[str, Any], headers: dict[str, str], expected: CacheUse
) -> None:
    use = cache_use(query(**fields), FACTS, headers)
    assert replace(use, key=use.key and "k", facts=None) == expected


def test_an_answer_is_kept_under_what_decided_it() -> None:
    asked = query()
    use = cache_use(asked, FACTS, {})
    assert use.key_under(FACTS, asked) == use.key == key()
    other = replace(FACTS, calibration="sha256:another")
    assert use.key_under(other, asked) == cache_key(asked, other) != use.key


def test_what_is_worth_keeping() -> None:
    assert worth_keeping(LOCAL)
    assert worth_keeping(REMOTE)
    assert worth_keeping(replace(LOCAL, finish_reason="length"))
    for incomplete in ("content_filter", "gated", "stopped"):
        assert not worth_keeping(replace(LOCAL, finish_reason=incomplete))
    assert not worth_keeping(replace(REMOTE, remote_body=None))
    assert not worth_keeping(replace(LOCAL, decision=replace(LOCAL.decision, degraded=True)))
