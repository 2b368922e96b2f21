"""A run's folder from elsewhere, in which every name and every text is hostile. No face lets them act."""

import io
import json
from pathlib import Path

import pytest

from quail_audit.cli.progress.audit import view
from quail_audit.core.errors import BadInputError
from quail_audit.reports.formats import FORMATS
from quail_audit.reports.text.console import PlainTextConsole
from quail_audit.runs.follow import replay
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.lines import from_line
from tests.support.hostile_run import acts_on_terminal, run, with_hostile
from tests.support.quail_command import quail_here
from tests.support.small_run import events

__all__ = ["run"]  # a fixture
VERDICTS = {0, 1, 5}


@pytest.mark.parametrize("format_", ["text", "json", *FORMATS])
def test_in_every_format(run: Path, format_: str) -> None:
    for command in ("report", "watch"):
        done = quail_here(command, run, "--format", format_)
        assert done.exit_code in VERDICTS, done.output
        assert not acts_on_terminal(done.output)
        assert "nope" in done.stdout or format_ in ("junit", "csv-metrics")  # which have no text of this run
        if format_ == "html":
            assert "<script>alert" not in done.stdout


@pytest.mark.parametrize("command", ["policy check", "verify", "prescribe"])
def test_in_every_command_about_a_run(run: Path, command: str) -> None:
    done = quail_here(*command.split(), run)
    assert "defect" not in done.output
    assert not acts_on_terminal(done.output)


@pytest.mark.parametrize("format_", ["text", "markdown", "json"])
def test_in_a_comparison(run: Path, format_: str) -> None:
    done = quail_here("compare", run, run, "--format", format_)
    assert done.exit_code == 0, done.output
    assert not acts_on_terminal(done.output)


def test_in_the_live_view(run: Path) -> None:
    state = AuditState()
    for event in replay(run):
        state.apply(event)
        stream = io.StringIO()
        PlainTextConsole(stream, width=400).print(view(state))
        assert not acts_on_terminal(stream.getvalue())
        assert "[/nope][red]" in stream.getvalue()


@pytest.mark.parametrize("name", ["nf4", "unlearned/full", "verbmem_forget"])
def test_what_names_a_scheme_an_arm_or_a_metric_is_refused(name: str) -> None:
    """Titles and columns are made of these everywhere."""
    spoilt = [with_hostile((name,), event) for event in events()]
    hostile = [line for line in spoilt if "nope" in line and json.loads(line)["type"] != "run_started"]
    assert hostile
    for line in hostile:
        with pytest.raises(BadInputError, match="not an event of a Quail run"):
            from_line(line)
