"""The app in a real browser: headless Chromium, through quail serve, keys only."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.demo_story import MARK, SOON_S, measuring, start_the_audit, still_marked, tell, wait_for, wait_until
from tests.support.served_app import Served, served

pytestmark = pytest.mark.browser
# Chromium itself connects to its maker's hosts unless told not to.
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The page keeps its terminal to itself, and draws it as pixels; this gets hold of it as it is made.
CATCH_TERMINAL = """
Object.defineProperty(Object.prototype, "fitAddon", {
  configurable: true,
  set(addon) {
    Object.defineProperty(this, "fitAddon", {value: addon, writable: true});
    window.shown = this.terminal;
  },
});
"""
READ_TERMINAL = """() => {
  if (!window.shown) return "";
  const buffer = shown.buffer.active;
  const line = (y) => buffer.getLine(buffer.viewportY + y).translateToString(true);
  return Array.from({length: shown.rows}, (_, y) => line(y)).join("\\n");
}"""


class Tab:
    """The app in one tab."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.asked: list[str] = []  # addresses that the page has asked for
        self.problems: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.add_init_script(CATCH_TERMINAL)
        page.goto(address)

    def press(self, *keys: str) -> None:
        names = {"enter": "Enter", "escape": "Escape", "tab": "Tab"}
        for key in keys:
            self.page.keyboard.press(names.get(key, key.replace("ctrl+", "Control+")))

    def screen(self) -> str:
        return str(self.page.evaluate(READ_TERMINAL))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or what the system calls so, with a profile of its own."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=FLAGS, chromium_sandbox=False)
        yield opened
        opened.close()


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Inherited by everything the test starts."""
    made = secrets.token_hex(8)
    monkeypatch.setenv(MARK, made)
    return made


@pytest.fixture
def server(demo: Path, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serving in a folder that holds quail-demo."""
    (tmp_path / "quail-demo").symlink_to(demo)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with served(tmp_path) as opened:
        yield opened


def test_the_demo_from_its_start_to_its_worst_sample(
    browser: Browser, server: Served, tmp_path: Path, mark: str
) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        tab = Tab(context.new_page(), server.address)
        report = tell(tab, tmp_path)
        assert report.verdict is not None
        assert report.verdict.outcome == "fail"
        assert {address.split("/")[2] for address in tab.asked} == {server.address.split("/")[2]}
        assert tab.problems == []
        tab.press("q")
        tab.page.get_by_role("alert").wait_for(timeout=SOON_S * 1000)
    server.process.terminate()
    assert server.process.wait(SOON_S) == 0
    assert still_marked(mark) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_closing_the_tab_ends_the_audit_that_it_started(browser: Browser, server: Served, mark: str) -> None:
    with browser.new_context() as context:
        tab = Tab(context.new_page(), server.address)
        start_the_audit(tab)
        assert measuring(mark) is not None
        assert len(server.apps()) >= 2
        tab.page.close()
        wait_until(lambda: not server.apps(), "the tab's app and its audit end")
    assert measuring(mark) is None
    assert server.process.poll() is None


def test_the_page_takes_keys_at_once_follows_the_windows_size_and_opens_the_app_again(
    browser: Browser, server: Served
) -> None:
    with browser.new_context(viewport={"width": 900, "height": 500}) as context:
        tab = Tab(context.new_page(), server.address)
        wait_for(tab, "ready")
        lines = len(tab.screen().splitlines())
        tab.page.set_viewport_size({"width": 1600, "height": 1000})
        wait_until(lambda: len(tab.screen().splitlines()) > lines, "the terminal grows")
        wait_until(lambda: "Commands" in tab.screen().splitlines()[-1], "the footer is drawn on its last line")
        tab.press("ctrl+q")
        tab.page.get_by_role("alert").wait_for(timeout=SOON_S * 1000)
        tab.page.get_by_role("button", name="Open it again").click()
        wait_for(tab, "ready")
