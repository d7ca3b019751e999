"""What the routes share."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Depends
from pydantic import BaseModel
from starlette.requests import Request

from service.gateway import Gateway
from service.openai import ChatRequest


def gateway_of(request: Request) -> Gateway:
    """Return what answers in this application."""
    return cast(Gateway, request.app.state.gateway)


async def _gateway(request: Request) -> Gateway:
    return gateway_of(request)


GatewayDep = Annotated[Gateway, Depends(_gateway)]


def log_facts(request: Request) -> dict[str, Any]:
    """Return the dictionary whose content becomes part of the request's line in the log."""
    return cast(dict[str, Any], request.state.log)


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
