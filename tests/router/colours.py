"""A small model that knows colours by a script, questions for it, and a large one to ask.

Whoever calibrates it needs no weights: `local_model` stands in for the engine. Intervals are then
of few resamples, and stacks choose between few penalties.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result

from calibration.fit import fit_calibration
from calibration.stack_fit import fit_stack
from router.cli import main
from router.config import Settings
from router.engine.messages import (
    Completion,
    EngineTimings,
    GenerateRequest,
)
from tests.router.fake_upstream import Server, Step
from tests.router.llm import llm
from tests.router.no_follow_ups import NoFollowUps
from tests.router.samples import trace
from tests.router.simple_engine import SimpleEngine

N = 250
INFO = SimpleEngine.info

_COLOUR = re.compile(r"^Name colour (\d+)\.$")


def is_easy(i: int) -> bool:
    """The model is sure of these."""
    return i % 2 == 0


def is_right(i: int) -> bool:
    """The model says "blue"; it is, 97 times in 100 where it is sure and 35 times elsewhere."""
    return i * 37 % 100 < (97 if is_easy(i) else 35)


def question(i: int, **more: Any) -> dict[str, Any]:
    answer = "blue" if is_right(i) else "red"
    return {
        "id": f"q{i}",
        "question": f"Name colour {i}.",
        "answer": answer,
        "max_tokens": 4,
        **more,
    }


def unanswered(i: int) -> dict[str, Any]:
    return {"id": f"q{i}", "question": f"Name colour {i}.", "max_tokens": 4}


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def confidence(i: int) -> float:
    """What the model gives its tokens."""
    return (0.9 if is_easy(i) else 0.4) + 0.09 * (i * 61 % 100) / 100


class LocalModel(NoFollowUps, SimpleEngine):
    """Answers every question with "blue"; knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def generate(self, request: GenerateRequest) -> Completion:
        prompt = request.messages[-1].content
        self.asked.append(prompt)
        found = _COLOUR.match(prompt)
        assert found is not None, f"the script has no answer to {prompt!r}"
        return Completion(trace(("blue", confidence(int(found[1])))), EngineTimings())


@pytest.fixture
def local_model(monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    """Takes the engine's place for commands that ask a set of questions."""
    return put_in_place(monkeypatch)


def put_in_place(patch: pytest.MonkeyPatch) -> LocalModel:
    """Do what `local_model` does, for a fixture of a wider scope."""
    model = LocalModel()

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[LocalModel]:  # noqa: ARG001 - an opener
        yield model

    patch.setattr("router.cli.collecting.open_engine", opened)
    # With as many of either as usual it takes twice as long.
    for defaults, name, value in (
        (fit_calibration.__kwdefaults__, "n_boot", 20),
        (fit_stack.__kwdefaults__, "inverse_penalties", (0.01, 1.0)),
    ):
        assert defaults is not None
        patch.setitem(defaults, name, value)
    return model


@contextmanager
def large_model(reply: Callable[[str], str | Step], *, model: str = "big") -> Iterator[Server]:
    """A large model over HTTP, in a thread: a command has a loop of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(llm(reply, model=model)) as (_, server),
    ):
        yield server


def knows(prompt: str) -> str:
    """What a large model says that is always right."""
    found = _COLOUR.match(prompt)
    assert found is not None, f"not asked for a colour: {prompt!r}"
    return "blue" if is_right(int(found[1])) else "red"


def run(*words: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(main, [str(word) for word in words])
