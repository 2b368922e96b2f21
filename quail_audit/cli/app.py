"""The Typer app, and `@command`, which makes a function a command of `quail`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

import typer
from typer.core import TyperGroup

from quail_audit.cli.exit_codes import report_errors

P = ParamSpec("P")

# As `quail --help` lists them; commands of other packages follow.
_ORDER = (
    *("audit", "watch", "report", "compare", "verify", "sign", "policy", "inspect"),
    *("attribute", "recipe", "prescribe", "carry", "train"),
    *("demo", "schemes", "doctor", "schema", "serve"),
)


class _CommandGroup(TyperGroup):
    """`quail`, which lists its commands in the order in which a reader needs them."""

    def list_commands(self, ctx: object) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="quail",
    cls=_CommandGroup,
    help="Audits unlearned language models for knowledge that comes back when they are quantized.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Without a command: opens the app. Start here: quail demo. Exit codes: 0 pass, 1 fail, 2 usage, "
    "3 bad input, 4 environment, 5 inconclusive, 130 interrupted.",
)


@dataclass(frozen=True)
class Command(Generic[P]):
    """A function that returns an exit code, and how it stands on the command line.

    Attributes:
        function: Typer reads its options from its signature, and its help from its docstring.
        examples: command lines for the end of its help.
        context_settings: Click's.
    """

    function: Callable[P, int]
    examples: tuple[str, ...] = ()
    context_settings: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> int:
        return self.function(*args, **kwargs)


def command(
    *examples: str, context_settings: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, int]], Command[P]]:
    """Make a function a command, of Quail's own or of a plug-in: its errors become messages and exit codes.

    Args:
        examples: command lines for the end of its help.
        context_settings: Click's, as {"ignore_unknown_options": True}.
    """
    return lambda function: Command(function, examples, context_settings)


def add_command(found: Command[...] | Callable[..., int], name: str | None = None, to: typer.Typer = app) -> None:
    """Register a command, or a plain function as one.

    Args:
        found: what runs.
        name: on the command line; default: the function's.
        to: where it is registered.
    """
    added = found if isinstance(found, Command) else Command(found)
    to.command(
        name or added.name,
        context_settings=dict(added.context_settings) if added.context_settings else None,
        epilog="\n\n  ".join(("Examples:", *added.examples)) if added.examples else None,
    )(report_errors(added.function))
