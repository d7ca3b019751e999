"""The least a gateway on FastAPI can do: reads a request's JSON, and gives all the same answer.

What it takes of the CPU is the web stack's, and nothing that the gateway does with a request.
`python -m benchmarks.bare_gateway PORT`
"""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from benchmarks.gateway_upstream import whole_answer

ANSWER: dict[str, Any] = json.loads(whole_answer().partition(b"\r\n\r\n")[2])

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
