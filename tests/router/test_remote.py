"""The upstream client against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
import traceback

import httpx
import pytest

from router import remote
from router.answer import Usage
from router.config import Settings
from router.errors import (
    ConfigError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from router.remote import (
    MAX_BYTES,
    Timeouts,
    Upstream,
    trusted_certificates,
)
from router.upstreams.health import Health
from tests.router.asked_upstream import BODY, KEY, collect, upstream
from tests.router.fake_upstream import (
    Step,
    answer,
    completion,
    cut,
    event,
    hang_up,
    raw,
    reset,
    scripted,
    silence,
    streamed,
)


class TestChat:
    async def test_an_answer(self) -> None:
        async with upstream(answer(completion("four"))) as (client, server):
            result = await client.chat(BODY)
        assert result.text == "four"
        assert result.finish_reason == "stop"
        assert result.usage == Usage(prompt_tokens=7, completion_tokens=3)
        assert result.body == completion("four")
        (request,) = server.requests
        assert request.line == "POST /v1/chat/completions HTTP/1.1"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body == BODY

    async def test_what_is_sent(self) -> None:
        body = {
            **BODY,
            "router": {"mode": "remote"},
            "top_k": 4,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "temperature": 0.2,
        }
        before = json.dumps(body)
        async with upstream(answer(completion()), model="big") as (client, server):
            await client.chat(body)
        assert server.requests[0].body == {
            "model": "big",
            "messages": BODY["messages"],
            "tools": body["tools"],
            "temperature": 0.2,
        }
        assert json.dumps(body) == before

    async def test_without_a_key_none_is_sent(self) -> None:
        async with upstream(answer(completion()), key=None) as (client, server):
            await client.chat(BODY)
        assert "authorization" not in server.requests[0].headers

    async def test_one_connection_is_reused(self) -> None:
        connections = set()

        async def step(writer: asyncio.StreamWriter) -> None:
            connections.add(writer.get_extra_info("peername"))
            await answer(completion())(writer)

        async with upstream(step) as (client, server):
            for _ in range(5):
                await client.chat(BODY)
        assert len(server.requests) == 5
        assert len(connections) == 1

    async def test_tool_calls_have_no_text(self) -> None:
        body = completion()
        body["choices"][0] |= {
            "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
            "finish_reason": "tool_calls",
        }
        async with upstream(answer(body)) as (client, _):
            result = await client.chat(BODY)
        assert (result.text, result.finish_reason) == ("", "tool_calls")

    async def test_no_usage_is_zero(self) -> None:
        async with upstream(answer(completion(usage=None))) as (client, _):
            assert (await client.chat(BODY)).usage == Usage()

    @pytest.mark.parametrize("bad", [float("nan"), "half a pair: \ud800"])
    async def test_what_json_lacks_is_rejected(self, bad: object) -> None:
        async with upstream(answer(completion())) as (client, server):
            with pytest.raises(UpstreamRejected, match="JSON can't express"):
                await client.chat({**BODY, "x": bad})
        assert server.requests == []


class TestRetries:
    @pytest.mark.parametrize(
        "trouble",
        [
            reset,
            hang_up,
            answer({"error": {"message": "later"}}, 429),
            answer(b"bad gateway", 502, "text/plain"),
            answer(b"", 503, ""),
            answer({}, 504),
        ],
    )
    async def test_what_is_safe_is_repeated(self, trouble: Step) -> None:
        async with upstream(trouble, trouble, answer(completion())) as (client, server):
            assert (await client.chat(BODY)).text == "four"
        assert [request.body for request in server.requests] == [BODY] * 3

    async def test_refused_connections_are_repeated(self) -> None:
        with socket.socket() as placeholder:
            placeholder.bind(("127.0.0.1", 0))
            port = placeholder.getsockname()[1]
        async with Upstream(f"http://127.0.0.1:{port}/v1", retries=2, backoff=0.001) as client:
            with pytest.raises(UpstreamUnavailable, match=r"can't be reached.*tried 3 times"):
                await client.chat(BODY)

    async def test_retries_are_bounded(self) -> None:
        async with upstream(answer({}, 503), retries=3) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=r"status 503.*\(tried 4 times\)"):
                await client.chat(BODY)
        assert len(server.requests) == 4

    async def test_no_retries_when_told_so(self) -> None:
        async with upstream(answer({}, 503), retries=0) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="status 503") as caught:
                await client.chat(BODY)
        assert "tried" not in str(caught.value)
        assert len(server.requests) == 1

    async def test_a_slow_answer_is_not_asked_for_twice(self) -> None:
        async with upstream(silence, read=0.05) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=r"silent for 0\.05 s"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_an_answer_that_breaks_off_is_not_asked_for_twice(self) -> None:
        async with upstream(cut(b'{"choices": [')) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="cut its answer"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_an_answer_that_falls_silent_is_not_asked_for_twice(self) -> None:
        step = streamed(b'{"choices": [', 3600.0, content_type="application/json")
        async with upstream(step, read=0.05) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="silent"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [500, 501, 408, 409, 425])
    async def test_other_troubles_are_not_repeated(self, status: int) -> None:
        async with upstream(answer({}, status)) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=f"status {status}"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_what_is_no_http_is_not_repeated(self) -> None:
        async with upstream(raw(b"SSH-2.0-OpenSSH\r\n\r\n")) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="broke HTTP's rules"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_retry_after_is_waited_for(self) -> None:
        steps = (answer({}, 429, Retry_After="1"), answer(completion()))
        async with upstream(*steps) as (client, _):
            start = time.monotonic()
            await client.chat(BODY)
            assert time.monotonic() - start >= 1.0

    async def test_retry_after_beyond_the_deadline_is_not_waited_for(self) -> None:
        async with upstream(answer({}, 429, Retry_After="3600")) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=r"429.*asks to wait 3600 s"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_repeats_never_outlast_the_deadline(self) -> None:
        async def slow_refusal(writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.06)
            await answer({}, 503)(writer)

        async with upstream(slow_refusal, retries=10, total=0.2) as (client, server):
            with pytest.raises(UpstreamUnavailable):
                await client.chat(BODY)
        assert len(server.requests) <= 4

    async def test_the_deadline_holds_while_waiting_for_an_answer(self) -> None:
        async with upstream(silence, total=0.05) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=r"within 0\.05 s"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_the_deadline_holds_while_an_answer_drips(self) -> None:
        drips = [piece for _ in range(200) for piece in (b" ", 0.02)]
        step = streamed(*drips, content_type="application/json")
        async with upstream(step, total=0.1) as (client, _):
            with pytest.raises(UpstreamUnavailable, match=r"within 0\.1 s"):
                await client.chat(BODY)


class TestRefusals:
    async def test_a_fault_in_the_request_is_the_callers(self) -> None:
        error = {"error": {"message": "messages: too long", "type": "invalid_request_error"}}
        async with upstream(answer(error, 400)) as (client, server):
            with pytest.raises(UpstreamRejected) as caught:
                await client.chat(BODY)
        assert caught.value.status == 400
        assert caught.value.body == error
        assert len(server.requests) == 1

    async def test_a_fault_told_as_plain_text(self) -> None:
        async with upstream(answer(b"too long", 413, "text/plain")) as (client, _):
            with pytest.raises(UpstreamRejected) as caught:
                await client.chat(BODY)
        assert caught.value.status == 413
        assert caught.value.body == {"error": {"message": "too long"}}

    @pytest.mark.parametrize("status", [401, 402, 403])
    async def test_a_refused_key_is_the_operators(self, status: int) -> None:
        error = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        async with upstream(answer(error, status)) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="check the key in LLM_KEY") as caught:
                await client.chat(BODY)
        assert KEY not in str(caught.value)

    async def test_a_missing_key_is_named(self) -> None:
        async with upstream(answer({}, 401), key=None) as (client, _):
            with pytest.raises(UpstreamUnavailable, match=r"variable LLM_KEY, .* is not set"):
                await client.chat(BODY)
        async with upstream(answer({}, 401), key_env="") as (client, _):
            with pytest.raises(UpstreamUnavailable, match="check its key"):
                await client.chat(BODY)

    async def test_a_wrong_address_is_the_operators(self) -> None:
        async with upstream(answer(b"<h1>Not Found</h1>", 404, "text/html")) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="ending in its path such as /v1"):
                await client.chat(BODY)

    async def test_an_unknown_model_is_a_rejection(self) -> None:
        async with upstream(answer({"error": {"message": "no model x"}}, 404)) as (client, _):
            with pytest.raises(UpstreamRejected, match="no model x"):
                await client.chat(BODY)

    async def test_redirects_are_not_followed(self) -> None:
        step = answer({}, 307, Location="http://u:p@elsewhere/v1")
        async with upstream(step) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=r"redirects to http://\*\*\*@elsewhere"):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_an_error_body_that_breaks_off(self) -> None:
        head = b"HTTP/1.1 500 No\r\nContent-Length: 900\r\n\r\nhalf"
        async with upstream(raw(head)) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="status 500: half"):
                await client.chat(BODY)

    async def test_a_huge_error_body_is_cut(self) -> None:
        async with upstream(answer(b"x" * 1_000_000, 500, "text/plain")) as (client, _):
            with pytest.raises(UpstreamUnavailable) as caught:
                await client.chat(BODY)
        assert len(str(caught.value)) < 500


class TestBadAnswers:
    @pytest.mark.parametrize(
        ("step", "words"),
        [
            (answer(b"<html>Hello</html>", content_type="text/html"), "text/html instead of json"),
            (answer(b"<html>Hello</html>"), r"no JSON object \(application/json\): <html>Hello"),
            (answer(b"", content_type=""), r"no JSON object \(no content type\)"),
            (answer(b"[1, 2]"), "no JSON object"),
            (answer(b"[" * 100_000), "no JSON object"),
            (answer(b'{"a": \xff}'), "no JSON object"),
            (answer({"object": "list"}), 'no chat completion: {"object": "list"}'),
            (answer({"choices": []}), "no chat completion"),
            (answer({"choices": ["a"]}), "no chat completion"),
            (answer({"choices": [{"text": "a"}]}), "no chat completion"),
            (answer({"choices": {"0": {}}}), "no chat completion"),
            (answer({"error": {"message": "quota"}}), "reports an error.*quota"),
        ],
    )
    async def test_are_explained(self, step: Step, words: str) -> None:
        async with upstream(step) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=words):
                await client.chat(BODY)
        assert len(server.requests) == 1

    async def test_are_bounded(self) -> None:
        step = streamed(b" " * (MAX_BYTES + 1), content_type="application/json")
        async with upstream(step) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="more than 16 MiB"):
                await client.chat(BODY)


class TestCheck:
    async def test_fine(self) -> None:
        async with upstream(answer({"object": "list", "data": []})) as (client, server):
            await client.check()
        assert server.requests[0].line == "GET /v1/models HTTP/1.1"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize(
        ("step", "words"),
        [
            (answer({}, 503), "status 503"),
            (answer({}, 401), "check the key in LLM_KEY"),
            (answer({"detail": "Not Found"}, 404), "answers 404 to GET /models; is `upstream`"),
            (answer(b"hello", content_type="text/html"), "instead of json"),
            (answer(b"hello"), "no JSON object"),
        ],
    )
    async def test_what_is_wrong_is_said_after_one_try(self, step: Step, words: str) -> None:
        async with upstream(step) as (client, server):
            with pytest.raises(UpstreamUnavailable, match=words):
                await client.check()
        assert len(server.requests) == 1

    async def test_a_reset_is_said_after_two(self) -> None:
        async with upstream(reset) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="hung up"):
                await client.check()
        assert len(server.requests) == 2


class TestSecrets:
    async def test_the_key_is_in_no_repr(self) -> None:
        async with Upstream("http://u:pw@h/v1", "big", KEY) as client:
            assert repr(client) == "Upstream('http://***@h/v1', model='big', key='***')"
        async with Upstream("http://h/v1") as client:
            assert repr(client) == "Upstream('http://h/v1', model='', key=None)"

    @pytest.mark.parametrize(
        "step",
        [
            answer({"error": KEY}, 401),
            answer({"error": KEY}, 500),
            answer({"error": KEY}, 503),
            answer({"error": {"message": KEY}}, 400),
            answer({"error": KEY}),
            answer(("x" * 290 + KEY).encode()),
            answer(b"", content_type=KEY),
            streamed(event({"error": KEY})),
            streamed(f"data: {KEY}\n\n".encode()),
            raw(f"{KEY}\r\n\r\n".encode()),
            reset,
        ],
    )
    async def test_the_key_is_in_no_error_and_no_log(
        self, step: Step, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with upstream(step) as (client, _):
            for ask in (client.chat, lambda body: collect(client, dict(body))):
                with pytest.raises(UpstreamError) as caught:
                    await ask(BODY)
                assert KEY[:12] not in "".join(traceback.format_exception(caught.value))
        ours = [record for record in caplog.records if record.name.startswith("router")]
        assert KEY[:12] not in "\n".join(record.getMessage() for record in ours)


def test_certificates_and_host_names_are_verified() -> None:
    context = trusted_certificates()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


class TestFromSettings:
    def test_none_without_an_upstream(self) -> None:
        assert Upstream.from_settings(Settings()) is None

    async def test_everything_is_taken_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLM_KEY", KEY + "\n")
        async with scripted(answer({}, 503)) as server:
            client = Upstream.from_settings(
                Settings(
                    upstream=server.url,
                    upstream_model="big",
                    upstream_key_env="LLM_KEY",
                    upstream_connect_timeout=1,
                    upstream_read_timeout=2,
                    upstream_total_timeout=3,
                    upstream_retries=0,
                )
            )
            assert client is not None
            assert client.timeouts == Timeouts(connect=1, read=2, total=3)
            with pytest.raises(UpstreamUnavailable):
                await client.chat(BODY)
            await client.close()
        assert len(server.requests) == 1
        assert server.requests[0].body["model"] == "big"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"

    def test_a_key_that_can_not_be_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLM_KEY", "sk-“curly”")
        with pytest.raises(ConfigError, match="LLM_KEY"):
            Upstream.from_settings(Settings(upstream="http://h/v1", upstream_key_env="LLM_KEY"))


class TestTransport:
    """What can't be had from a server on this machine, through httpx's own stand-in."""

    @pytest.mark.parametrize("error", [httpx.ConnectTimeout, httpx.WriteError])
    async def test_what_was_not_sent_is_repeated(self, error: type[httpx.TransportError]) -> None:
        calls = 0

        def handle(request: httpx.Request) -> httpx.Response:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise error("", request=request)
            return httpx.Response(200, json=completion())

        transport = httpx.MockTransport(handle)
        async with Upstream("http://h/v1", backoff=0.001, transport=transport) as client:
            assert (await client.chat(BODY)).text == "four"
        assert calls == 2

    @pytest.mark.parametrize("error", [httpx.WriteTimeout, httpx.UnsupportedProtocol])
    async def test_what_may_have_been_sent_is_not(self, error: type[httpx.TransportError]) -> None:
        calls = 0

        def handle(request: httpx.Request) -> httpx.Response:
            nonlocal calls
            calls += 1
            raise error("", request=request)

        transport = httpx.MockTransport(handle)
        async with Upstream("http://h/v1", backoff=0.001, transport=transport) as client:
            with pytest.raises(UpstreamUnavailable):
                await client.chat(BODY)
        assert calls == 1

    async def test_no_more_at_once_than_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "MAX_CALLS", 2)
        health = Health("here")
        async with scripted(silence) as server, Upstream(server.url, health=health) as client:
            calls = [asyncio.create_task(client.chat(BODY)) for _ in range(2)]
            while server.busy < 2:
                await asyncio.sleep(0.001)
            for _ in range(20):
                with pytest.raises(UpstreamBusy, match="as much at once") as told:
                    await client.chat(BODY)
                assert told.value.retry_after == 1.0
            assert health.standing == "closed"  # it is no fault of the upstream's
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            server.steps[:] = [answer(completion("four"))]
            assert (await client.chat(BODY)).text == "four"

    async def test_through_the_environments_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with scripted(answer(completion("four"))) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
            monkeypatch.setenv("no_proxy", "near.example")
            async with Upstream("http://far.example/v1", key=KEY) as client:
                assert (await client.chat(BODY)).text == "four"
            (request,) = proxy.requests
            assert request.line == "POST http://far.example/v1/chat/completions HTTP/1.1"
            assert request.headers["authorization"] == f"Bearer {KEY}"
            async with Upstream("http://near.example/v1", retries=0) as client:
                with pytest.raises(UpstreamUnavailable, match="can't be reached"):
                    await client.chat(BODY)
        assert len(proxy.requests) == 1
