"""`quail serve`, and `quail` alone: open the app in a browser or in the terminal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from quail_audit.cli.app import command

DRIVER_VARIABLE = "TEXTUAL_DRIVER"  # set if something else than a terminal shows the app, as under quail serve


def open_app(run: Path | None = None) -> int:
    """Open the terminal app on its start screen or on a run."""
    from quail_audit.tui.app import QuailApp

    app = QuailApp(run)
    signal.signal(signal.SIGTERM, lambda *_: app.exit())
    app.run()
    return app.return_code or 0


@command(
    "quail serve",
    "quail serve --port 0 .quail/runs/20260101-120000-ab12",
    "ssh -t -L 8000:127.0.0.1:8000 machine quail serve",
)
def serve(
    run: Annotated[Path | None, typer.Argument(help="Run folder to open at once.", show_default=False)] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this one lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
) -> int:
    """Serve the app to a browser on this machine, until Ctrl-C.

    Open the address that it prints, and keep it to yourself: whoever has it can use the app as you can. Each tab is an
    app of its own, and closing it ends the audit that it started. From another machine, connect with ssh -L.
    """
    from quail_audit.runs.follow import require_run
    from quail_audit.tui.browser.serve import AppServer, is_loopback, listen

    if run is not None:
        require_run(run)

    def show_address() -> None:
        if not is_loopback(listener):
            typer.echo(
                "warning: other machines can reach this. Whoever learns the address below can run audits and read "
                "every folder that you can read,\n  and it travels unencrypted. Safer: leave out --host, and connect "
                f"with ssh -L {server.port}:127.0.0.1:{server.port}",
                err=True,
            )
        typer.echo(f"Quail is at {server.address}\nCtrl-C ends it, and every audit that was started there", err=True)

    with listen(host, port) as listener:
        server = AppServer(host, listener, run, ready=show_address)
        server.serve()
    return 0
