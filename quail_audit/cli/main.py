"""The `quail` command: parses, picks a face, maps errors to exit codes.

Imports nothing heavy at the top: a command imports what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import quail_audit
from quail_audit.cli import (  # noqa: F401 - each registers its commands
    attribute,
    audit,
    compare,
    doctor,
    prescribe,
    recipe,
    report,
    verify,
    watch,
)
from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import DEBUG_VARIABLE, ends_with, reports_errors, unwritten
from quail_audit.cli.policy import policy_commands
from quail_audit.cli.serve import DRIVER_VARIABLE, open_app
from quail_audit.core.errors import (
    EXIT_USAGE,
    EnvironmentProblemError,
)


def main() -> NoReturn:
    """The entry point of the `quail` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command: nobody is to see it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
    _add_plugged_in_commands()
    try:
        app()
    except OSError as error:  # of what is shown without a command, as --help: a command's become exit codes
        sys.exit(ends_with(unwritten(error)))
    raise AssertionError("typer exits by itself")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"quail {quail_audit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show Python tracebacks.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if context.invoked_subcommand is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()) and DRIVER_VARIABLE not in os.environ:
            typer.echo(context.get_help())
            raise typer.Exit(EXIT_USAGE)
        reports_errors(open_app)()


app.add_typer(policy_commands, name="policy")
for own in (attribute.attribute, prescribe.prescribe, recipe.recipe):
    app.command(epilog=getattr(own, "epilog", None))(reports_errors(own))


def _add_plugged_in_commands() -> None:
    """Commands of other packages, such as quail_train's demo. A broken one says so when it is called, not before."""
    for entry in entry_points(group="quail.commands"):
        try:
            command: Callable[..., Any] = entry.load()
        except Exception as error:  # a plug-in may fail in any way; the other commands must work
            command = _broken_command(entry.name, error)
        # A command may say how its arguments are read, and how its help ends, as attributes of its function.
        settings = getattr(command, "context_settings", None)
        app.command(entry.name, context_settings=settings, epilog=getattr(command, "epilog", None))(
            reports_errors(command)
        )


def _broken_command(name: str, error: Exception) -> Callable[..., int]:
    def broken() -> int:
        """Not usable here: its package failed to load."""
        raise EnvironmentProblemError(f"the command {name} failed to load: {type(error).__name__}: {error}") from error

    return broken


if __name__ == "__main__":
    main()
