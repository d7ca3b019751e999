"""`router doctor`: each part that `serve` needs, checked by using it."""

from __future__ import annotations

import asyncio
import functools
import json
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import click

from calibration.errors import CalibrationError
from router.cli.doctor_bench import BUDGET, Bench
from router.cli.options import settings_options
from router.config import Settings
from router.errors import RouterError
from router.upstreams.entry import UpstreamEntry
from router.urls import public_url

if TYPE_CHECKING:
    from router.engine.messages import EngineInfo

Status = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `detail` says what is in use, or what is wrong and what to do."""

    name: str
    status: Status
    detail: str

    def __str__(self) -> str:
        return f"{self.status:<5} {self.name:<12} {self.detail}"


@click.command(short_help="Check model, offload, calibration, Redis and upstream.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option(
    "--bench", is_flag=True, help="Try threads and prefill_chunk for 20 s, suggest the fastest."
)
@settings_options()
@click.pass_context
def doctor(context: click.Context, as_json: bool, bench: bool, settings: Settings) -> None:
    """Check each part that `serve` needs, one line each; exit with 1 if one fails.

    A check that fails does not keep the others from being made.
    """
    findings = asyncio.run(_collect(settings, as_json=as_json))
    tried = None
    if bench:
        finding, tried = try_settings(settings, findings)
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
            for line in tried.lines() if tried else ():
                click.echo(f"      {line}")
    failed = any(finding.status == "FAIL" for finding in findings)
    if as_json:
        report: dict[str, Any] = {
            "ok": not failed,
            "checks": [asdict(finding) for finding in findings],
        }
        if tried:
            report["bench"] = tried.as_json()
        click.echo(json.dumps(report, ensure_ascii=False))
    context.exit(1 if failed else 0)


async def _collect(settings: Settings, *, as_json: bool) -> list[Finding]:
    findings = []
    async for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    return findings


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yield one finding per part. Presidio, Redis and upstream only when set."""
    yield await guarded("python", check_python)
    yield await guarded("build", check_build)
    async for finding in _examine_model(settings):
        yield finding
    if settings.presidio_model:
        yield await guarded("presidio", lambda: check_presidio(settings))
    if settings.redis_url is not None:
        yield await guarded("redis", lambda: check_redis(str(settings.redis_url)))
    for entry in settings.upstream_entries():
        name = "upstream" if settings.upstream else f"upstream {entry.name}"
        yield await guarded(name, functools.partial(check_upstream, entry, name))


async def guarded(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    """Make a check; what it raises becomes a failed finding."""
    try:
        return await check()
    except (RouterError, CalibrationError, OSError, ImportError, ValueError) as error:
        return Finding(name, "FAIL", " ".join(str(error).split()) or type(error).__name__)


async def check_python() -> Finding:
    """Which Python and which version of ours."""
    place = f"{platform.system()} {platform.machine()}"
    text = f"{platform.python_version()} on {place}, seek-stronger {version('seek-stronger')}"
    return Finding("python", "ok", text)


async def check_build() -> Finding:
    """Which llama.cpp, and what it could offload to."""
    from router.engine import llama  # noqa: PLC0415 - slow to import, and what may fail
    from router.engine.offload import list_devices  # noqa: PLC0415

    if not llama.supports_offload():
        return Finding("build", "ok", f"{llama.build_version()}, without GPU support")
    seen = list_devices(llama.devices())
    status: Status = "ok" if seen else "warn"
    return Finding(
        "build", status, f"{llama.build_version()}, with GPU support; sees {seen or 'no GPU'}"
    )


async def _examine_model(settings: Settings) -> AsyncIterator[Finding]:
    """Load the model as `serve` would (with one slot), and what hangs on it."""
    infos: list[EngineInfo] = []

    async def load() -> Finding:
        from router.cli.banner import describe_model  # noqa: PLC0415
        from router.engine import open_engine  # noqa: PLC0415 - imports llama.cpp, may fail

        async with open_engine(settings.model_copy(update={"slots": 1})) as engine:
            info = engine.info
        infos.append(info)
        return Finding("model", "ok", f"{describe_model(info)}: {info.model_path}")

    yield await guarded("model", load)
    if not infos:
        for name in ("offload", "hidden states", "calibration"):
            yield Finding(name, "warn", "not checked, because the model could not be loaded")
        return
    info = infos[0]
    yield check_offload(info, settings)
    yield await guarded("hidden states", check_hidden_states)
    yield await guarded("calibration", lambda: check_calibration(info, settings))


def check_offload(info: EngineInfo, settings: Settings) -> Finding:
    """Where the layers are, against what was asked for."""
    wanted = settings.n_gpu_layers
    if info.offload == "cpu" and wanted not in ("auto", 0):
        detail = f"cpu, although n_gpu_layers asks for {wanted}: llama.cpp sees no GPU (see build)"
        return Finding("offload", "warn", detail)
    # An accelerator that is too full for a single layer is hardly what its owner wants.
    status: Status = "warn" if info.offload.startswith("cpu (") else "ok"
    return Finding("offload", status, f"{info.offload}, {info.n_threads} threads")


def try_settings(
    settings: Settings, findings: Sequence[Finding], *, budget: float = BUDGET
) -> tuple[Finding, Bench | None]:
    """Try threads and prefill_chunk, if the model could be loaded, for about `budget` seconds."""
    if any(finding.name == "model" and finding.status == "FAIL" for finding in findings):
        return Finding("bench", "warn", "not made, because the model could not be loaded"), None
    from router.cli.doctor_trials import run_bench  # noqa: PLC0415 - imports llama.cpp, may fail

    try:
        tried = run_bench(settings, budget=budget)
    except RouterError as error:
        return Finding("bench", "FAIL", str(error)), None
    return Finding("bench", "ok", tried.summary()), tried


async def check_hidden_states() -> Finding:
    """Whether the callback that reads them was compiled when the package was installed."""
    from router.engine.compiled import is_compiled  # noqa: PLC0415

    if is_compiled():
        return Finding("hidden states", "ok", "read by the compiled callback")
    detail = "read in Python, slower: no C compiler was found at installation"
    return Finding("hidden states", "warn", f"{detail}; install one, then seek-stronger again")


async def check_calibration(info: EngineInfo, settings: Settings) -> Finding:
    """Whether the calibration fits what is loaded; a mismatch is raised, naming what differs."""
    from router.binding import load_calibration  # noqa: PLC0415
    from router.cli.banner import describe_calibration  # noqa: PLC0415

    calibration, warnings = load_calibration(settings.calibration, info)
    if calibration is None:
        return Finding("calibration", "warn", "; ".join(warnings))
    detail = "; ".join(["matches: " + describe_calibration(calibration), *warnings])
    return Finding("calibration", "warn" if warnings else "ok", detail)


async def check_presidio(settings: Settings) -> Finding:
    """Load it as `serve` would; what it would search for."""
    from router.personal_data import open_personal_data  # noqa: PLC0415

    personal = await open_personal_data(settings)
    if personal is None:
        return Finding("presidio", "ok", "off")
    personal.close()
    model = f"{settings.presidio_model} (language {personal.language})"
    finds = ", ".join(personal.entities)
    score = f"{settings.presidio_score:g}"
    return Finding("presidio", "ok", f"{model} finds {finds} with a score of at least {score}")


async def check_redis(url: str, *, timeout: float = 3.0) -> Finding:
    """Ask for a PING, for at most `timeout` seconds."""
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    place = public_url(url)
    try:
        async with Redis.from_url(url, socket_connect_timeout=timeout) as client:
            async with asyncio.timeout(timeout):
                await client.ping()
    except TimeoutError:
        return Finding("redis", "FAIL", f"{place} does not answer within {timeout:g} s")
    except RedisError as error:
        return Finding("redis", "FAIL", f"{place}: {error}; is it running?")
    return Finding("redis", "ok", f"{place} answers")


async def check_upstream(entry: UpstreamEntry, name: str) -> Finding:
    """Ask for its models, with the key; a failure is raised, saying what to set."""
    from router.remote import Upstream  # noqa: PLC0415

    async with Upstream.from_entry(entry) as upstream:
        await upstream.check()
    hints = []
    if entry.key_env and entry.key() is None:
        hints.append(f"the variable {entry.key_env} is not set, so no key is sent")
    if not entry.model and not entry.models:
        setting = "upstream_model" if name == "upstream" else "its model"
        hints.append(f"{setting} is not set, so it is asked for the caller's model, `auto`")
    text = f"{public_url(entry.url)} answers"
    return Finding(name, "warn" if hints else "ok", "; ".join([text, *hints]))
