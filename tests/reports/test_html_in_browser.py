"""The HTML report in headless Chromium: no barriers, no network, tables that sort, and no script but its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from quail_audit.reports.formats import FORMATS as WRITERS
from quail_audit.runs.folder import read_report
from quail_audit.schema.events.audit import FilesHashed, LayerMeasured, SampleScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import FileHash
from tests.support.made_runs import FORMATS, events, write_run

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
ATTACKS = (
    "<script>window.hit = 1</script>",
    "</code></pre><img src=x onerror='window.hit = 1'>",
    '" onmouseover="window.hit = 1" autofocus onfocus="window.hit = 1',
    "</style><svg onload=window.hit=1>",
    "<a href='javascript:window.hit=1' id=bait>click</a>",
    "<iframe src='http://127.0.0.1:9/'></iframe><link rel=stylesheet href=http://127.0.0.1:9/x.css>",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program is not None, "these tests need Chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--disable-gpu", "--no-first-run"])
        yield running
        running.close()


def hashed(*paths: str) -> FilesHashed:
    return FilesHashed(
        files=tuple(FileHash(role="data", path=path, bytes=1_234_567, sha256="0f" * 32) for path in paths)
    )


def page_of(run: Iterator[Event], folder: Path) -> str:
    written = write_run(folder, run)
    return "".join(WRITERS["html"](read_report(written), written))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    *made, verdict, end = events(blocks=4, schemes=FORMATS[:3], samples=4, outcome="mixed")
    return page_of(iter([*made, hashed("verbmem/forget.json"), verdict, end]), tmp_path_factory.mktemp("html") / "run")


def opened(browser: Browser, html: str, folder: Path, **settings: object) -> tuple[Page, list[str]]:
    """The page from a file, as a reader opens it, and what it asked the network for."""
    (folder / "report.html").write_text(html, encoding="utf-8")
    page = browser.new_context(**settings).new_page()  # type: ignore[arg-type]
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto((folder / "report.html").as_uri())
    return page, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(browser: Browser, report: str, tmp_path: Path, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm install --prefix tests/reports/axe")
    page, _ = opened(browser, report, tmp_path, color_scheme=scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert len(found["passes"]) > 15
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(18, 22, 28)" if scheme == "dark" else "rgb(251, 251, 249)")


def test_hostile_texts_run_nothing_and_ask_for_nothing(browser: Browser, tmp_path: Path) -> None:
    def spoilt() -> Iterator[Event]:
        for number, event in enumerate(events(blocks=2, samples=4)):
            attack = ATTACKS[number % len(ATTACKS)]
            if isinstance(event, SampleScored):
                yield event.model_copy(update={"prompt": attack, "truth": attack, "answer": f"a {attack}"})
            elif isinstance(event, LayerMeasured):
                renamed = event.layer.model_copy(update={"name": f"{attack}{number}", "role": attack})
                yield event.model_copy(update={"layer": renamed})
            elif event.type == "verdict_reached":
                yield from (Noted(message=attack) for attack in ATTACKS)
                yield hashed(*ATTACKS)
                yield event
            else:
                yield event

    html = page_of(spoilt(), tmp_path / "run")
    for settings in ({}, {"bypass_csp": True}):  # the escaping holds by itself
        page, asked = opened(browser, html, tmp_path, **settings)
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        for place in page.query_selector_all("dd, td, th, li, summary")[:200]:
            place.dispatch_event("mouseover")
        page.wait_for_timeout(100)
        assert page.evaluate("window.hit") is None
        assert len(asked) == 1, asked
        assert page.query_selector("#bait, iframe, img, svg, link") is None
        assert page.locator("script").count() == 1
        assert "window.hit = 1" in page.inner_text("main")


def test_the_policy_stops_a_script_that_was_not_escaped(browser: Browser, report: str, tmp_path: Path) -> None:
    page, asked = opened(browser, report.replace("</main>", f"{''.join(ATTACKS)}</main>"), tmp_path)
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert page.locator("svg").count() == 1, "the attack is on the page"
    assert page.evaluate("document.querySelector('img').naturalWidth") == 0
    assert len(asked) == 1, asked


def test_a_heading_sorts_its_table_by_keyboard_and_back(browser: Browser, report: str, tmp_path: Path) -> None:
    page, _ = opened(browser, report, tmp_path)
    heading = page.locator("table.sortable").first.locator("th", has_text="survival")
    cells = page.locator("table.sortable").first.locator("tbody tr td:nth-child(5)")
    for way in ("ascending", "descending"):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == way
        keys = [float(key) for cell in cells.all() if (key := cell.get_attribute("data-key"))]
        assert len(keys) == 27  # of 28 layers, one is untouched and has none
        assert keys == sorted(keys, reverse=way == "descending")


def test_on_paper_every_part_is_open(browser: Browser, report: str, tmp_path: Path) -> None:
    page, _ = opened(browser, report, tmp_path)
    assert page.locator("details:not([open])").count() == 3
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
