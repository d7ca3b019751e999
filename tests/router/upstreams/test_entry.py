"""Upstreams as they are configured, and what is said of tables that can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.config import Settings
from router.config_load import load_settings
from router.errors import ConfigError
from router.prices import Prices

TWO = """
upstream_retries = 5

[[upstreams]]
name = "large"
url = "https://large/v1/"
model = "large-1"
models = { remote = "larger-1" }
key_env = "LARGE_KEY"
priority = 1
price_in = 0.5
price_out = 1.5
read_timeout = 7

[[upstreams]]
name = "near"
url = "http://127.0.0.1:9000/v1"
weight = 3
retries = 0
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(toml: str = "", **environ: str) -> Settings:
    Path("router.toml").write_text(toml)
    return load_settings(environ=environ)


def refused(toml: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(toml, **environ)
    return str(caught.value)


def table(**fields: Any) -> str:
    fields = {"name": "a", "url": "http://h/v1"} | fields
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if value != ""]
    return "\n".join(["[[upstreams]]", *lines, ""])


class TestEntries:
    def test_those_of_the_lowest_number_come_first(self) -> None:
        near, large = load(TWO).upstream_entries()
        assert (near.name, large.name) == ("near", "large")
        assert large.url == "https://large/v1"
        assert large.models == {"remote": "larger-1"}
        assert large.prices == Prices(0.5, 1.5)

    def test_what_a_table_leaves_out_is_as_for_one_upstream(self) -> None:
        near, large = load(TWO).upstream_entries()
        assert (near.read_timeout, large.read_timeout) == (60.0, 7.0)
        assert (near.retries, large.retries) == (0, 5)

    def test_one_upstream_is_one_entry(self) -> None:
        settings = load('upstream = "http://h/v1"\nupstream_model = "big"\nupstream_price_in = 2')
        (entry,) = settings.upstream_entries()
        assert (entry.name, entry.url, entry.model) == ("upstream", "http://h/v1", "big")
        assert entry.key_env == "UPSTREAM_API_KEY"
        assert entry.prices == Prices(2.0, 0.0)

    def test_none(self) -> None:
        assert load().upstream_entries() == ()
        assert load(ROUTER_UPSTREAMS=" ").upstream_entries() == ()

    def test_a_variable_holds_json(self) -> None:
        settings = load(ROUTER_UPSTREAMS='[{"name": "a", "url": "http://h/v1"}]')
        assert [entry.name for entry in settings.upstreams] == ["a"]

    def test_each_key_comes_from_its_own_variable(self) -> None:
        environ = {"LARGE_KEY": "sk-1\n"}
        near, large = load(TWO, **environ).upstream_entries()
        assert (near.key(environ), large.key(environ)) == (None, "sk-1")
        with pytest.raises(ConfigError, match="key_env of the upstream large") as caught:
            large.key({"LARGE_KEY": "sk-“1”"})
        assert "sk-" not in str(caught.value)

    def test_the_variable_of_a_key_may_have_our_prefix(self) -> None:
        assert load(table(key_env="ROUTER_LARGE_KEY"), ROUTER_LARGE_KEY="sk-1").upstreams


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"url": "ftp://h"}, "url = 'ftp://h' (from router.toml): it must look like http"),
            ({"url": "http://h/v1?key=s3cret"}, "url = 'http://h/v1?***' (from router.toml): it"),
            ({"url": ""}, "url (from router.toml) is missing: allowed is a URL such as"),
            ({"name": "a b"}, "name = 'a b' (from router.toml): allowed is letters, digits"),
            ({"api": "soap"}, "api = 'soap' (from router.toml): allowed is openai or anthropic"),
            ({"priority": -1}, "priority = -1 (from router.toml): allowed is a whole number from"),
            ({"priority": True}, "priority = True (from router.toml): allowed is a whole number"),
            ({"weight": 0}, "weight = 0 (from router.toml): allowed is a number above 0"),
            ({"price_in": -1}, "price_in = -1 (from router.toml): allowed is a number of at"),
            ({"retries": 11}, "retries = 11 (from router.toml): allowed is a whole number from 0"),
            ({"total_timeout": 0}, "total_timeout = 0 (from router.toml): allowed is a number"),
            ({"models": [1]}, "models = [1] (from router.toml): allowed is a table of"),
            ({"prioriti": 1}, "prioriti (from router.toml) is no setting of an upstream; did you"),
        ],
    )
    def test_the_field_is_named(self, fields: dict[str, Any], words: str) -> None:
        said = refused(table(**fields))
        assert said.startswith(f"upstreams[0].{words}")
        assert "s3cret" not in said

    def test_a_key_put_where_its_variable_belongs_is_not_repeated(self) -> None:
        said = refused(table(key_env="sk-s3cret"))
        assert said.startswith("upstreams[0].key_env = ***")
        assert "s3cret" not in said

    def test_a_password_in_the_address(self) -> None:
        said = refused(table(url="http://u:s3cret@h/v1"))
        assert "put the key in an environment variable and its name in key_env" in said
        assert "s3cret" not in said

    def test_all_are_told_at_once(self) -> None:
        assert len(refused(table(url="h") + table(name="b", weight=-1)).splitlines()) == 2

    def test_two_of_one_name(self) -> None:
        assert "two upstreams are called a" in refused(table() + table())

    def test_beside_the_single_one(self) -> None:
        assert "`upstream` is set too" in refused('upstream = "http://h/v1"\n' + table())

    def test_anthropic_needs_a_model(self) -> None:
        assert "needs `model` or `models`" in refused(table(api="anthropic"))

    @pytest.mark.parametrize("value", ["{", "3", '"a"', '["s3cret"]', '{"name": "s3cret"}'])
    def test_what_is_no_list_of_tables(self, value: str) -> None:
        said = refused("", ROUTER_UPSTREAMS=value)
        assert "(from ROUTER_UPSTREAMS): allowed is tables [[upstreams]]" in said
        assert "s3cret" not in said
