"""Drive the app in a browser tab: draw to quail serve (serve.py) and get keys from it.

Textual's own web driver does not notice that its server is gone, so the app would run on unseen.
"""

from __future__ import annotations

from contextlib import suppress

from textual.drivers.web_driver import WebDriver


class TabDriver(WebDriver):
    """A driver that ends the app when the server closes its end, however the server ended."""

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
