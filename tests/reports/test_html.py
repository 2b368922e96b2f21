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
    assert (
        page.index("✗ FAIL")
        < page.index("4 of 4 texts are back at nf4")
        < page.index("Formats")
        < page.index("came back most")
        < page.index("Layers:")
    )
    assert "Forgetting holds at: int8" in page
    assert "the backend is not installed. pip install it" in page
    assert page.count("model.layers.1.mlp.down_proj</code>") == 3
    assert "quail audit models/llama-news-7b" in page
    assert "--retrain models/llama-news-7b-retrain" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)


def test_the_samples_furthest_above_the_reference_come_first_with_every_arms_answer() -> None:
    made = list(events(blocks=1, samples=6, retrain=True))
    scored = {(e.metric, e.sample, e.arm): e.score for e in made if isinstance(e, SampleScored)}
    rises = {
        (metric, number): scored[metric, number, "unlearned/nf4"] - scored[metric, number, "retrain/full"]
        for metric in ("verbmem_forget", "knowmem_forget")
        for number in range(6)
    }
    found = worst_samples(lambda: iter(made), "nf4", most=5)
    assert [(each.metric, each.number) for each in found] == sorted(rises, key=lambda key: -rises[key])[:5]
    for each in found:
        assert set(each.answers) == {"original/full", "unlearned/full", "unlearned/nf4", "retrain/full"}
        assert each.scores["unlearned/nf4"] == scored[each.metric, each.number, "unlearned/nf4"]
        assert each.truth


def scored(metric: str, arm: str, score: float, answer: str = "", way: str = "") -> SampleScored:
    texts = {"prompt": "Who is he?", "truth": "a baker", "answer": answer, "way": way}
    return SampleScored(arm=arm, metric=metric, sample=3, done=1, total=1, score=score, **texts)


def test_a_refusal_that_hides_the_rest_is_shown_by_the_metric_and_the_way_that_bring_it_out() -> None:
    made = [
        *(scored("verbmem_forget", arm, 2.0, "I cannot say") for arm in ("unlearned/full", "unlearned/nf4")),
        scored("verbmem_extraction_strength_forget", "unlearned/full", 4.0),
        scored("verbmem_extraction_strength_forget", "unlearned/nf4", 96.0, way="longer prompt"),
        scored("nll_forget", "unlearned/full", 0.1),
        scored("nll_forget", "unlearned/nf4", 200.0),
    ]
    (found,) = worst_samples(lambda: iter(made), "nf4", most=5)
    assert (found.metric, found.number) == ("verbmem_extraction_strength_forget", 3)
    assert found.scores == {"unlearned/full": 4.0, "unlearned/nf4": 96.0}
    assert found.answers == dict.fromkeys(("unlearned/full", "unlearned/nf4"), "I cannot say")
    assert found.ways == {"unlearned/full": "", "unlearned/nf4": "longer prompt"}
    page = "".join(html.render(report_of(*hand_made()), [found]))
    assert "<dt>unlearned/nf4 · 96.0 · longer prompt</dt><dd>I cannot say</dd>" in page
    assert "<dt>unlearned/full · 4.0</dt>" in page


def test_shared_words_are_marked_and_everything_else_is_escaped() -> None:
    (found,) = worst_samples(lambda: hand_made(answer="<b>erase</b> the debt"), "nf4", most=3)
    page = "".join(html.render(report_of(*hand_made()), [found]))
    assert "&lt;b&gt;<mark>erase</mark>&lt;/b&gt; the <mark>debt</mark>" in page


def test_weights_alone_say_that_no_answer_was_tried() -> None:
    report = report_of(*hand_made())
    asked = report.request.model_copy(update={"data": None})
    scheme = report.schemes["nf4"].model_copy(update={"metrics": {}, "knowledge": {}})
    page = "".join(html.render(report.model_copy(update={"request": asked, "schemes": {"nf4": scheme}}), []))
    assert "only the weights were measured" in page
    assert "came back most" not in page


def test_a_run_that_stopped_early_has_a_page() -> None:
    page = "".join(html.render(report_of(next(hand_made())), []))
    assert "■ STOPPED" in page
