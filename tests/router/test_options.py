"""Flags made from settings."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from router.cli.options import settings_options
from router.config import Settings
from router.config_words import flag, setting_names


def command(*names: str) -> click.Command:
    @click.command()
    @click.argument("word", default="-")
    @settings_options(*names)
    def show(word: str, settings: Settings) -> None:
        click.echo(f"{word} {settings.port} {settings.n_gpu_layers} {settings.upstream}")

    return show


def run(*args: str, names: tuple[str, ...] = (), env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(command(*names), args, env=env, catch_exceptions=False)
    return result.output.strip()


def test_every_setting_is_a_flag() -> None:
    output = run("--help")
    for name in setting_names():
        assert flag(name) in output
    assert "--config FILE" in output


def test_only_the_named_ones() -> None:
    output = run("--help", names=("port", "n_gpu_layers"))
    assert "--port N" in output
    assert "--n-gpu-layers auto|N" in output
    assert "--slots" not in output
    assert output.index("--port") < output.index("--n-gpu-layers") < output.index("--config")


def test_help_names_defaults_and_kinds() -> None:
    output = " ".join(run("--help").split())
    assert "[default: 8000]" in output
    assert "--log-level debug|info|warning|error" in output
    assert "--upstream URL" in output
    assert "--upstream-read-timeout X" in output


def test_other_parameters_are_passed_on() -> None:
    assert run("hello", "--port", "9") == "hello 9 auto None"


def test_flags_win_over_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('port = 1\nn_gpu_layers = 2\nupstream = "http://h/v1"')
    env = {"ROUTER_PORT": "3", "ROUTER_N_GPU_LAYERS": "4"}
    assert run("--config", str(file), "--port", "5", env=env) == "- 5 4 http://h/v1"


def test_a_setting_without_flag_still_comes_from_elsewhere() -> None:
    assert run(names=("port",), env={"ROUTER_N_GPU_LAYERS": "4"}) == "- 8000 4 None"


def test_no_such_setting() -> None:
    with pytest.raises(KeyError):
        command("prot")
