"""What the routes share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

from fastapi import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.gateway import Gateway
from service.openai import ChatRequest


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_OBJECT: dict[str, Any] = {"type": "object"}
_NULLABLE = {"type": ["string", "null"]}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message"],
            "properties": {"message": {"type": "string"}, "type": _NULLABLE, "code": {}},
        }
    },
}

Responses = dict[int | str, dict[str, Any]]

OUTCOMES: Responses = {
    "4XX": {"description": "the request can't be answered as it is", "content": _json(_ERROR)},
    "5XX": {"description": "the request can't be answered now", "content": _json(_ERROR)},
}
"""How every endpoint says that there is no answer, where it doesn't say otherwise."""

ANSWERS: Responses = {
    200: {
        "description": "the answer; of a streamed request, server-sent events",
        "content": {**_json(_OBJECT), "text/event-stream": {"schema": {"type": "string"}}},
    }
}


class PlainRoute(APIRoute):
    """A route whose endpoint takes the request alone, so that FastAPI has nothing to solve."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return cast(Callable[[Request], Coroutine[Any, Any, Response]], self.endpoint)


def gateway_of(request: Request) -> Gateway:
    """Return what answers in this application."""
    return cast(Gateway, request.app.state.gateway)


async def _gateway(request: Request) -> Gateway:
    return gateway_of(request)


GatewayDep = Annotated[Gateway, Depends(_gateway)]


def log_facts(request: Request) -> dict[str, Any]:
    """Return the dictionary whose content becomes part of the request's line in the log."""
    return cast(dict[str, Any], request.scope["state"]["log"])


def takes_chat_request(description: str) -> dict[str, Any]:
    """Return the OpenAPI entry of a route that reads a `ChatRequest` by itself."""
    return takes(ChatRequest, description)


def takes(model: type[BaseModel], description: str) -> dict[str, Any]:
    """Return the OpenAPI entry of a route that reads a `model` by itself; see `REQUESTS`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {"application/json": {"schema": schema}},
        }
    }
