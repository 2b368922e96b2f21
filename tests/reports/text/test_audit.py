import io

from rich.console import Console

from quail_audit.reports.text.audit import show
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import Report, badness
from tests.support import made_runs
from tests.support.small_run import UNTOUCHED, events, layer


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
    assert lines[1].strip() == "✗ FAIL"
    assert lines[2].strip() == "it comes back"


def test_arms_stand_side_by_side_with_recovery_and_its_interval() -> None:
    text = shown(*events())
    row = next(line for line in text.splitlines() if "VerbMem, forget" in line)
    for figure in ("95.0 ±0.0", "20.0 ±0.0", "94.0 ±0.0", "30.0 ±0.0", "98 % [80, 104] recovered"):
        assert figure in row


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
    assert scores.split()[2:7] == ["95.0", "95.0", "20.0", "94.0", "30.0"]
    assert "98 % [80, 104]" in scores
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
    assert " Safe to ship: int8" in [line.rstrip() for line in lines]
    rows = {
        line.split()[0]: line.rstrip() for line in lines if line.strip() and line.split()[0] in made_runs.FORMATS[:3]
    }
    assert "✗ FAIL" in rows["nf4"]
    assert "97 % [91, 103]" in rows["nf4"]
    assert "13 of 14" in rows["nf4"]
    means = {e.arm: e.score.mean for e in of_many(3) if e.type == "metric_scored" and e.metric == "verbmem_retain"}
    assert rows["nf4"].endswith(f"  {100 * means['unlearned/nf4'] / means['original/full']:.0f} %")
    assert "! NOT MEASURED" in rows["fp4"]
    assert "✓ PASS" in rows["int8"]
    assert "fp4: the backend is not installed. pip install it" in " ".join(" ".join(lines).split())


def test_of_many_formats_only_the_worst_is_shown_in_full() -> None:
    text = shown(*of_many(14))
    assert "Forgetting at nf4" in text
    assert text.count("Forgetting at") == 1
    assert "the other 13 formats' figures are in report.json" in text
    assert shown(*of_many(3)).count("Forgetting at") == 3


def test_a_release_without_a_safe_format_says_so() -> None:
    text = shown(*made_runs.events(blocks=2, schemes=("nf4", "fp4"), samples=4))
    assert "No format is safe to ship" in text
