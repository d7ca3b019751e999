"""The command `router`: one file a command, each imported only when it is called."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import click

EXIT_ERROR = 1
EXIT_CONFIG = 2
EXIT_INFEASIBLE = 3


@dataclass(frozen=True, slots=True)
class _Command:
    """Where a command lives, and what the list of commands says of it."""

    module: str
    name: str
    summary: str


_COMMANDS = {
    "serve": _Command("router.cli.serve", "serve", "Start the gateway."),
    "keys": _Command("router.cli.keys", "keys", "Create, list and revoke API keys."),
    "cache": _Command("router.cli.cache", "cache", "Forget kept answers."),
    "ask": _Command("router.cli.ask", "ask", "Answer one question in the terminal."),
    "calibrate": _Command(
        "router.cli.calibrate", "calibrate", "Measure the model and choose when to trust it."
    ),
    "recalibrate": _Command(
        "router.cli.recalibrate", "recalibrate", "Learn from live feedback beside the hold-out."
    ),
    "calibration": _Command(
        "router.cli.calibration", "calibration", "Show what is kept at which measured error."
    ),
    "evaluate": _Command(
        "router.cli.evaluate", "evaluate", "Compare uncertainty estimators over question sets."
    ),
    "holdout": _Command(
        "router.cli.holdout", "holdout", "Look at the built-in hold-out set, or build one."
    ),
    "datasets": _Command("router.cli.datasets", "datasets", "Fetch public question sets."),
    "models": _Command("router.cli.models", "models", "List and fetch models."),
    "log": _Command("router.cli.log", "log", "List the last decisions."),
    "replay": _Command(
        "router.cli.replay", "replay", "Tell what another threshold would have done."
    ),
    "doctor": _Command(
        "router.cli.doctor", "doctor", "Check model, offload, calibration, Redis and upstream."
    ),
}


class RouterGroup(click.Group):
    """Imports a command when it is called, and tells errors of ours without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        known = _COMMANDS.get(cmd_name)
        if known is None:
            return None
        command = getattr(import_module(known.module), known.name)
        assert isinstance(command, click.Command), f"{known.module}.{known.name} is no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        # Imported here: `--help` and `--version` never come this far, and should not wait.
        from calibration.errors import CalibrationError, InfeasibleTarget  # noqa: PLC0415
        from router.errors import ConfigError, RouterError  # noqa: PLC0415

        try:
            return super().invoke(ctx)
        except InfeasibleTarget as error:
            code, message = EXIT_INFEASIBLE, str(error)
        except ConfigError as error:
            code, message = EXIT_CONFIG, str(error)
        except (RouterError, CalibrationError) as error:
            code, message = EXIT_ERROR, str(error)
        for line in message.splitlines():
            click.echo(f"error: {line}", err=True)
        raise click.exceptions.Exit(code)


@click.group(cls=RouterGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seek-stronger", prog_name="router")
def main() -> None:
    """Answers on the device when the small model is sure, asks a large one when it is not."""
