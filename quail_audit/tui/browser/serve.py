"""Serve the app to browsers, with one process of the app for each tab, ended with its tab.

textual-serve carries the terminal's input and output between the tab and the app's process. This module adds the check
of who may connect, a page that loads nothing from elsewhere, and an end for every process. tab.py is the app's side.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from quail_audit.core.errors import EnvironmentProblemError, UsageError
from quail_audit.tui.live.leash import GRACE_S

APP_GRACE_S = GRACE_S + 5.0  # an app waits so long for its audit, and a little for itself
HEARTBEAT_S = 15.0  # a tab that does not answer for as long has gone
DRIVER = "quail_audit.tui.browser.tab:TabDriver"
PAGE = Path(__file__).parent / "web"
# Nothing comes from other hosts or goes there, and no other page may show this one in a frame. Styles: xterm.js writes
# its own into the page.
CONTENT_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens there. Port 0: any free one.

    Raises:
        UsageError: the host is not an address of this machine.
        EnvironmentProblemError: the port is taken, or closed to this user.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _no_such_host(host) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port left a moment ago is free
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentProblemError(
                "another program is listening on this port",
                where=f"port {port}",
                mend="Name another with --port, or use --port 0 for a free one",
            ) from error
        if error.errno == errno.EACCES:
            raise EnvironmentProblemError(
                "this user may not listen on this port", where=f"port {port}", mend="Name one above 1023 with --port"
            ) from error
        raise _no_such_host(host) from error
    return listener


def _no_such_host(host: str) -> UsageError:
    return UsageError(
        f"this machine has no address {host!r}",
        where="--host",
        mend="Leave it out for 127.0.0.1, or name one of this machine's addresses; 0.0.0.0 is all of them",
    )


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach the host."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


class AppServer(Server):
    """A server of the app, under an address that nobody can guess.

    Args:
        host: as the user named it.
        listener: see listen.
        run: a run's folder to open in each tab; None: the start screen.
        ready: called when it answers, and when Ctrl-C ends it in good order.
    """

    def __init__(
        self, host: str, listener: socket.socket, run: Path | None = None, ready: Callable[[], None] = lambda: None
    ) -> None:
        # -P: a folder of our name where the user happens to be is not what is installed.
        self._arguments = [sys.executable, "-P", "-m", "quail_audit"]
        if run is not None:
            self._arguments += ["watch", "--tui", "--", str(run.absolute())]
        bound, port = listener.getsockname()[:2]
        reached = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(bound, bound)  # noqa: S104
        super().__init__(shlex.join(self._arguments), host=f"[{reached}]" if ":" in reached else reached, port=port)
        self._listener = listener
        self._ready = ready
        self._names = frozenset(name.casefold() for name in (host, "localhost", socket.gethostname()))
        self._secret = secrets.token_urlsafe(16)
        self._tabs: set[TabService] = set()

    @property
    def address(self) -> str:
        """The address to open in a browser. Whoever knows it may use the app."""
        return f"{self.public_url}/{self._secret}/"

    def serve(self, debug: bool = False) -> None:
        """Serve until Ctrl-C or SIGTERM, then end every app that was started."""
        self.debug = debug
        web.run_app(
            self._make_app(), sock=self._listener, print=lambda *_: None, access_log=None, shutdown_timeout=APP_GRACE_S
        )

    async def _make_app(self) -> web.Application:
        root = web.Application(middlewares=[_guard(self._names)])
        root.on_response_prepare.append(_forbid_other_hosts)
        inside = await super()._make_app()
        inside.add_routes([web.get("/page.js", _page_script, name="script")])
        root.add_routes(
            [web.get("/download/{key}", self.handle_download)]
        )  # where textual.js looks, by a key of its own
        root.add_subapp(f"/{self._secret}/", inside)
        return root

    async def on_startup(self, app: web.Application) -> None:
        """Call ready, in place of textual-serve's banner."""
        self._ready()

    async def on_shutdown(self, app: web.Application) -> None:
        """End the app of every open tab."""
        await asyncio.gather(*(tab.stop() for tab in self._tabs))

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """Send the page; textual-serve's own loads a font from another host."""
        return web.FileResponse(PAGE / "index.html")

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a tab until it is closed or its app ends."""
        websocket = web.WebSocketResponse(heartbeat=HEARTBEAT_S)
        await websocket.prepare(request)
        tab = TabService(
            self._arguments,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,
            download_manager=self.download_manager,
            debug=self.debug,
        )
        self._tabs.add(tab)
        try:
            await tab.start(to_int(request.query.get("width", ""), 80), to_int(request.query.get("height", ""), 24))
            with suppress(ConnectionResetError):  # the tab was closed while it was answered
                await self._process_messages(websocket, tab)
        finally:
            await tab.stop()
            self._tabs.discard(tab)
        return websocket


class TabService(AppService):
    """The app's process behind one tab."""

    def __init__(self, arguments: Sequence[str], **service: object) -> None:
        super().__init__(shlex.join(arguments), **service)  # type: ignore[arg-type]
        self._arguments = arguments
        self._stopping = asyncio.Lock()

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        return super()._build_environment(width, height) | {"TEXTUAL_DRIVER": DRIVER}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._build_environment(width, height),
            start_new_session=True,  # Ctrl-C is for the server, which then ends its apps in good order
        )
        self._stdin = self._process.stdin
        return self._process

    async def run(self) -> None:
        """Send what the app draws to the tab; when the app ends, also by a crash, tell the tab."""
        try:
            await super().run()
        finally:
            await self.remote_close()

    async def stop(self) -> None:
        """End the process, by force if it does not answer in time. May be called again."""
        async with self._stopping:
            process = self._process
            if process is None:
                return
            try:
                async with asyncio.timeout(APP_GRACE_S):
                    await super().stop()
                    await process.communicate()  # reads on: an app that cannot write would never hear that it is to end
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its audit ends by itself: leash.py
                await process.wait()


async def _page_script(_request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "page.js")


async def _forbid_other_hosts(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Content-Security-Policy"] = CONTENT_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


def _guard(names: frozenset[str]) -> Middleware:
    """Refuse requests that another site's page has a browser send here, also under its own name for this address."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_ours(request.host, names):
            raise web.HTTPForbidden(text="Quail does not answer to this name: open it by IP address, or as localhost\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.casefold() != request.host.casefold():
            raise web.HTTPForbidden(text="Quail answers its own page only\n")
        return await handler(request)

    return guard


def _is_ours(host: str, names: frozenset[str]) -> bool:
    """Return whether a Host header can only mean this machine: an address, or a known name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name.casefold() in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
