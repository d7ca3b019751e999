"""Binding, start-up, signals: what `router serve` does around the application."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from router.cli.server import NEW_OBJECTS, OPEN_FILES, address_of, bind, run
from router.errors import ModelError, RouterError
from tests.router.fake_gateway import build

ROOT = Path(__file__).parents[2]


@contextmanager
def gateway(mode: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.router.fake_gateway", mode]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


class TestBind:
    def test_a_free_port(self) -> None:
        with closing(bind("127.0.0.1", 0)) as bound:
            port = bound.getsockname()[1]
            assert port > 0
            assert address_of(bound) == f"http://127.0.0.1:{port}"

    def test_a_name(self) -> None:
        with closing(bind("localhost", 0)) as bound:
            assert address_of(bound).startswith("http://")

    def test_all_addresses_are_reached_at_this_machines_own(self) -> None:
        with closing(bind("0.0.0.0", 0)) as bound:
            assert address_of(bound).startswith("http://127.0.0.1:")

    @pytest.mark.parametrize("host", ["::1", "::"])
    def test_ipv6_is_bracketed(self, host: str) -> None:
        class Bound(socket.socket):  # not every machine can bind one
            def getsockname(self) -> tuple[str, int, int, int]:
                return host, 80, 0, 0

        with closing(Bound()) as bound:
            assert address_of(bound) == "http://[::1]:80"

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(
                RouterError, match=rf"port {port} on 127\.0\.0\.1 is already in use"
            ):
                bind("127.0.0.1", port)

    def test_a_host_that_is_none(self) -> None:
        with pytest.raises(RouterError, match="is no address to listen on"):
            bind("no such host", 0)

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(RouterError, match=r"can't listen on 192\.0\.2\.1 port 0"):
            bind("192.0.2.1", 0)


class TestInThisProcess:
    """Errors come through; signals end it."""

    def test_it_serves_until_interrupted(self) -> None:
        answers: list[str] = []
        with closing(bind("127.0.0.1", 0)) as bound:
            run(build("fine"), bound, _visit(bound, signal.SIGINT, answers), log_level="debug")
        assert answers == ["hello"]

    def test_it_serves_until_told_to_end(self) -> None:
        answers: list[str] = []
        before = signal.getsignal(signal.SIGTERM)
        with closing(bind("127.0.0.1", 0)) as bound, pytest.raises(SystemExit) as ended:
            run(build("fine"), bound, _visit(bound, signal.SIGTERM, answers), log_level="info")
        assert ended.value.code == 0
        assert answers == ["hello"]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_closing_that_hangs_is_broken_off_and_said(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("router.cli.server.CLOSE_SECONDS", 0.2)
        with closing(bind("127.0.0.1", 0)) as bound:
            run(build("stuck"), bound, _visit(bound, signal.SIGINT, []), log_level="error")
        assert "what hangs is broken off" in caplog.text
        assert "closed" in capfd.readouterr().out

    def test_the_garbage_collector_is_left_as_it_was(self) -> None:
        usual, frozen, seen = gc.get_threshold(), gc.get_freeze_count(), []
        answers: list[str] = []
        with closing(bind("127.0.0.1", 0)) as bound:
            visit = _visit(bound, signal.SIGINT, answers)

            def ready() -> None:
                seen.append((gc.get_threshold()[0], gc.get_freeze_count() > 10_000))
                visit()

            run(build("fine"), bound, ready, log_level="error")
        assert seen == [(NEW_OBJECTS, True)]
        assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, frozen)

    def test_it_may_hold_many_connections(self) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        answers: list[str] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
            with closing(bind("127.0.0.1", 0)) as bound:
                run(build("fine"), bound, _visit(bound, signal.SIGINT, answers), log_level="error")
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(OPEN_FILES, before[1])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_interrupted_while_loading(self) -> None:
        with closing(bind("127.0.0.1", 0)) as bound, pytest.raises(KeyboardInterrupt):
            run(build("interrupted"), bound, lambda: None, log_level="error")

    def test_an_error_of_ours_comes_through_as_itself(self) -> None:
        with closing(bind("127.0.0.1", 0)) as bound, pytest.raises(ModelError, match="no such"):
            run(build("model-error"), bound, lambda: None, log_level="error")

    def test_another_error_ends_the_process(self) -> None:
        with closing(bind("127.0.0.1", 0)) as bound, pytest.raises(SystemExit):
            run(build("crash"), bound, lambda: None, log_level="error")

    def test_a_port_taken_meanwhile(self) -> None:
        with (
            closing(bind("127.0.0.1", 0)) as bound,
            closing(bind("127.0.0.1", bound.getsockname()[1])) as quicker,
        ):
            quicker.listen()
            with pytest.raises(RouterError, match="already in use"):
                run(build("fine"), bound, lambda: None, log_level="error")

    def test_hang_ups_mean_what_they_did_when_it_has_ended(self) -> None:
        heard: list[int] = []
        before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))

        async def answered() -> None:
            heard.append(0)
            os.kill(os.getpid(), signal.SIGINT)

        def ready() -> None:
            os.kill(os.getpid(), signal.SIGHUP)

        try:
            with closing(bind("127.0.0.1", 0)) as bound:
                run(build("fine"), bound, ready, log_level="error", on_hang_up=answered)
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)
        assert heard == [0, signal.SIGHUP]

    def test_outside_the_main_thread(self) -> None:
        errors: list[Exception] = []

        def target() -> None:
            with closing(bind("127.0.0.1", 0)) as bound:
                try:
                    run(build("model-error"), bound, lambda: None, log_level="error")
                except ModelError as error:
                    errors.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        assert len(errors) == 1


def _visit(bound: socket.socket, number: signal.Signals, answers: list[str]) -> Callable[[], None]:
    """What to do when the server is ready: ask once, then send this process a signal."""

    def visit() -> None:
        answers.append(httpx.get(address_of(bound)).text)
        os.kill(os.getpid(), number)

    return lambda: threading.Thread(target=visit).start()


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_requests_under_way_finish(self, number: signal.Signals) -> None:
        with gateway("fine") as child:
            assert line(child) == "loading"
            ready, _, url = line(child).partition(" ")
            assert ready == "ready"
            assert httpx.get(url).text == "hello"
            answers: list[str] = []
            thread = threading.Thread(
                target=lambda: answers.append(httpx.get(f"{url}/slow", timeout=20).text)
            )
            thread.start()
            assert line(child) == "working"
            child.send_signal(number)
            thread.join()
            assert answers == ["done"]
            assert child.wait(timeout=10) == 0
            assert line(child) == "closed"

    def test_a_hang_up_is_answered_and_ends_nothing(self) -> None:
        with gateway("fine") as child:
            assert line(child) == "loading"
            url = line(child).removeprefix("ready ")
            for _ in range(2):
                child.send_signal(signal.SIGHUP)
                assert line(child) == "hung up"
            assert httpx.get(url).text == "hello"
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=10) == 0

    def test_a_hang_up_while_loading_is_answered_later_and_may_fail(self) -> None:
        with gateway("hung-up") as child:
            assert line(child) == "loading"
            assert line(child).startswith("ready")
            assert line(child) == "hung up"
            child.send_signal(signal.SIGHUP)
            assert line(child) == "hung up"
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=20)
        assert "what a SIGHUP asked for failed; the server goes on" in err
        assert "ZeroDivisionError" in err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_loading_it_stops_at_once(self, number: signal.Signals) -> None:
        with gateway("slow") as child:
            assert line(child) == "loading"
            child.send_signal(number)
            assert line(child) == "interrupted"
            assert child.wait(timeout=10) == 1

    def test_an_error_of_ours_has_no_traceback(self) -> None:
        with gateway("model-error") as child:
            out, err = child.communicate(timeout=20)
        assert child.returncode == 1
        assert out.splitlines() == ["loading", "error: no such model"]
        assert "Traceback" not in err

    def test_a_bug_has_one(self) -> None:
        with gateway("crash") as child:
            _, err = child.communicate(timeout=20)
        assert child.returncode == 3
        assert "ZeroDivisionError: a bug" in err
