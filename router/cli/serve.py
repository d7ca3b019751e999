"""`router serve`: the gateway, in the foreground."""

from __future__ import annotations

import contextlib
from importlib.metadata import version

import click

from router.cli.options import settings_options
from router.config import Settings


@click.command(short_help="Start the gateway.")
@settings_options()
def serve(settings: Settings) -> None:
    """Start the gateway: OpenAI's API on top of the local model and, if one is set, an upstream.

    Every option is also a variable (ROUTER_PORT) and a key in router.toml (port). Ctrl-C, and the
    signal SIGTERM, let the requests under way finish, for --drain-seconds at most; the signal
    SIGHUP makes it take over the calibration that is in its folder by then.
    """
    # Imported here, so that `serve --help` is quick.
    from calibration.errors import ArtifactError  # noqa: PLC0415
    from router.cli.banner import banner  # noqa: PLC0415
    from router.cli.progress import fetch_model  # noqa: PLC0415
    from router.cli.server import address_of, bind, run  # noqa: PLC0415
    from service.app import create_app  # noqa: PLC0415

    with contextlib.closing(bind(settings.host, settings.port)) as bound:
        url = address_of(bound)
        fetch_model(settings.model)  # a download shows its progress here, not in the start-up
        app = create_app(settings)

        def ready() -> None:
            gateway = app.state.gateway
            click.echo(f"seek-stronger {version('seek-stronger')}")
            lines = banner(
                gateway.info,
                gateway.calibration,
                settings,
                url,
                warnings=gateway.pipeline.warnings,
            )
            for line in lines:
                click.echo(line)

        async def reload() -> None:
            with contextlib.suppress(ArtifactError):  # the gateway has put it into the log
                await app.state.gateway.reload()

        run(
            app,
            bound,
            ready,
            log_level=settings.log_level,
            drain_seconds=settings.drain_seconds,
            service=lambda: app.state.gateway,
            on_hang_up=reload,
        )
