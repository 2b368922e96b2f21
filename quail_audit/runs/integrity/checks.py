"""Check a report's digest and a run's events against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, BadInputError, QuailError
from quail_audit.core.values import Value
from quail_audit.runs.digest import digest_of
from quail_audit.runs.folder import read_report
from quail_audit.runs.follow import replay_placed, require_run
from quail_audit.runs.names import EVENTS, REPORT
from quail_audit.runs.report_file import read_with_document
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.figures import FileRole
from quail_audit.schema.report import Report

FileState = Literal["unchanged", "changed", "missing", "added", "not checked"]


IntegrityOutcome = Literal["unchanged", "changed", "not all checked"]


ReadingProgress = Callable[[int, int], None]  # bytes read, of how many


class IntegrityCheck(Value):
    """One thing that was checked."""

    part: Literal["report", "events", "file", "signature"]
    role: FileRole | None = None  # of a file
    name: str  # a file's path as the report has it; anybody's text
    standing: FileState
    message: str = ""  # why, if that is not obvious


class Verification(Value):
    """Everything that was checked."""

    run_id: str
    original: str
    unlearned: str
    outcome: IntegrityOutcome
    checks: tuple[IntegrityCheck, ...]

    @property
    def exit_code(self) -> int:
        codes: Mapping[IntegrityOutcome, int] = {
            "unchanged": EXIT_PASS,
            "changed": EXIT_FAIL,
            "not all checked": EXIT_INCONCLUSIVE,
        }
        return codes[self.outcome]


@dataclass(frozen=True)
class Run:
    """A run, or a report by itself.

    Attributes:
        report: what it found.
        file: the report's file, which may be missing.
        digest: the digest computed from that file; None if it is missing.
        folder: the run's; None for a report by itself.
    """

    report: Report
    file: Path
    digest: str | None
    folder: Path | None


def open_run(path: Path) -> Run:
    """Open a run's folder, or a report.json.

    Raises:
        BadInputError: neither a report nor events can be read there.
    """
    if not path.is_dir():
        return _open_report(path, None)
    file = path / REPORT
    if file.is_file():
        return _open_report(file, path)
    require_run(path)
    return Run(read_report(path), file, None, path)


def _open_report(file: Path, folder: Path | None) -> Run:
    report, document = read_with_document(file)
    try:
        return Run(report, file, digest_of(document), folder)
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"not valid JSON: {error}", where=str(file), mend="Give a report.json of quail audit"
        ) from error


def check_report(run: Run) -> tuple[IntegrityCheck, ...]:
    """Check a report against its digest, and a run's events against the report."""
    own = _check_digest(run)
    return (own,) if run.folder is None else (own, _check_events(run, run.folder))


def _check_digest(run: Run) -> IntegrityCheck:
    def found(standing: FileState, message: str = "") -> IntegrityCheck:
        return IntegrityCheck(part="report", name=run.file.name, standing=standing, message=message)

    if run.digest is None:
        return found("missing", "the run was stopped before its report was written, or the file was removed")
    if run.report.digest is None:
        return found("not checked", "it has no digest: an older Quail wrote it, or the digest was removed")
    if run.digest != run.report.digest:
        return found("changed", "it does not match its digest")
    return found("unchanged")


def _check_events(run: Run, folder: Path) -> IntegrityCheck:
    def found(standing: FileState, message: str = "") -> IntegrityCheck:
        return IntegrityCheck(part="events", name=EVENTS, standing=standing, message=message)

    if not (folder / EVENTS).is_file():
        return found("missing")
    state, last = AuditState(), None
    try:
        for last in replay_placed(folder):
            state.apply(last.event)
        if last is None or state.started is None:
            return found("changed", "they are not an audit's events")
        if state.end is not None and _has_more_after(folder / EVENTS, last.offset):
            return found("changed", "there is something after the end of the run")
    except QuailError as error:
        return found("changed", str(error))
    told = state.report().model_copy(update={"schema_version": run.report.schema_version})  # an older Quail's
    if run.digest is not None and told != run.report.model_copy(update={"digest": None}):
        return found("changed", "they do not add up to the report")
    return found("unchanged")


def _has_more_after(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        file.readline()
        return bool(file.read(1))
