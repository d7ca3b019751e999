"""Our own client package against the gateway's keys and limits, on a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from router_client import AuthenticationError, PermissionDenied, RateLimited, RouterClient

from router.account import Account
from router.keystore import KeyStore
from tests.service.scripted import make_app, serving


def test_keys_and_limits(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key, _ = store.create(Account(name="alice", requests_per_minute=1))
    bound, _ = store.create(Account(name="bob", local_only=True))
    with serving(make_app(keys=str(store.path))) as address:
        for wrong in (None, "sk-router-wrong"):
            with (
                RouterClient(address, api_key=wrong) as client,
                pytest.raises(AuthenticationError) as unknown,
            ):
                client.ask("Hi")
            assert unknown.value.code == "invalid_api_key"
            assert "API key" in str(unknown.value)
        with RouterClient(address, api_key=key, max_retries=0) as client:
            assert client.ask("Hi").text == "Grüße!"
            with pytest.raises(RateLimited) as limited:
                client.ask("Hi")
        assert limited.value.code == "rate_limit_exceeded"
        assert limited.value.retry_after is not None
        assert 1 <= limited.value.retry_after <= 60
        with (
            RouterClient(address, api_key=bound) as client,
            pytest.raises(PermissionDenied, match="local only"),
        ):
            client.ask("Hi", model="remote")
