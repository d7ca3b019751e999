"""The least a gateway on FastAPI can do: reads a request's JSON, and gives all the same answer.

What it takes of the CPU is the web stack's, and nothing that the gateway does with a request.
`python -m benchmarks.bare_gateway PORT`
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": "bare",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "logprobs": None,
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}

app = FastAPI()


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Say that it takes requests."""
    return {"status": "ready"}


@app.post("/v1/chat/completions")
async def answer(request: Request) -> JSONResponse:
    """Answer whatever is asked."""
    await request.json()
    return JSONResponse(ANSWER)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
