"""Whether anything of a run has changed since: its report, its events, every file that it read, its signatures.
Signing it as well, as only what fits together is signed.

What a report says is anybody's text until it is checked: no path of it leads out of the folders that it or the reader
names, nothing but regular files of the recorded size is read, and no hash of what is found there is told. Not here: how
it is shown (reports/verification_text.py).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quail_audit.core import interruption
from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, BadInputError, QuailError, UsageError
from quail_audit.core.hub import in_cache, parse_hub_id
from quail_audit.core.paths import stays_inside
from quail_audit.core.values import Model
from quail_audit.runs.digest import digest_of
from quail_audit.runs.folder import EVENTS, REPORT, read_report, replay_placed, require_run
from quail_audit.runs.integrity.hashing import hash_file
from quail_audit.runs.integrity.signatures import (
    fingerprint_of,
    is_by,
    read_private_key,
    read_public_key,
    read_signature,
    signature_file,
    signature_files,
    statement_of,
    write_signature,
)
from quail_audit.runs.report_file import read_with_document
from quail_audit.runs.state.audit import RunState
from quail_audit.schema.figures import FileHash, FileRole
from quail_audit.schema.layout import data_files, description_files, weights_read_first
from quail_audit.schema.report import Report

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Standing = Literal["unchanged", "changed", "missing", "added", "not checked"]
Outcome = Literal["unchanged", "changed", "not all checked"]
Progress = Callable[[int, int], None]  # bytes read, of how many

_CHECKPOINTS: tuple[FileRole, ...] = ("original", "unlearned", "retrain")
_FILES: tuple[FileRole, ...] = ("calibration", "policy", "baseline")  # each a file, not a folder
_ROLES: tuple[FileRole, ...] = (*_CHECKPOINTS, "data", *_FILES)


class Check(Model):
    """One thing that was looked at."""

    part: Literal["report", "events", "file", "signature"]
    role: FileRole | None = None  # of a file
    name: str  # a file's path as the report has it; anybody's text
    standing: Standing
    message: str = ""  # why, where that is not plain


class Verification(Model):
    """Everything that was looked at."""

    run_id: str
    original: str
    unlearned: str
    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        codes: Mapping[Outcome, int] = {
            "unchanged": EXIT_PASS,
            "changed": EXIT_FAIL,
            "not all checked": EXIT_INCONCLUSIVE,
        }
        return codes[self.outcome]


@dataclass(frozen=True)
class Run:
    """A run, or a report that stands alone.

    Attributes:
        report: what it found.
        file: the report's; it may not be there.
        digest: what its digest has to be, by all else in that file; None where the file is not there.
        folder: of the run; None: the report stands alone.
    """

    report: Report
    file: Path
    digest: str | None
    folder: Path | None


def open_run(path: Path) -> Run:
    """A run's folder, or a report.json.

    Raises:
        BadInputError: neither a report nor events can be read there.
    """
    if not path.is_dir():
        return _run_of(path, None)
    file = path / REPORT
    if file.is_file():
        return _run_of(file, path)
    require_run(path)
    return Run(read_report(path), file, None, path)


def _run_of(file: Path, folder: Path | None) -> Run:
    report, document = read_with_document(file)
    try:
        return Run(report, file, digest_of(document), folder)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"no JSON: {error}", where=str(file), mend="Name a report.json of quail audit") from error


def verify(
    path: Path, given: Mapping[FileRole, Path], *, public_key: Path | None, progress: Progress = lambda *_: None
) -> Verification:
    """Look at everything of a run.

    Args:
        path: its folder, or a report.json.
        given: where the files lie now; of roles that are not named, where the audit's request says.
        public_key: of the signer.
        progress: called as files are read.

    Raises:
        BadInputError: there is no report to hold anything against, its paths lead out of their folders, or a folder
            or key that was named is none.
        UsageError: a folder was named for what the audit did not read.
        EnvironmentProblemError: the key cannot be used here.
    """
    key = None if public_key is None else read_public_key(public_key)
    run = open_run(path)
    checks = (
        *_check_report(run),
        *_check_files(run.report, given, progress),
        *_check_signatures(run, key),
    )
    standings = {check.standing for check in checks}
    outcome: Outcome = "unchanged"
    if standings & {"changed", "missing", "added"}:
        outcome = "changed"
    elif "not checked" in standings:
        outcome = "not all checked"
    return Verification(
        run_id=run.report.run_id,
        original=run.report.request.original,
        unlearned=run.report.request.unlearned,
        outcome=outcome,
        checks=checks,
    )


def sign(path: Path, key: Path, ask: Callable[[], str | None]) -> Path:
    """Sign a run, or a report alone; returns the signature's file. What does not fit together is not signed.

    Args:
        path: the run's folder, or a report.json.
        key: the private key's file.
        ask: see read_private_key.

    Raises:
        BadInputError: there is no report, it or the events were changed, or the key cannot be read.
        EnvironmentProblemError: the library is not installed, or the signature cannot be written.
    """
    run = open_run(path)
    for check in _check_report(run):
        if check.standing != "unchanged":
            message = f"{check.standing}, so it is not signed" + (f": {check.message}" if check.message else "")
            raise BadInputError(
                message, where=str(path.parent / check.name if run.folder is None else path / check.name)
            )
    statement = statement_of(run.digest or "", _events_hash(run))
    return write_signature(run.file, statement, read_private_key(key, ask))


def _check_report(run: Run) -> tuple[Check, ...]:
    """Whether the report is what its digest says, and what the run's events come to."""
    own = _check_digest(run)
    return (own,) if run.folder is None else (own, _check_events(run, run.folder))


def _check_digest(run: Run) -> Check:
    def found(standing: Standing, message: str = "") -> Check:
        return Check(part="report", name=run.file.name, standing=standing, message=message)

    if run.digest is None:
        return found("missing", "the run was stopped before its report was written, or the file was taken away")
    if run.report.digest is None:
        return found("not checked", "it has no digest: a Quail before 0.2 wrote it, or the digest was taken out")
    if run.digest != run.report.digest:
        return found("changed", "it is not what its digest is of")
    return found("unchanged")


def _check_events(run: Run, folder: Path) -> Check:
    def found(standing: Standing, message: str = "") -> Check:
        return Check(part="events", name=EVENTS, standing=standing, message=message)

    if not (folder / EVENTS).is_file():
        return found("missing")
    state, last = RunState(), None
    try:
        for last in replay_placed(folder):
            state.apply(last.event)
        if last is None or state.started is None:
            return found("changed", "they are not those of an audit")
        if state.end is not None and _goes_on_after(folder / EVENTS, last.offset):
            return found("changed", "something was written after the end of the run")
    except QuailError as error:
        return found("changed", str(error))
    if run.digest is not None and state.report() != run.report.model_copy(update={"digest": None}):
        return found("changed", "the report is not what they come to")
    return found("unchanged")


def _goes_on_after(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        file.readline()
        return bool(file.read(1))


@dataclass(frozen=True)
class _Job:
    """A file to hash, and what it is to be."""

    recorded: FileHash
    file: Path


def _check_files(report: Report, given: Mapping[FileRole, Path], progress: Progress) -> tuple[Check, ...]:
    by_role: dict[FileRole, dict[str, FileHash]] = {}
    for each in report.files:
        recorded = by_role.setdefault(each.role, {})
        if each.path in recorded or (each.role in _FILES and recorded):
            raise BadInputError("the report names a file twice", where=f"files, {each.role}, {each.path}")
        recorded[each.path] = each
    for role in given:
        if role not in by_role:
            raise UsageError(f"the report names no file of this kind: {role}", where=f"--{role}", mend="Leave it out")
    checks: list[Check | _Job] = []
    for role in _ROLES:
        if role in by_role:
            checks.extend(_of_role(role, by_role[role], _place(role, report, given.get(role))))
        elif _was_asked_for(role, report):
            checks.append(_file(role, "", "not checked", "the report holds no hash of it"))
    return tuple(_hashed(checks, progress))


def _file(role: FileRole, name: str, standing: Standing, message: str = "") -> Check:
    return Check(part="file", role=role, name=name, standing=standing, message=message)


def _was_asked_for(role: FileRole, report: Report) -> bool:
    """Texts to calibrate on are read where a scheme needs them, which their absence does not tell."""
    return role != "calibration" and getattr(report.request, role) is not None


def _of_role(role: FileRole, recorded: Mapping[str, FileHash], place: Path | None) -> Iterator[Check | _Job]:
    if place is None:
        for name in recorded:
            yield _file(role, name, "not checked", f"it is not where the audit read it; name its place with --{role}")
        return
    for each in recorded.values():
        if role in _FILES:
            yield _look(each, place)
        elif stays_inside(each.path):
            yield _look(each, place / each.path)
        else:
            raise BadInputError(
                "the report names a file outside of its folder",
                where=f"files, {role}, {each.path}",
                mend="It was not written by quail audit; don't trust it",
            )
    if role not in _FILES:
        for name in _to_be_read(role, place, recorded):
            if name not in recorded:
                yield _file(role, name, "added", "an audit would read it now")


def _to_be_read(role: FileRole, folder: Path, recorded: Collection[str]) -> tuple[str, ...]:
    """What an audit would read from a folder, by the names, as far as it can be looked into."""
    try:
        return _read_by_names(role, folder, recorded)
    except OSError:
        return ()


def _read_by_names(role: FileRole, folder: Path, recorded: Collection[str]) -> tuple[str, ...]:
    if role == "data":
        return data_files(folder)
    return (*description_files(folder), *weights_read_first(folder, recorded))


def _place(role: FileRole, report: Report, given: Path | None) -> Path | None:
    """The folder, or the file, of a role; None where it cannot be found.

    Raises:
        BadInputError: what was named is none.
    """
    if given is not None:
        found = _folder_or_file(role, given)
        if found is None:
            raise BadInputError("there is no such folder or file", where=str(given), mend=f"Check --{role}")
        return found
    source = getattr(report.request, role)
    try:
        found = _folder_or_file(role, Path(source).expanduser()) if source is not None else None
    except (OSError, ValueError, RuntimeError):  # forbidden, too long, a NUL, no such home
        found = None
    if found is not None or role not in _CHECKPOINTS:
        return found
    hub_id, facts = parse_hub_id(source or ""), report.checkpoints.get(role)
    return None if hub_id is None or facts is None or facts.revision is None else in_cache(hub_id, facts.revision)


def _folder_or_file(role: FileRole, path: Path) -> Path | None:
    if role in _FILES:
        file = path / EVENTS if path.is_dir() else path
        return file if file.exists() else None
    if path.is_dir():
        return path
    return path.parent if role in _CHECKPOINTS and path.suffix.lower() == ".gguf" and path.is_file() else None


def _look(recorded: FileHash, file: Path) -> Check | _Job:
    """What can be told of a file without reading it; else that it has to be read."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _file(recorded.role, recorded.path, "missing")
    except (OSError, ValueError) as error:
        return _file(recorded.role, recorded.path, "not checked", f"it cannot be read: {error}")
    if not stat.S_ISREG(found.st_mode):
        return _file(recorded.role, recorded.path, "changed", "it is no regular file")
    if found.st_size != recorded.bytes:
        return _file(recorded.role, recorded.path, "changed", "it has another size")
    return _Job(recorded, file)


def _hashed(checks: list[Check | _Job], progress: Progress) -> Iterator[Check]:
    total_bytes = sum(each.recorded.bytes for each in checks if isinstance(each, _Job))
    done_bytes = 0

    def goes_on(count: int) -> bool:
        nonlocal done_bytes
        done_bytes += count
        progress(done_bytes, total_bytes)
        return not interruption.was_asked()

    for each in checks:
        if isinstance(each, Check):
            yield each
            continue
        role, name = each.recorded.role, each.recorded.path
        try:
            found = hash_file(each.file, goes_on, most_bytes=each.recorded.bytes)
        except OSError as error:
            yield _file(role, name, "not checked", f"it cannot be read: {error.strerror or error}")
            continue
        if interruption.was_asked():
            raise KeyboardInterrupt
        yield (
            _file(role, name, "unchanged")
            if found == each.recorded.sha256
            else _file(role, name, "changed", "it has other contents")
        )


def _check_signatures(run: Run, key: Ed25519PublicKey | None) -> Iterator[Check]:
    """By the key that is named; without one, that there are some is all that can be said."""
    if key is not None:
        wanted = signature_file(run.file, fingerprint_of(key))
        if wanted.is_file():
            yield _check_signature(run, wanted, key)
        else:
            yield _signature(wanted, "missing", "the run is not signed by this key")
    else:
        for path in signature_files(run.file):
            yield _signature(path, "not checked", "name the signer's key with --public-key")


def _signature(path: Path, standing: Standing, message: str = "") -> Check:
    return Check(part="signature", name=path.name, standing=standing, message=message)


def _check_signature(run: Run, path: Path, key: Ed25519PublicKey) -> Check:
    try:
        signature = read_signature(path)
    except BadInputError as error:
        return _signature(path, "changed", error.message)
    if signature.key != fingerprint_of(key) or not is_by(signature, key):
        return _signature(path, "changed", "it is not by this key, or was altered")
    signed = signature.statement.splitlines()
    now = statement_of(run.digest or "", _events_hash(run)).splitlines()
    if len(signed) != len(now) or signed[0] != now[0]:
        return _signature(path, "changed", "this key signed something else")
    if signed[1] != now[1]:
        return _signature(path, "changed", "another report was signed")
    if signed[2] == statement_of("", None).splitlines()[2]:
        return _signature(path, "unchanged", "signed by this key, without the events")
    if run.folder is not None and signed[2] != now[2]:
        return _signature(path, "changed", "other events were signed")
    return _signature(path, "unchanged", "signed by this key")


def _events_hash(run: Run) -> str | None:
    """SHA-256 of the events of a run; None of a report that stands alone, or where there are none.

    Raises:
        BadInputError: they cannot be read.
    """
    if run.folder is None or not (run.folder / EVENTS).is_file():
        return None
    try:
        return hash_file(run.folder / EVENTS, lambda _: not interruption.was_asked())
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=str(run.folder / EVENTS)) from error
