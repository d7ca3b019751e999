"""Types chosen for the cache move scores a little: a build, and so its fingerprint, names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.engine.llama import build_version
from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig


@pytest.mark.parametrize(
    ("keys", "named"), [("auto", ""), ("q8_0", ""), ("f16", ", keys f16, values f16")]
)
async def test_a_build_names_other_types_than_the_usual(
    model_path: Path, keys: str, named: str
) -> None:
    engine = LocalEngine(EngineConfig(str(model_path), slots=1, kv_type_k=keys))
    await engine.start()
    try:
        assert engine.info.build == build_version() + named
    finally:
        await engine.close()
