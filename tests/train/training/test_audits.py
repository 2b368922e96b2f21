"""--audit: what is measured before and after, where from, and what is said about it."""

from contextlib import closing
from pathlib import Path

import pytest

from quail_audit.engine.audit.run import audit
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.record import record
from quail_audit.schema.events.common import RunFinished
from quail_audit.schema.events.training import TrainEval
from quail_audit.schema.requests import AuditRequest, TrainRequest
from quail_train.output.training_card import card
from quail_train.training.audits import audit_request
from tests.support.tiny_training import events_of, request_in


def evals_of(request: TrainRequest) -> tuple[list[TrainEval], int]:
    events = list(events_of(request))
    assert isinstance(events[-1], RunFinished)
    return [event for event in events if isinstance(event, TrainEval)], events[-1].exit_code


@pytest.fixture(scope="module")
def earlier(training_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of the unlearned checkpoint."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    request = AuditRequest(
        original=str(training_world / "original"),
        unlearned=str(training_world / "unlearned"),
        data=str(training_world / "data"),
        schemes=("fp4", "nf4"),
        seed=5,
    )
    with new_run(folder, request), closing(record(audit(request, "earlier"), folder)) as events:
        for _ in events:
            pass
    return folder


def test_both_are_audited_where_nothing_is_known(training_world: Path, tmp_path: Path) -> None:
    request = request_in(training_world, tmp_path / "out", audit=True)
    (before, after), exit_code = evals_of(request)
    assert (before.step, after.step) == (0, 2)
    assert before.source == after.source == "audit"
    found = read_report(tmp_path / "run" / "audit")
    assert found.request.unlearned == str(tmp_path / "out")
    assert exit_code == found.exit_code
    assert after.scores["nll_forget"] == {
        precision: found.schemes["nf4"].metrics["nll_forget"][f"unlearned/{precision}"].mean
        for precision in ("full", "nf4")
    }
    assert read_report(tmp_path / "run" / "audit-before").request.unlearned == request.unlearned
    text = (tmp_path / "out" / "README.md").read_text()
    shown = f"| NLL, forget | {before.scores['nll_forget']['full']:.2f} → {after.scores['nll_forget']['full']:.2f} |"
    assert shown in text


def test_an_earlier_audit_says_how_and_is_not_made_again(earlier: Path, training_world: Path, tmp_path: Path) -> None:
    request = request_in(training_world, tmp_path / "out", audit=True, report=str(earlier))
    (before, after), _ = evals_of(request)
    assert not (tmp_path / "run" / "audit-before").exists()
    known = read_report(earlier)
    assert before.scores["nll_retain"]["fp4"] == known.schemes["fp4"].metrics["nll_retain"]["unlearned/fp4"].mean
    made = read_report(tmp_path / "run" / "audit").request
    assert made == known.request.model_copy(update={"unlearned": str(tmp_path / "out")})
    assert set(after.scores["nll_forget"]) == {"full", "fp4", "nf4"}


def test_an_audit_of_something_else_is_not_taken_for_the_state_before(
    earlier: Path, training_world: Path, tmp_path: Path
) -> None:
    request = request_in(training_world, tmp_path / "out", audit=True, report=str(earlier), init="original")
    evals_of(request)
    assert read_report(tmp_path / "run" / "audit-before").request.unlearned == request.original


def test_the_scheme_that_was_trained_for_is_audited(earlier: Path, training_world: Path, tmp_path: Path) -> None:
    request = request_in(training_world, tmp_path / "out", report=str(earlier), scheme="nf4-dq")
    assert audit_request(request).schemes == ("fp4", "nf4", "nf4-dq")


def test_the_card_states_everything(training_world: Path, tmp_path: Path) -> None:
    from quail_audit.schema.events.training import TrainingPlanned

    request = request_in(
        training_world, tmp_path, objective="ga_gdr_l1_hinge", hinge="centred", l1_weight=2e-6, margin_logits=2.0,
        layers=("at-risk",),
    )  # fmt: skip
    planned = TrainingPlanned(
        steps=9, layers=("a", "b"), weights=1234, forget_samples=3, retain_samples=4, margin_logits=2.0
    )
    command = ("quail", "train", "a folder", "`x`|```")
    text = card(request, planned, command, steps=7, evals=())
    for said in (
        request.original, request.unlearned, request.data, "ga_gdr_l1_hinge", "centred", "2e-06", "1.23 k",
        "3 forget and 4 retain", "7 of 3 forget samples", "learning rate 0.001", "at-risk", "Not audited",
        "quail train 'a folder'",
    ):  # fmt: skip
        assert said in text
    assert text.count("```") == 2, "nothing in it ends the block"
    assert text.startswith("---\nlibrary_name:")
