"""How the app is driven where a browser shows it: it draws to quail serve (serve.py) and gets its keys from there.

Textual's own web driver does not notice that its server has gone, and the app would live on with nobody to see it.
"""

from __future__ import annotations

from contextlib import suppress

from textual.drivers.web_driver import WebDriver


class TabDriver(WebDriver):
    """Ends the app when the server has closed its end, however the server ended."""

    def run_input_thread(self) -> None:
        super().run_input_thread()
        with suppress(RuntimeError):  # the app has ended by itself, and its loop with it
            self._loop.call_soon_threadsafe(self._app.exit)

    def write(self, data: str) -> None:
        with suppress(BrokenPipeError):
            super().write(data)

    def write_meta(self, data: dict[str, object]) -> None:
        with suppress(BrokenPipeError):
            super().write_meta(data)
