"""`quail serve`, and `quail` alone: the app."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import app
from quail_audit.cli.exit_codes import reports_errors

DRIVER_VARIABLE = "TEXTUAL_DRIVER"  # what shows the app in a terminal's place, as under quail serve


def open_app(run: Path | None = None) -> int:
    """The terminal app, on its start screen or on a run."""
    from quail_audit.tui.app import QuailApp

    app = QuailApp(run)
    signal.signal(signal.SIGTERM, lambda *_: app.exit())
    app.run()
    return app.return_code or 0


@app.command(
    epilog="Examples:\n\n"
    "  quail serve\n\n"
    "  quail serve --port 0 .quail/runs/20260101-120000-ab12\n\n"
    "  ssh -t -L 8000:127.0.0.1:8000 machine quail serve"
)
@reports_errors
def serve(
    run: Annotated[Path | None, typer.Argument(help="A run's folder to open at once.", show_default=False)] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Another than this lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
) -> int:
    """Open the app in a browser: serves it to this machine, until Ctrl-C.

    Open the address that it prints, and keep that to yourself: whoever has it can use the app as you can. Each tab is
    an app of its own, and closing it ends the audit it has started. From another machine, connect with ssh -L.
    """
    from quail_audit.runs.follow import require_run
    from quail_audit.tui.browser.serve import AppServer, is_loopback, listen

    if run is not None:
        require_run(run)

    def say_where() -> None:
        if not is_loopback(listener):
            typer.echo(
                "warning: other machines can reach this. Whoever learns the address below can run audits and read "
                "every folder that you can read,\n  and it travels unencrypted. Safer: leave out --host, and connect "
                f"with ssh -L {server.port}:127.0.0.1:{server.port}",
                err=True,
            )
        typer.echo(f"Quail is at {server.address}\nCtrl-C ends it, and every audit that was started there", err=True)

    with listen(host, port) as listener:
        server = AppServer(host, listener, run, ready=say_where)
        server.serve()
    return 0
