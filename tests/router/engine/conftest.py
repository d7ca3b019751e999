"""A second model of the same vocabulary, to guess what the first one says."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib


@pytest.fixture(scope="session")
def draft_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with its weights rounded to four bits once more."""
    path = tmp_path_factory.mktemp("draft") / "draft.gguf"
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    status = lib.llama_model_quantize(
        str(model_path).encode(), str(path).encode(), ctypes.byref(params)
    )
    assert status == 0
    return path
