"""The HTML report as text: what it holds, and what it must not. Its looks and its script are tested in a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

from quail_audit.reports import html
from quail_audit.reports.formats import FORMATS as WRITERS
from quail_audit.reports.worst_samples import worst_samples
from quail_audit.runs.folder import read_report
from quail_audit.schema.events.audit import SampleScored
from tests.support.made_runs import FORMATS, events, write_run
from tests.support.small_run import events as hand_made
from tests.support.small_run import report_of


class Balanced(HTMLParser):
    """Fails where a tag is not closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_has_everything_and_needs_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", events(blocks=2, schemes=FORMATS[:3], samples=4, outcome="mixed"))
    page = "".join(WRITERS["html"](read_report(run), run))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page.index("✗ FAIL") < page.index("Formats") < page.index("came back most") < page.index("Layers:")
    assert "Safe to ship: int8" in page
    assert "the backend is not installed. pip install it" in page
    assert page.count("model.layers.1.mlp.down_proj</code>") == 3
    assert "quail audit models/llama-news-7b" in page
    assert "--retrain models/llama-news-7b-retrain" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)


def test_the_samples_that_rose_most_come_first_with_every_arms_answer() -> None:
    made = list(events(blocks=1, samples=6, retrain=True))
    scored = {(e.metric, e.sample, e.arm): e.score for e in made if isinstance(e, SampleScored)}
    rises = {
        (metric, number): scored[metric, number, "unlearned/nf4"] - scored[metric, number, "unlearned/full"]
        for metric in ("verbmem_forget", "knowmem_forget")
        for number in range(6)
    }
    found = worst_samples(lambda: iter(made), "nf4", most=5)
    assert [(each.metric, each.number) for each in found] == sorted(rises, key=lambda key: -rises[key])[:5]
    for each in found:
        assert set(each.answers) == {"original/full", "unlearned/full", "unlearned/nf4", "retrain/full"}
        assert each.scores["unlearned/nf4"] == scored[each.metric, each.number, "unlearned/nf4"]
        assert each.truth


def test_shared_words_are_marked_and_everything_else_is_escaped() -> None:
    (found,) = worst_samples(lambda: hand_made(answer="<b>erase</b> the debt"), "nf4", most=3)
    page = "".join(html.render(report_of(*hand_made()), [found]))
    assert "&lt;b&gt;<mark>erase</mark>&lt;/b&gt; the <mark>debt</mark>" in page


def test_weights_alone_say_that_no_answer_was_tried() -> None:
    report = report_of(*hand_made())
    asked = report.request.model_copy(update={"data": None})
    scheme = report.schemes["nf4"].model_copy(update={"metrics": {}, "recovery": {}})
    page = "".join(html.render(report.model_copy(update={"request": asked, "schemes": {"nf4": scheme}}), []))
    assert "only the weights were measured" in page
    assert "came back most" not in page


def test_a_run_that_stopped_early_has_a_page() -> None:
    page = "".join(html.render(report_of(next(hand_made())), []))
    assert "■ STOPPED" in page
