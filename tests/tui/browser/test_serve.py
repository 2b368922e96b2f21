import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from quail_audit.core.errors import EnvironmentProblemError, UsageError
from quail_audit.tui.browser import serve
from tests.support import made_runs
from tests.support.served_app import END_S, served, still_alive


def quail(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "quail_audit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_a_strange_host_and_no_run_say_what_mends_them(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = quail(tmp_path, "serve", "--port", port)
    assert done.returncode == 4
    assert f"port {port}: another program is listening on this port" in done.stderr
    assert "--port 0" in done.stderr
    done = quail(tmp_path, "serve", "nowhere")
    assert done.returncode == 3
    assert "no run here" in done.stderr
    for port in ("-1", "65536", "x"):
        done = quail(tmp_path, "serve", "--port", port)
        assert done.returncode == 2
        assert "--port" in done.stderr


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no.such.host.invalid", "256.1.1.1", "a" * 70, "with space", "\udcff", ""]
)
def test_a_host_that_is_not_this_machines_is_wrong_usage(host: str) -> None:
    with pytest.raises(UsageError, match="this machine has no address") as raised:
        serve.listen(host, 0)
    assert raised.value.where == "--host"


def test_a_port_of_the_system_is_not_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, _place: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(EnvironmentProblemError, match="may not listen"):
        serve.listen("127.0.0.1", 80)


@pytest.mark.parametrize(("host", "only_here"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_what_listens_to_other_machines_is_told_from_what_does_not(host: str, only_here: bool) -> None:
    with serve.listen(host, 0) as listener:
        assert serve.is_loopback(listener) == only_here


def test_listening_to_other_machines_is_warned_about(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "quail_audit", "serve", "--host", "0.0.0.0", "--port", "0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = "".join(process.stderr.readline() for _ in range(3))
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=END_S)[1]
    assert "warning: other machines can reach this" in said
    assert "ssh -L" in said
    assert "Traceback" not in rest
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:9000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("10.0.0.5:8000", True),
        ("gpu-box:8000", True),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[", False),
        ("gpu-box@evil.example", False),
    ],
)
def test_an_address_cannot_be_another_sites_and_a_name_can(host: str, ours: bool) -> None:
    assert serve._is_ours(host, frozenset({"localhost", "gpu-box"})) == ours


@pytest.mark.asyncio
async def test_only_its_own_page_reaches_the_app(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        root = server.address.rsplit("/", 2)[0]
        here = root.removeprefix("http://")
        async with aiohttp.ClientSession() as browser:
            for address, headers, status in [
                (server.address, {}, 200),
                (server.address + "static/js/textual.js", {}, 200),
                (server.address + "static/fonts/RobotoMono-VariableFont_wght.ttf", {}, 200),
                (server.address + "page.js", {"Origin": root}, 200),
                (server.address, {"Host": f"localhost:{here.rpartition(':')[2]}"}, 200),
                (server.address, {"Host": "evil.example"}, 403),
                (server.address, {"Origin": "http://evil.example"}, 403),
                (root, {}, 404),
                (root + "/guess/", {}, 404),
                (root + "/ws", {}, 404),
                (root + "/download/guess", {}, 404),
            ]:
                async with browser.get(address, headers=headers) as answer:
                    assert answer.status == status, (address, headers)
                    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            for headers in (
                {"Origin": "http://evil.example"},
                {"Origin": "null"},
                {"Origin": f"http://localhost:{here.rpartition(':')[2]}"},
                {"Host": "evil.example", "Origin": "http://evil.example"},
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await browser.ws_connect(server.address + "ws", headers=headers)
                assert refused.value.status == 403
            assert server.apps() == []


def test_the_page_loads_nothing_from_other_hosts() -> None:
    for file in serve.PAGE.iterdir():
        assert re.search(r"""["'(]\s*(\w+:)?//""", file.read_text()) is None, file.name


async def screen_shows(tab: aiohttp.ClientWebSocketResponse, text: str) -> None:
    """Read what the app draws until this is among it."""
    drawn = b""
    while text.encode() not in drawn:
        message = await tab.receive(timeout=END_S)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), drawn.decode(errors="replace")
        drawn += message.data if message.type == aiohttp.WSMsgType.BINARY else b""


@pytest.mark.asyncio
async def test_a_tab_is_an_app_that_ends_with_the_tab(tmp_path: Path) -> None:
    run = made_runs.write_run(tmp_path / "a run; with $(odd) 'name'")
    with served(tmp_path, str(run)) as server:
        async with aiohttp.ClientSession() as browser:
            first = await browser.ws_connect(server.address + "ws?width=120&height=40")
            await screen_shows(first, "FAIL")
            (app,) = server.apps()
            command = app.cmdline()
            assert command[0] == sys.executable
            assert command[-1] == str(run)
            second = await browser.ws_connect(server.address + "ws")
            await screen_shows(second, "FAIL")
            assert len(server.apps()) == 2
            await first.close()
            assert still_alive([app]) == []
            (other,) = server.apps()
            await second.send_json(["stdin", "q"])
            while not second.closed:
                await second.receive(timeout=END_S)
            assert still_alive([other]) == []


@pytest.mark.asyncio
async def test_an_app_that_crashes_is_told_to_the_tab(tmp_path: Path) -> None:
    run = made_runs.write_run(tmp_path / "run")
    with served(tmp_path, str(run)) as server:
        async with aiohttp.ClientSession() as browser:
            tab = await browser.ws_connect(server.address + "ws")
            await screen_shows(tab, "FAIL")
            (app,) = server.apps()
            app.kill()
            while not tab.closed:
                await tab.receive(timeout=END_S)


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
async def test_an_app_ends_with_the_server_however_that_ends(tmp_path: Path, ending: signal.Signals) -> None:
    run = made_runs.write_run(tmp_path / "run")
    with served(tmp_path, str(run)) as server:
        async with aiohttp.ClientSession() as browser:
            tab = await browser.ws_connect(server.address + "ws")
            await screen_shows(tab, "FAIL")
            apps = server.apps()
            assert len(apps) == 1
            os.kill(server.process.pid, ending)
            code = server.process.wait(END_S)
            assert still_alive(apps) == []
            assert code == (0 if ending in (signal.SIGTERM, signal.SIGINT) else -ending)


@pytest.mark.asyncio
async def test_a_tab_that_goes_while_the_app_draws_leaves_nothing(tmp_path: Path) -> None:
    """Its connection is cut, not closed, at a moment when much is on its way."""
    run = made_runs.write_run(tmp_path / "run")
    with served(tmp_path, str(run)) as server:
        async with aiohttp.ClientSession() as browser:
            tab = await browser.ws_connect(server.address + "ws?width=250&height=80")
            await screen_shows(tab, "FAIL")
            apps = server.apps()
            for width in range(100, 250, 2):
                await tab.send_json(["resize", {"width": width, "height": 80}])
            transport = tab._response.connection.transport  # type: ignore[union-attr]
            transport.abort()
            assert await asyncio.to_thread(still_alive, apps) == []
            assert server.process.poll() is None
