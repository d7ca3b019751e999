"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from router.config import Settings
from router.errors import RouterError
from router.ledger import open_ledger
from router.live import Live
from router.personal_data import open_personal_data
from router.pipeline import build_pipeline
from router.tracing import Tracing
from service import logs
from service.access import Gate, KeyCheck
from service.audit import build_auditor
from service.books import Books
from service.disconnect import ClientGoneError
from service.errors import ApiError, bad_request, from_http_exception, from_router_error
from service.gateway import Gateway, build_cache, build_rules
from service.hardening import CORS_EXPOSED
from service.limits import build_limits
from service.metrics import Metrics
from service.middleware import RequestContext
from service.openai import ChatRequest
from service.ports import PipelinePort
from service.responses import ResponsesRequest
from service.routes import (
    budget,
    cache,
    calibration,
    chat,
    completions,
    dashboard,
    feedback,
    health,
    metrics,
    models,
    responses,
    route,
)
from service.text_completions import CompletionRequest
from service.upstream_metrics import UpstreamCollector

if TYPE_CHECKING:  # older ones have none
    from fastapi.telemetry import TelemetryConfig

DESCRIPTION = """Answers on the device when the small model is sure, asks a large one when not.

Speaks OpenAI's chat API; the model is `auto`, `local` or `remote`."""


NO_OTHER_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own tells of query strings and exceptions, whose texts may quote a prompt."""


class GatewayApp(FastAPI):
    """FastAPI, describing also the request model that the routes read by themselves."""

    def openapi(self) -> dict[str, Any]:
        described = self.openapi_schema is not None
        schema = super().openapi()
        if not described:
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            for model in (ChatRequest, CompletionRequest, ResponsesRequest):
                told = model.model_json_schema(ref_template="#/components/schemas/{model}")
                parts.update({**told.pop("$defs", {}), model.__name__: told})
        return schema


def create_app(settings: Settings, *, pipeline: PipelinePort | None = None) -> FastAPI:
    """Return the application; its lifespan starts and closes the pipeline.

    `pipeline` (not started) replaces the one that `settings` describe. Raises ConfigError when the
    rules for what stays local can't be used.
    """
    logs.configure(settings.log_level)
    rules = build_rules(settings)
    measured = Metrics()
    gate = Gate(settings)
    tracing = Tracing()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(gate.close)
            await gate.start()
            stack.push_async_callback(tracing.close)
            tracing.start(settings)
            personal = await open_personal_data(settings)
            if personal is not None:
                stack.callback(personal.close)
            ledger = await open_ledger(settings)
            if ledger is not None:
                stack.push_async_callback(ledger.close)
            books = Books(ledger, measured, log_prompts=settings.log_prompts)
            live = Live.from_settings(settings, ledger, partial(books.fault, "live"))
            running = build_pipeline(settings, live=live) if pipeline is None else pipeline
            stack.push_async_callback(running.close)
            if running.budgets is not None:
                running.budgets.on_fault = partial(books.fault, "budget")
            cache = build_cache(settings, measured)
            stack.push_async_callback(cache.close)
            limits = build_limits(settings, measured.limit_errors.inc)
            stack.push_async_callback(limits.close)
            await running.start()
            auditor = build_auditor(
                settings,
                books,
                measured,
                running.upstream,
                running.live,
                budgets=running.budgets,
            )
            gateway = Gateway(
                settings,
                running,
                cache,
                measured,
                books=books,
                auditor=auditor,
                rules=rules,
                personal=personal,
                limits=limits,
            )
            app.state.gateway = gateway
            told = UpstreamCollector(running.upstream)
            measured.registry.register(told)
            stack.callback(measured.registry.unregister, told)
            stack.push_async_callback(gateway.close)
            yield

    app = GatewayApp(
        title="seek-stronger",
        version=version("seek-stronger"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,  # says the same as /docs
        telemetry=NO_OTHER_TELEMETRY,
    )
    # From the innermost to the outermost.
    app.add_middleware(KeyCheck, gate=gate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=CORS_EXPOSED,
        )
    app.add_middleware(RequestContext, metrics=measured, tracing=tracing)
    routes = (chat, completions, responses, route, feedback, budget, dashboard)
    for part in (*routes, models, cache, calibration, health, metrics):
        # Not as routers, for each of which FastAPI would look twice whether a request is for it.
        app.router.routes.extend(part.router.routes)
    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Give every failure OpenAI's shape; what has no handler here ends in `RequestContext`."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, exc: ApiError) -> Response:
        return exc.response()

    @app.exception_handler(RouterError)
    async def router_error(_: Request, exc: RouterError) -> Response:
        face = from_router_error(exc)
        if face is None:
            raise exc
        return face.response()

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, exc: HTTPException) -> Response:
        return from_http_exception(exc, request).response()

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, exc: RequestValidationError) -> Response:
        first = exc.errors()[0]
        return bad_request(str(first["msg"]), str(first["loc"][-1])).response()

    @app.exception_handler(ClientGoneError)
    async def client_gone(_: Request, __: ClientGoneError) -> Response:
        return Response(status_code=499)
