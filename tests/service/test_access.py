"""Who gets in: API keys, and what goes without one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.account import ANONYMOUS, Account
from router.errors import KeyStoreError
from router.keystore import KeyStore
from service.key_ring import KeyRing
from tests.service.scripted import QUESTION, ScriptedPipeline, client_of, make_app, running

CHAT = "/v1/chat/completions"
RELOAD = "/v1/calibration/reload"


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.db")


@asynccontextmanager
async def client_at(
    store: KeyStore,
    pipeline: ScriptedPipeline | None = None,
    *,
    address: str = "127.0.0.1",
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client at `address` of a gateway with the keys of `store`."""
    app = make_app(pipeline, keys=str(store.path), **settings)
    transport = httpx.ASGITransport(app=app, client=(address, 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client,
    ):
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(client: httpx.AsyncClient, key: str = "", **headers: str) -> httpx.Response:
    return await client.post(
        CHAT, json=QUESTION, headers={**(bearer(key) if key else {}), **headers}
    )


def refused(response: httpx.Response) -> str:
    """The message of a 401, which has OpenAI's shape."""
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


class TestWhenAKeyIsNeeded:
    async def test_not_by_a_newcomer_on_the_same_machine(self, store: KeyStore) -> None:
        async with client_at(store) as client:
            assert (await ask(client)).status_code == 200
            assert (await ask(client, "whatever-the-client-insists-on")).status_code == 200

    async def test_once_there_is_one(self, store: KeyStore) -> None:
        key, _ = store.create(Account(name="alice"))
        async with client_at(store) as client:
            assert "didn't provide" in refused(await ask(client))
            assert "Incorrect" in refused(await ask(client, "sk-router-wrong"))
            assert (await ask(client, key)).status_code == 200

    async def test_still_when_all_are_revoked(self, store: KeyStore) -> None:
        key, _ = store.create(Account(name="alice"))
        store.revoke("alice")
        async with client_at(store) as client:
            refused(await ask(client))
            assert "revoked" in refused(await ask(client, key))

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.org"])
    async def test_beyond_this_machine(self, store: KeyStore, host: str) -> None:
        async with client_at(store, host=host) as client:
            assert "router keys create NAME" in refused(await ask(client))

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    async def test_not_on_this_machine(self, store: KeyStore, host: str) -> None:
        async with client_at(store, host=host) as client:
            assert (await ask(client)).status_code == 200

    @pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "nowhere"])
    async def test_from_elsewhere_whatever_the_setting_says(
        self, store: KeyStore, address: str
    ) -> None:
        async with client_at(store, address=address) as client:
            refused(await ask(client))

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
    async def test_through_a_proxy(self, store: KeyStore, header: str) -> None:
        async with client_at(store) as client:
            refused(await ask(client, **{header: "127.0.0.1"}))

    async def test_always_if_required(self, store: KeyStore) -> None:
        async with client_at(store, auth="required") as client:
            refused(await ask(client))

    async def test_never_if_off(self, store: KeyStore) -> None:
        key, _ = store.create(Account(name="alice"))
        pipeline = ScriptedPipeline()
        settings = {"auth": "off", "host": "0.0.0.0"}
        async with client_at(store, pipeline, address="192.0.2.7", **settings) as client:
            assert (await ask(client)).status_code == 200
            assert (await ask(client, key)).status_code == 200
        assert [query.account for query in pipeline.queries] == [ANONYMOUS, ANONYMOUS]

    async def test_not_for_whether_it_lives_and_what_its_api_is(self, store: KeyStore) -> None:
        store.create(Account(name="alice"))
        async with client_at(store) as client:
            for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
                assert (await client.get(path)).status_code == 200

    @pytest.mark.parametrize(
        "path",
        ["/v1/models", "/v1/calibration", "/metrics", "/v1/none", "/", "/healthz/", "//healthz"],
    )
    async def test_for_all_else(self, store: KeyStore, path: str) -> None:
        store.create(Account(name="alice"))
        async with client_at(store) as client:
            refused(await client.get(path))


class TestHowItIsSent:
    @pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}", " Bearer {} "])
    async def test_as_a_bearer_token(self, store: KeyStore, form: str) -> None:
        key, _ = store.create(Account(name="alice"))
        async with client_at(store) as client:
            response = await ask(client, Authorization=form.format(key))
            assert response.status_code == 200

    @pytest.mark.parametrize("form", ["{}", "Basic {}", "Bearer", "Bearer ", "Bearer {}x", "{} {}"])
    async def test_not_otherwise(self, store: KeyStore, form: str) -> None:
        key, _ = store.create(Account(name="alice"))
        async with client_at(store) as client:
            message = refused(await ask(client, Authorization=form.format(key, key)))
            assert key not in message

    async def test_not_twice(self, store: KeyStore) -> None:
        key, _ = store.create(Account(name="alice"))
        async with client_at(store) as client:
            header = ("Authorization", f"Bearer {key}")
            response = await client.post(CHAT, json=QUESTION, headers=[header, header])
            assert "several Authorization headers" in refused(response)

    async def test_any_bytes_are_no_more_than_wrong(self, store: KeyStore) -> None:
        store.create(Account(name="alice"))
        async with client_at(store) as client:
            refused(
                await client.get("/v1/models", headers={b"Authorization": b"Bearer \xff\x00\xfe"})
            )


class TestFollowing:
    async def test_a_change_is_noticed_without_a_restart(self, store: KeyStore) -> None:
        ring = KeyRing(store, poll=0.01)
        await ring.start()
        try:
            assert not ring.ever
            key, made = store.create(Account(name="alice"))
            await until(lambda: ring.find(key.encode()) == made)
            assert ring.ever
            store.revoke("alice")
            await until(lambda: ring.find(key.encode()) is None)
            other, _ = store.create(Account(name="bob"))
            await until(lambda: ring.find(other.encode()) is not None)
            store.path.unlink()
            await until(lambda: ring.find(other.encode()) is None)
            assert ring.ever
        finally:
            await ring.close()

    async def test_by_a_gateway_too(self, store: KeyStore) -> None:
        async with client_at(store) as client:
            assert (await ask(client)).status_code == 200
            key, _ = store.create(Account(name="alice"))
            await until_status(client, 401)
            assert (await ask(client, key)).status_code == 200
            store.revoke("alice")
            await until_status(client, 401, key)

    async def test_a_file_that_breaks_leaves_the_keys(
        self, store: KeyStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        key, made = store.create(Account(name="alice"))
        ring = KeyRing(store, poll=0.01)
        await ring.start()
        try:
            whole = store.path.read_bytes()
            store.path.write_bytes(b"broken " * 1000)
            await until(lambda: "API keys stay as they were" in caplog.text)
            await asyncio.sleep(0.1)
            assert caplog.text.count("API keys stay as they were") == 1
            assert ring.find(key.encode()) == made
            store.path.write_bytes(whole)
            store.revoke("alice")
            await until(lambda: ring.find(key.encode()) is None)
        finally:
            await ring.close()

    async def test_a_file_that_is_broken_is_not_started_with(self, store: KeyStore) -> None:
        store.path.write_bytes(b"broken " * 1000)
        with pytest.raises(KeyStoreError, match="can't use"):
            async with client_at(store):
                raise AssertionError("it started")
        async with client_at(store, auth="off") as client:
            assert (await ask(client)).status_code == 200


async def until(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        await asyncio.sleep(0.01)


async def until_status(client: httpx.AsyncClient, status: int, key: str = "") -> None:
    deadline = time.monotonic() + 10
    while (await ask(client, key)).status_code != status:
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        await asyncio.sleep(0.05)


class TestWhatWasAgreed:
    async def query_of(self, store: KeyStore, terms: Account, **fields: Any) -> Any:
        key, _ = store.create(terms)
        pipeline = ScriptedPipeline()
        async with client_at(store, pipeline) as client:
            response = await client.post(CHAT, json={**QUESTION, **fields}, headers=bearer(key))
        return pipeline.queries[0] if response.status_code == 200 else response.json()["error"]

    async def test_comes_with_the_query(self, store: KeyStore) -> None:
        terms = Account(name="a", threshold=0.4, usd_per_day=1.0, tokens_per_minute=500)
        query = await self.query_of(store, terms)
        assert query.account == replace(terms, id=query.account.id)
        assert query.tenant == query.account.id
        assert query.account.id == store.all()[0].account.id
        assert (query.threshold, query.max_risk, query.local_only) == (0.4, None, False)

    async def test_a_requests_own_rule_comes_first(self, store: KeyStore) -> None:
        query = await self.query_of(
            store, Account(name="a", threshold=0.4), router={"max_risk": 0.1}
        )
        assert (query.threshold, query.max_risk) == (None, 0.1)
        query = await self.query_of(
            store, Account(name="b", max_risk=0.1), router={"threshold": 0.9}
        )
        assert (query.threshold, query.max_risk) == (0.9, None)

    async def test_nothing_undoes_local_only(self, store: KeyStore) -> None:
        terms = Account(name="a", local_only=True)
        query = await self.query_of(store, terms, router={"local_only": False})
        assert query.local_only
        error = await self.query_of(store, replace(terms, name="b"), model="remote")
        assert error["code"] == "key_forbids"

    async def test_a_decision_alone_follows_it_too(self, store: KeyStore) -> None:
        key, made = store.create(Account(name="a", local_only=True))
        pipeline = ScriptedPipeline()
        async with client_at(store, pipeline) as client:
            await client.post("/v1/route", json=QUESTION, headers=bearer(key))
        assert pipeline.queries[0].local_only
        assert pipeline.queries[0].account == made.account

    async def test_an_answer_is_not_shared_with_another_key(self, store: KeyStore) -> None:
        alice, _ = store.create(Account(name="alice"))
        bob, _ = store.create(Account(name="bob"))
        async with client_at(store) as client:

            async def cached(key: str) -> str:
                return str((await ask(client, key)).headers["x-router-cache"])

            assert [await cached(key) for key in (alice, alice, bob, bob)] == [
                *("miss", "hit"),
                *("miss", "hit"),
            ]
            purged = await client.delete("/v1/cache", headers=bearer(alice))
            assert purged.json()["purged"] == 1
            assert [await cached(key) for key in (bob, alice)] == ["hit", "miss"]

    async def test_an_operator_purges_another_keys_answers_or_all(self, store: KeyStore) -> None:
        operator, _ = store.create(Account(name="operator"), admin=True)
        alice, named = store.create(Account(name="alice"))
        bob, _ = store.create(Account(name="bob"))
        async with client_at(store) as client:

            async def purge(key: str, **params: str) -> Any:
                return await client.delete("/v1/cache", headers=bearer(key), params=params)

            for key in (alice, bob):
                await ask(client, key)
            for params in ({"tenant": "bob"}, {"all": "true"}):
                refused = await purge(alice, **params)
                assert (refused.status_code, refused.json()["error"]["code"]) == (
                    403,
                    "admin_key_needed",
                )
            unknown = await purge(operator, tenant="carol")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "key_not_found")
            assert (await purge(operator, tenant="bob", all="true")).status_code == 400
            other = await purge(operator, tenant="bob", calibration="sha256:" + "0" * 12)
            assert other.json()["purged"] == 0
            assert (await purge(operator, tenant="bob")).json()["purged"] == 1
            assert (await ask(client, alice)).headers["x-router-cache"] == "hit"
            assert (await purge(operator, tenant=named.account.id)).json()["purged"] == 1
            for key in (alice, bob):
                assert (await ask(client, key)).headers["x-router-cache"] == "miss"
            assert (await purge(operator, all="true")).json()["purged"] == 2

    async def test_the_log_tells_whose_request_it_was(
        self, store: KeyStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        key, made = store.create(Account(name="alice"))
        with caplog.at_level(logging.INFO, "service.middleware"):
            async with client_at(store) as client:
                await ask(client, key)
        (line,) = [record for record in caplog.records if record.name == "service.middleware"]
        assert vars(line)["account"] == made.account.id


class TestTheOperator:
    async def test_needs_an_admin_key_once_keys_are_needed(self, store: KeyStore) -> None:
        user, _ = store.create(Account(name="alice"))
        admin, _ = store.create(Account(name="root"), admin=True)
        async with client_at(store) as client:
            for method, path in (("GET", "/metrics"), ("GET", "/v1/dashboard"), ("POST", RELOAD)):
                refused(await client.request(method, path))
                denied = await client.request(method, path, headers=bearer(user))
                assert denied.status_code == 403
                assert denied.json()["error"]["code"] == "admin_key_needed"
                assert (
                    await client.request(method, path, headers=bearer(admin))
                ).status_code == 200

    async def test_may_be_elsewhere_then(self, store: KeyStore) -> None:
        admin, _ = store.create(Account(name="root"), admin=True)
        async with client_at(store, address="192.0.2.7", host="0.0.0.0") as client:
            for headers in (bearer(admin), {**bearer(admin), "Via": "1.1 proxy"}):
                assert (await client.post(RELOAD, headers=headers)).status_code == 200

    async def test_is_whoever_is_on_this_machine_before(self, store: KeyStore) -> None:
        async with client_at(store) as client:
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.post(RELOAD)).status_code == 200

    async def test_is_seen_but_not_obeyed_from_elsewhere_without_keys(
        self, store: KeyStore
    ) -> None:
        async with client_at(store, address="192.0.2.7", auth="off") as client:
            assert (await client.get("/metrics")).status_code == 200
            denied = await client.post(RELOAD)
        assert denied.status_code == 403
        assert denied.json()["error"]["code"] == "local_only"


class TestWebPages:
    """A page on the operator's screen can send requests to localhost behind their back."""

    @pytest.mark.parametrize(
        "host", ["localhost", "localhost:1", "a.localhost", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
    )
    async def test_names_that_lead_nowhere_else_are_answered_to(
        self, store: KeyStore, host: str
    ) -> None:
        async with client_at(store) as client:
            assert (await ask(client, Host=host)).status_code == 200

    @pytest.mark.parametrize("auth", ["auto", "off"])
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"],
    )
    async def test_a_name_that_was_made_to_lead_here_is_not(
        self, store: KeyStore, host: str, auth: str
    ) -> None:
        async with client_at(store, auth=auth) as client:
            for response in (
                await ask(client, Host=host, Origin=f"http://{host}"),
                await client.get("/metrics", headers={"Host": host}),
            ):
                assert response.status_code == 403
                assert response.json()["error"]["code"] == "forbidden_host"

    async def test_with_a_key_any_name_will_do(self, store: KeyStore) -> None:
        key, _ = store.create(Account(name="alice"))
        async with client_at(store) as client:
            response = await ask(client, key, Host="proxy.example", Origin="https://app.example")
            assert response.status_code == 200

    @pytest.mark.parametrize("auth", ["auto", "off"])
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
    async def test_other_pages_are_refused(self, store: KeyStore, origin: str, auth: str) -> None:
        async with client_at(store, auth=auth) as client:
            response = await ask(client, Origin=origin)
        assert response.status_code == 403
        error = response.json()["error"]
        assert error["code"] == "forbidden_origin"
        assert "cors_origins" in error["message"]

    async def test_its_own_pages_are_not(self, store: KeyStore) -> None:
        async with client_at(store) as client:
            assert (await ask(client, Origin="http://localhost:8000")).status_code == 200

    async def test_nor_those_that_are_named(self, store: KeyStore) -> None:
        async with client_at(store, cors_origins="https://app.example") as client:
            assert (await ask(client, Origin="https://app.example")).status_code == 200
            assert (await ask(client, Origin="https://b.example")).status_code == 403
            assert (await ask(client, Host="app.example")).status_code == 200

    async def test_a_gateway_for_others_has_names_it_does_not_know(self, store: KeyStore) -> None:
        async with client_at(store, auth="off", host="0.0.0.0") as client:
            assert (await ask(client, Host="gateway:8000")).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}])
async def test_without_keys_the_authorization_header_keeps_answers_apart(
    headers: Mapping[str, str],
) -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline) as client:
        await client.post(CHAT, json=QUESTION, headers=dict(headers))
    (query,) = pipeline.queries
    assert query.account == ANONYMOUS
    assert bool(query.tenant) is bool(headers)


async def test_without_a_request_nothing_is_read(tmp_path: Path) -> None:
    async with running(make_app(keys=str(tmp_path / "none" / "keys.db"))) as client:
        assert (await ask(client)).status_code == 200
    assert not (tmp_path / "none").exists()
