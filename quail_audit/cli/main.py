"""Register the commands of `quail`, and run it.

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
from quail_audit.cli import (
    attribute,
    audit,
    compare,
    doctor,
    inspect,
    policy,
    prescribe,
    recipe,
    report,
    serve,
    verify,
    watch,
)
from quail_audit.cli.app import Command, add_command, app
from quail_audit.cli.exit_codes import DEBUG_VARIABLE, code_after_flush, code_of_unwritten, report_errors
from quail_audit.core.errors import EXIT_USAGE, EnvironmentProblemError

policy_app = typer.Typer(help="Write a policy, which says what a release has to meet, or judge a run by one.")


def main() -> NoReturn:
    """Run the `quail` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command, who reads nothing
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
    add_plug_ins()
    try:
        app()
    except OSError as error:  # while --help is shown, say; those of a command become exit codes
        sys.exit(code_after_flush(code_of_unwritten(error)))
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
        if not (sys.stdin.isatty() and sys.stdout.isatty()) and serve.DRIVER_VARIABLE not in os.environ:
            typer.echo(context.get_help())
            raise typer.Exit(EXIT_USAGE)
        report_errors(serve.open_app)()


OWN_COMMANDS: tuple[Command[...], ...] = (
    audit.audit,
    watch.watch,
    report.report,
    compare.compare,
    verify.verify,
    verify.sign,
    inspect.inspect,
    attribute.attribute,
    recipe.recipe,
    prescribe.prescribe,
    doctor.schemes,
    doctor.doctor,
    report.schema,
    serve.serve,
)
for own in OWN_COMMANDS:
    add_command(own)
app.add_typer(policy_app, name="policy")
add_command(policy.init, to=policy_app)
add_command(policy.check, to=policy_app)


def add_plug_ins() -> None:
    """Register commands of other packages, such as quail_train's demo; none takes the place of Quail's own.

    A command that fails to load is registered too, and says so when it is called.
    """
    own = {*(each.name for each in OWN_COMMANDS), "policy"}
    for entry in entry_points(group="quail.commands"):
        if entry.name in own:
            continue
        try:
            found: Command[...] | Callable[..., Any] = entry.load()
        except Exception as error:  # a plug-in may fail in any way; the other commands must work
            found = _broken_command(entry.name, error)
        add_command(found, entry.name)


def _broken_command(name: str, error: Exception) -> Callable[..., int]:
    def fail() -> int:
        """Not usable here: its package failed to load."""
        raise EnvironmentProblemError(f"the command {name} failed to load: {type(error).__name__}: {error}") from error

    return fail


if __name__ == "__main__":
    main()
