import io
import re

from rich.console import Console

from quail_audit.reports.findings import full_title
from quail_audit.reports.text.audit import show
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import Estimate, Kept, Knowledge, LayerStatistics, Reason, Score, Verdict
from quail_audit.schema.report import Report, badness
from tests.support import made_runs
from tests.support.judged_figures import COMES_BACK, knowledge
from tests.support.small_run import ARMS, SUMMARY, UNTOUCHED, events, layer, report_of


def shown(*run: Event, width: int = 120) -> str:
    state = AuditState()
    for event in run:
        state.apply(event)
    stream = io.StringIO()
    show(state.report(), Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_the_verdict_and_its_reasons_come_first() -> None:
    lines = shown(*events()).splitlines()
    assert "original → unlearned" in lines[0]
    assert lines[1].strip() == "✗ FAIL   1 of 1 texts are back at nf4 (VerbMem)"
    assert lines[2].strip() == "it comes back"


def test_arms_stand_side_by_side() -> None:
    text = shown(*events())
    row = next(line for line in text.splitlines() if "VerbMem, forget" in line)
    assert " ".join(row.split()) == "VerbMem, forget 95.0 ±0.0 95.0 ±0.0 20.0 ±0.0 94.0 ±0.0 30.0 ±0.0 1"


def test_what_is_back_and_known_stands_before_the_scores() -> None:
    text = shown(*events())
    cells = ("VerbMem", "1 of 1", "98 % [80, 104]", "0 % [0, 5], 0 of 1", "98 %", "99 %", "comes back")
    assert re.search(r" +".join(map(re.escape, cells)), text)
    assert text.index("known [95 %]") < text.index("Scores at nf4")


def with_figures(**changes: object) -> Report:
    """The small run with other figures at nf4."""
    report = report_of(*events())
    return report.model_copy(update={"schemes": {"nf4": report.schemes["nf4"].model_copy(update=changes)}})


def printed(report: Report, width: int = 120) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_without_a_reference_nothing_is_told_of_full_precision() -> None:
    untold = knowledge("comes back", 98.0, 80.0, 104.0, back=9, items=10).model_copy(update={"residual": None})
    text = printed(with_figures(knowledge={"verbmem_forget": untold}))
    assert "not told, 0 of 10" in text
    assert "without a reference (--retrain) it cannot be told" in text
    assert "cannot be told" not in printed(with_figures(knowledge={"verbmem_forget": COMES_BACK}))


def test_utility_the_format_and_membership_have_rows_with_their_numbers_of_items() -> None:
    kept = Kept(utility=Estimate(percent=91.2, low=80.4, high=99.8, items=48, standing="above"), format_percent=97.4)
    told = Knowledge(outcome="reported only", known=Estimate(percent=90.0, low=80.0, high=99.0, items=40))
    text = printed(with_figures(knowledge={"privleak": told}, utility={"knowmem_retain": kept}), width=80)
    assert re.search(r"KnowMem, retain +91 % \[80, 100\] +48 +97 %", text)
    assert re.search(r"Min-40% AUC +90 % \[80, 99\] +40", text)


EVERY_METRIC = tuple(
    f"{kind}{score}_forget" for kind in ("verbmem", "knowmem") for score in ("", "_probability", "_extraction_strength")
)


def test_all_metrics_that_decide_fit_eighty_columns_and_come_first() -> None:
    score = Score(mean=-100.0, low=-100.0, high=-100.0, samples=4000)
    arms = dict.fromkeys(ARMS, score)
    back = knowledge("comes back", 100.0, 91.0, 121.0, back=4000, items=4000)
    text = printed(
        with_figures(
            knowledge=dict.fromkeys(("privleak", *reversed(EVERY_METRIC)), back),
            metrics=dict.fromkeys(("nll_forget", "privleak", "verbmem_retain", *reversed(EVERY_METRIC)), arms),
        ),
        width=80,
    )
    assert "…" not in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    shown_first = [line.split("  ")[0].strip() for line in text.partition("Scores at nf4")[2].splitlines()[3:12]]
    titles = [full_title(metric) for metric in (*EVERY_METRIC, "verbmem_retain", "privleak", "nll_forget")]
    assert [any(line.startswith(title) for line in shown_first) for title in titles] == [True] * 9
    assert [line[: len(title)] for line, title in zip(shown_first, titles, strict=True)] == titles


def test_layers_say_their_state_in_words() -> None:
    text = shown(*events())
    row = next(line for line in text.splitlines() if "down_proj" in line)
    assert "█ erased" in row
    assert "1.0000" in row
    assert "░ untouched" in text
    assert "1 erased · 1 untouched" in text


def test_what_was_not_measured_is_said() -> None:
    text = shown(*events())
    assert "not measured: KnowMem, forget (no knowmem/forget_qa.json)" in text
    assert "no fast 4-bit kernel on a CPU" in text
    assert "a note on the pair" in text


def test_a_failed_run_says_why_and_shows_what_there_is() -> None:
    measured = [event for event in events() if event.type not in ("verdict_reached", "run_finished")]
    failed = RunFailed(
        finished="", kind="bad input", message="NaN in [red]x[/red]", where="a\x1b[2Jb", mend="m", exit_code=3
    )
    text = shown(*measured, failed)
    assert "stopped (bad input)" in text
    assert "[red]x[/red]" in text, "markup from outside must not act"
    assert "\x1b" not in text
    assert "down_proj" in text


def test_a_runs_name_acts_on_no_terminal() -> None:
    first, *rest = events()
    text = shown(first.model_copy(update={"run_id": "a\u2028\x1b[2Jb"}), *rest)
    assert "run a\\u2028\\x1b[2Jb" in text


def test_eighty_columns_tell_the_main_story() -> None:
    lines = shown(*events(), width=80).splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    scores = next(line for line in lines if "VerbMem, forget" in line)
    assert scores.split()[2:] == ["95.0", "95.0", "20.0", "94.0", "30.0", "1"]
    known = next(line for line in lines if "98 % [80, 104]" in line)
    assert " ".join(known.split()) == "VerbMem 1 of 1 98 % [80, 104] 0 %, 0 of 1 98 % comes back"
    row = next(line for line in lines if "layers.0.mlp.down_proj" in line)
    assert "1.0000" in row
    assert "█ erased" in row


def test_a_long_name_keeps_its_end_on_a_narrow_screen() -> None:
    long_name = "model.language_model.encoder.layers.11.self_attention.query_key_value"
    renamed = [
        event.model_copy(update={"layer": layer(long_name)}) if event.type == "layer_measured" else event
        for event in events()
    ]
    assert "layers.11.self_attention.query_key_value"[-30:] in shown(*renamed, width=80)
    assert long_name in shown(*renamed, width=200)


def test_layers_are_sorted_worst_first() -> None:
    carried = layer("carried", state="carried", survival=0.9)
    drowned = layer("drowned", state="drowned", survival=1.0)
    lost = layer("lost", survival=-0.1)
    spoilt = layer("spoilt", state=None, survival=None, at_risk=False)
    ordered = sorted((carried, spoilt, UNTOUCHED, drowned, layer("erased"), lost), key=badness)
    assert [each.name for each in ordered] == ["lost", "erased", "drowned", "carried", UNTOUCHED.name, "spoilt"]


def test_a_report_goes_through_json_unchanged() -> None:
    state = AuditState()
    for event in events():
        state.apply(event)
    assert Report.model_validate_json(state.report().model_dump_json()) == state.report()


def of_many(number: int) -> list[Event]:
    """A run on many formats: the first comes back, the second could not be measured, the others hold."""
    return list(made_runs.events(blocks=2, schemes=made_runs.FORMATS[:number], samples=4, outcome="mixed"))


def test_formats_stand_side_by_side_with_what_decides() -> None:
    lines = shown(*of_many(3), width=80).splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert " Forgetting holds at: int8" in [line.rstrip() for line in lines]
    rows = {
        line.split()[0]: line.rstrip() for line in lines if line.strip() and line.split()[0] in made_runs.FORMATS[:3]
    }
    assert "✗ FAIL" in rows["nf4"]
    assert "4 of 4" in rows["nf4"]
    assert "97 % [91, 103]" in rows["nf4"]
    means = {e.arm: e.score.mean for e in of_many(3) if e.type == "metric_scored" and e.metric == "verbmem_retain"}
    assert rows["nf4"].endswith(f"  {100 * means['unlearned/nf4'] / means['original/full']:.0f} %")
    assert "! NOT MEASURED" in rows["fp4"]
    assert "✓ PASS" in rows["int8"]
    assert "fp4: the backend is not installed. pip install it" in " ".join(" ".join(lines).split())


def test_a_formats_reasons_stand_with_it_and_nowhere_else() -> None:
    text = shown(*of_many(3))
    for reason in ("verbmem_forget comes back at nf4: 97 % is known", "verbmem_forget forgetting holds at int8: 2 %"):
        assert text.count(reason) == 1
    assert text.index("Forgetting at nf4") < text.index("comes back at nf4") < text.index("Forgetting at int8")


def test_a_reason_that_holds_is_left_to_the_tables_unless_the_verdict_passes() -> None:
    holds, fails = Reason(code="holds", message="this holds"), Reason(code="utility_lost", message="this is lost")
    report = report_of(*events())
    both = Verdict(outcome="fail", reasons=(fails, holds))
    text = printed(report.model_copy(update={"verdict": both}))
    assert "this is lost" in text
    assert "this holds" not in text
    assert "this holds" in printed(report.model_copy(update={"verdict": Verdict(outcome="pass", reasons=(holds,))}))


def test_metrics_in_the_same_state_are_one_reason_and_a_number() -> None:
    reasons = [Reason(code="comes_back", message=f"m{number} comes back", scheme="nf4") for number in range(4)]
    reasons += [Reason(code="rule_failed", message=f"rule {number}", scheme="nf4") for number in range(2)]
    reasons += [Reason(code="undecided", message=f"u{number} may come back", scheme="nf4") for number in range(2)]
    report = report_of(*events())
    text = printed(report.model_copy(update={"verdict": Verdict(outcome="fail", reasons=tuple(reasons))}))
    assert [line.strip() for line in text.splitlines()[2:8]] == [
        "m0 comes back",
        "3 more metrics say the same: see the table",
        "rule 0",
        "rule 1",
        "u0 may come back",
        "1 more metric says the same: see the table",
    ]


def test_of_many_formats_only_the_worst_is_shown_in_full() -> None:
    text = shown(*of_many(14))
    assert "Forgetting at nf4" in text
    assert text.count("Forgetting at") == 1
    assert "the other 13 formats' figures are in report.json" in text
    three = shown(*of_many(3))
    assert three.count("Forgetting at") == 2, "the third could not be measured"
    assert three.count("Scores at") == 3


def test_a_release_without_a_safe_format_says_so() -> None:
    text = shown(*made_runs.events(blocks=2, schemes=("nf4", "fp4"), samples=4))
    assert "Forgetting holds at no format" in text


def test_weights_alone_promise_nothing() -> None:
    def weights_only(*measured: LayerStatistics, at_risk: int) -> str:
        report = report_of(*events())
        asked = report.request.model_copy(update={"data": None})
        summary = SUMMARY.model_copy(update={"layers_at_risk": at_risk})
        changes = {"layers": measured, "metrics": {}, "knowledge": {}, "summary": summary}
        scheme = report.schemes["nf4"].model_copy(update=changes)
        return printed(report.model_copy(update={"request": asked, "schemes": {"nf4": scheme, "fp4": scheme}}))

    carried = layer(state="carried", at_risk=False)
    text = weights_only(carried, at_risk=0)
    assert "no layer is at risk at fp4, the worst of 2 formats; forgetting was not measured" in text
    assert "No layer at risk at: nf4, fp4; forgetting was not measured" in text
    assert "holds" not in text
    text = weights_only(layer(), carried, at_risk=1)
    assert "1 of 2 layers are at risk at fp4, the worst of 2 formats; forgetting was not measured" in text
    assert "Layers at risk at every format that was measured; forgetting was not measured" in text
