"""The small model on this machine: loading, scheduling, sampling, and what it observed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from router.config import Settings
from router.engine.engine import Engine
from router.engine.messages import EngineConfig
from router.models import Progress, resolve_model

__all__ = ["Engine", "engine_config", "local_engine", "open_engine"]


def engine_config(settings: Settings, *, on_progress: Progress | None = None) -> EngineConfig:
    """How `settings` say to load the engine; fetches the model first when it is a remote one.

    Raises ModelError when the model can't be found, fetched or verified.
    """
    return EngineConfig(
        model_path=str(resolve_model(settings.model, on_progress=on_progress)),
        context=settings.context,
        slots=settings.slots,
        queue=settings.queue,
        threads=settings.threads,
        n_gpu_layers=settings.n_gpu_layers,
    )


def local_engine(settings: Settings) -> Engine:
    """An engine in this process, not started. Raises ModelError."""
    # Imported here: a gateway, whose engine lives in a child, never loads llama.cpp itself.
    from router.engine.local import LocalEngine  # noqa: PLC0415

    return LocalEngine(engine_config(settings))


@contextlib.asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[Engine]:
    """A started engine in this process; closed on leaving. Raises ModelError, EngineError."""
    engine = local_engine(settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
