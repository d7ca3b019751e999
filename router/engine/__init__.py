"""The small model on this machine: loading, scheduling, sampling, and what it observed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from router.config import Settings
from router.engine.engine import Engine
from router.engine.messages import EngineConfig
from router.errors import ConfigError, ModelError
from router.models import Progress, resolve_model

# Read by GNU OpenMP when llama.cpp's libraries are loaded: how long a thread spins while it waits
# for the others, before it sleeps. With OpenMP's own default it all but stops as soon as another
# program wants a core; without spinning it is slow on a quiet machine (docs/performance.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["Engine", "engine_config", "local_engine", "open_engine"]


def engine_config(settings: Settings, *, on_progress: Progress | None = None) -> EngineConfig:
    """How `settings` say to load the engine; fetches the model first when it is a remote one.

    Raises ModelError when the model can't be found, fetched or verified, ConfigError for a
    `chat_template` that can't be read.
    """
    return EngineConfig(
        model_path=str(resolve_model(settings.model, on_progress=on_progress)),
        context=settings.context,
        slots=settings.slots,
        queue=settings.queue,
        queue_seconds=settings.queue_seconds,
        threads=settings.threads,
        prefill_chunk=settings.prefill_chunk,
        n_gpu_layers=settings.n_gpu_layers,
        main_gpu=settings.main_gpu,
        tensor_split=tuple(float(share) for share in settings.tensor_split.split(",") if share),
        flash_attn=settings.flash_attn,
        kv_type_k=settings.kv_type_k,
        kv_type_v=settings.kv_type_v,
        mmap=settings.mmap == "on",
        mlock=settings.mlock == "on",
        numa=settings.numa,
        speculative=settings.speculative,
        draft_model_path=_draft_model(settings, on_progress),
        draft_tokens=settings.draft_tokens,
        prefix_folder=settings.prefix_folder,
        chat_template=_chat_template(settings),
        tools=settings.local_tools == "on",
    )


def _chat_template(settings: Settings) -> str:
    if not settings.chat_template:
        return ""
    path = Path(settings.chat_template).expanduser()
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the chat_template {path}: {error}") from error
    if not source.strip():
        raise ConfigError(f"the chat_template {path} is empty")
    return source


def _draft_model(settings: Settings, on_progress: Progress | None) -> str:
    if settings.speculative != "draft":
        return ""
    if not settings.draft_model:
        raise ModelError(
            "speculative = draft needs a draft_model: a smaller GGUF of the same vocabulary"
        )
    return str(resolve_model(settings.draft_model, on_progress=on_progress))


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
