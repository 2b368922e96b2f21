"""The Typer app on which every command is registered."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="quail",
    help="Audits unlearned language models for knowledge that comes back when they are quantized.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Without a command: opens the app. Start here: quail demo. Exit codes: 0 pass, 1 fail, 2 usage, "
    "3 bad input, 4 environment, 5 inconclusive, 130 interrupted.",
)
