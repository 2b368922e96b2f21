"""Results in a model card, read back by huggingface_hub, and the rest of the card to the letter."""

from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.reports.model_card import card_with_results, eval_results, write_model_card
from quail_audit.schema.figures import Estimate, Kept
from quail_audit.schema.report import Report
from tests.support import made_runs
from tests.support.small_run import events, report_of

HOSTILE = 'x: [y]\n- "z" {{# \x1b[2J\u202e'
CARD = """---
license: apache-2.0  # of the weights
tags: [unlearned,   quantized]
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {name: Other, type: other}
    metrics:
    - {type: rouge, value: 0.5}   # by hand

# about the language
language: en
---

# Mine

A body with --- in it, and `model-index:`.
---
"""


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(*made_runs.events(blocks=1, schemes=("nf4", "int8"), samples=2))


def results(text: str) -> dict[tuple[str, str | None, str], object]:
    """As huggingface_hub reads them: (data, format, metric) -> value."""
    found = ModelCard(text).data.eval_results
    assert found is not None
    values = {(one.dataset_name, one.metric_config, one.metric_type): one.metric_value for one in found}
    assert len(values) == len(found), "nothing stands there twice"
    return values


def test_results_say_what_the_report_says(report: Report) -> None:
    found = results(card_with_results("", report))
    scheme = report.schemes["nf4"]
    assert found["muse-news", "nf4", "quail_verdict"] == "fail"
    assert found["muse-news", "nf4", "quail_known_verbmem_forget"] == 97.0
    assert found["muse-news", "nf4", "quail_back_verbmem_forget"] == 2
    assert found["muse-news", "nf4", "quail_residual_verbmem_forget"] == 0.0
    assert found["muse-news", "nf4", "quail_came_back_verbmem_forget"] == 97.0
    score = scheme.metrics["verbmem_forget"]["unlearned/nf4"]
    assert found["muse-news", "nf4", "quail_verbmem_forget"] == pytest.approx(score.mean, rel=1e-5)
    in_full = scheme.metrics["verbmem_forget"]["unlearned/full"]
    assert found["muse-news", "full", "quail_verbmem_forget"] == pytest.approx(in_full.mean, rel=1e-5)
    assert scheme.summary is not None
    assert found["muse-news", "int8", "quail_layers_at_risk"] == scheme.summary.layers_at_risk
    (args,) = [one.metric_args for one in eval_results(report) if one.metric_type == "quail_known_verbmem_forget"][:1]
    assert args == {"low": 91.0, "high": 103.0, "items": 2, "outcome": "comes back"}


def test_results_say_what_is_kept_and_what_the_format_leaves() -> None:
    report = report_of(*events())
    kept = Kept(utility=Estimate(percent=91.25, low=80.5, high=99.5, items=48), format_percent=97.5)
    scheme = report.schemes["nf4"].model_copy(update={"utility": {"knowmem_retain": kept}})
    found = results(card_with_results("", report.model_copy(update={"schemes": {"nf4": scheme}})))
    assert found["data", "nf4", "quail_utility_knowmem_retain"] == 91.25
    assert found["data", "nf4", "quail_format_knowmem_retain"] == 97.5


def test_all_else_in_the_card_stays_to_the_letter(report: Report) -> None:
    text = card_with_results(CARD, report)
    before, _, rest = CARD.partition("model-index:")
    assert text.startswith(before)
    assert text.endswith(rest[rest.index("# about the language") :])
    found = results(text)
    assert found["Other", None, "rouge"] == 0.5
    assert ModelCard(text).data.model_name == "mine"
    assert ModelCard(text).data.language == "en"


def test_a_second_time_changes_nothing(report: Report) -> None:
    once = card_with_results(CARD, report)
    assert card_with_results(once, report) == once
    assert card_with_results(card_with_results("", report), report) == card_with_results("", report)


def test_another_format_is_added_and_the_same_one_replaced(report: Report) -> None:
    other = report.model_copy(update={"schemes": {"fp4": report.schemes["nf4"]}})
    changed = report.schemes["nf4"].model_copy(update={"knowledge": {}})
    again = report.model_copy(update={"schemes": {"nf4": changed}})
    found = results(card_with_results(card_with_results(card_with_results(CARD, report), other), again))
    assert {config for _, config, _ in found} == {None, "nf4", "int8", "fp4", "full"}
    assert ("muse-news", "nf4", "quail_known_verbmem_forget") not in found
    assert ("muse-news", "int8", "quail_known_verbmem_forget") in found


@pytest.mark.parametrize(
    "text", ["", "# Only a body\n", "---\n---\nbody\n", "---\nlicense: mit\n---\n", "---\na: 1\n---"]
)
def test_any_card_can_take_them(text: str, report: Report) -> None:
    changed = card_with_results(text, report)
    assert len(results(changed)) > 10
    body = text.rpartition("---")[2].lstrip("\n")
    assert changed.endswith(body)
    if "license" in text:
        assert ModelCard(changed).data.license == "mit"


def test_line_ends_stay(report: Report) -> None:
    changed = card_with_results(CARD.replace("\n", "\r\n"), report)
    assert "\n" not in changed.replace("\r\n", "")
    assert results(changed) == results(card_with_results(CARD, report))


def test_names_from_outside_are_values_and_nothing_more() -> None:
    report = report_of(*events())
    asked = report.request.model_copy(update={"unlearned": HOSTILE, "data": HOSTILE})
    report = report.model_copy(update={"request": asked, "schemes": {HOSTILE: report.schemes["nf4"]}})
    text = card_with_results("", report)
    assert not {"\x1b", "\u202e"} & set(text)
    assert len(results(text)) == len(list(eval_results(report)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\n[1, 2\n---\n", "not YAML"),
        ("---\n- a\n---\n", "with one name a line"),
        ("---\n{a: 1}\n---\n", "with one name a line"),
        ("---\njust text\n---\n", "with one name a line"),
        ("---\nmodel-index: 7\n---\n", "not as the Hub writes it"),
        ("---\nmodel-index: [{name: a}]\n---\n", "not as the Hub writes it"),
        ("---\nmodel-index: [1]\n---\n", "not as the Hub writes it"),
        ("---\nmodel-index: []\na: 1\nmodel-index: []\n---\n", "twice"),
        ("---\na: !!python/object/apply:os.system [true]\n---\n", "not YAML"),
    ],
)
def test_metadata_that_cannot_be_read_is_refused_and_left(
    text: str, message: str, report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message) as caught:
        write_model_card(report, path)
    assert caught.value.where == str(path)
    assert path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_card_is_written_whole_through_a_link_and_keeps_its_mode(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "real.md"
    path.write_text(CARD)
    path.chmod(0o640)
    (tmp_path / "README.md").symlink_to(path)
    write_model_card(report, tmp_path / "README.md")
    assert (tmp_path / "README.md").is_symlink()
    assert path.read_text() == card_with_results(CARD, report)
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_is_no_text_and_what_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="UTF-8"):
        write_model_card(report, tmp_path / "README.md")
    with pytest.raises(BadInputError, match="cannot read"):
        write_model_card(report, tmp_path)
    with pytest.raises(EnvironmentProblemError, match="cannot write"):
        write_model_card(report, tmp_path / "no" / "folder" / "README.md")


def test_without_data_it_is_said_so() -> None:
    report = report_of(*events())
    asked = report.request.model_copy(update={"data": None})
    scheme = report.schemes["nf4"].model_copy(update={"metrics": {}, "knowledge": {}})
    found = results(card_with_results("", report.model_copy(update={"request": asked, "schemes": {"nf4": scheme}})))
    assert found["weights only", "nf4", "quail_overlap"] == 1.0


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.text(alphabet="model-index: []{}&*!|>'\"#\n\t~?,a1<=.\r\x00é", max_size=40))
def test_any_metadata_takes_the_results_or_is_refused(block: str, report: Report) -> None:
    """And where it takes them, huggingface_hub reads them, and all else is as it was."""
    text = f"---\n{block}\n---\nbody\n"
    with suppress(ValueError):
        assert card_with_results(text, report).endswith("---\nbody\n")


@pytest.mark.parametrize(
    "block",
    [
        "model-index: &a [*a]",
        "a: &a [*a]\nmodel-index:\n- name: x\n  results: *a",
        "model-index:\n- &x {name: y, results: [*x]}",
        "<<: {model-index: []}",
        "? [a]\n: b",
        "a: 2001-99-99",
        "model-index:\n- name: x\n  results:\n  - task: {type: a}\n    dataset: {type: b, name: [1]}\n    metrics: []",
        f"a: {'[' * 1500}",
    ],
    ids=["itself", "named elsewhere", "in itself", "merged", "a list as a name", "no date", "a list as data", "deep"],
)
def test_odd_metadata_takes_the_results_or_is_refused(block: str, report: Report) -> None:
    with suppress(ValueError):
        changed = card_with_results(f"---\n{block}\n---\n", report)
        assert results(changed)["muse-news", "nf4", "quail_verdict"] == "fail"
