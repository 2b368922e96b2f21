"""Check if a run's report, events, input files or signatures changed; sign a run.

A report is untrusted until it is checked: its paths may not leave the folders that it or the reader names, only regular
files of the recorded size are read, and no hash of a found file is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core import interruption
from quail_audit.core.errors import BadInputError
from quail_audit.runs.integrity.checks import (
    FileState,
    IntegrityCheck,
    IntegrityOutcome,
    ReadingProgress,
    Run,
    Verification,
    check_report,
    open_run,
)
from quail_audit.runs.integrity.files import check_files
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
from quail_audit.runs.names import EVENTS
from quail_audit.schema.figures import FileRole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verify(
    path: Path, given: Mapping[FileRole, Path], *, public_key: Path | None, progress: ReadingProgress = lambda *_: None
) -> Verification:
    """Check everything of a run.

    Args:
        path: its folder, or a report.json.
        given: where the files are now; for other roles, where the audit's request says.
        public_key: the signer's.
        progress: called as files are read.

    Raises:
        BadInputError: there is no report, its paths leave their folders, or a folder or key that was named cannot be
            used.
        UsageError: a folder was named for a role that the audit did not read.
        EnvironmentProblemError: the key cannot be used here.
    """
    key = None if public_key is None else read_public_key(public_key)
    run = open_run(path)
    checks = (
        *check_report(run),
        *check_files(run.report, given, progress),
        *_check_signatures(run, key),
    )
    standings = {check.standing for check in checks}
    outcome: IntegrityOutcome = "unchanged"
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
    """Sign a run, or a report by itself. Return the signature's file. An inconsistent run is refused.

    Args:
        path: the run's folder, or a report.json.
        key: the private key's file.
        ask: see read_private_key.

    Raises:
        BadInputError: there is no report, it or the events were changed, or the key cannot be read.
        EnvironmentProblemError: the library is not installed, or the signature cannot be written.
    """
    run = open_run(path)
    for check in check_report(run):
        if check.standing != "unchanged":
            message = f"{check.standing}, so it is not signed" + (f": {check.message}" if check.message else "")
            raise BadInputError(
                message, where=str(path.parent / check.name if run.folder is None else path / check.name)
            )
    statement = statement_of(run.digest or "", _events_hash(run))
    return write_signature(run.file, statement, read_private_key(key, ask))


def _check_signatures(run: Run, key: Ed25519PublicKey | None) -> Iterator[IntegrityCheck]:
    """Check the signature by a key; without a key, only list the signatures."""
    if key is not None:
        wanted = signature_file(run.file, fingerprint_of(key))
        if wanted.is_file():
            yield _check_signature(run, wanted, key)
        else:
            yield _signature_check(wanted, "missing", "the run is not signed by this key")
    else:
        for path in signature_files(run.file):
            yield _signature_check(path, "not checked", "give the signer's key with --public-key")


def _signature_check(path: Path, standing: FileState, message: str = "") -> IntegrityCheck:
    return IntegrityCheck(part="signature", name=path.name, standing=standing, message=message)


def _check_signature(run: Run, path: Path, key: Ed25519PublicKey) -> IntegrityCheck:
    try:
        signature = read_signature(path)
    except BadInputError as error:
        return _signature_check(path, "changed", error.message)
    if signature.key != fingerprint_of(key) or not is_by(signature, key):
        return _signature_check(path, "changed", "it was not made with this key, or was altered")
    signed = signature.statement.splitlines()
    now = statement_of(run.digest or "", _events_hash(run)).splitlines()
    if len(signed) != len(now) or signed[0] != now[0]:
        return _signature_check(path, "changed", "this key signed something else")
    if signed[1] != now[1]:
        return _signature_check(path, "changed", "a different report was signed")
    if signed[2] == statement_of("", None).splitlines()[2]:
        return _signature_check(path, "unchanged", "signed by this key, without the events")
    if run.folder is not None and signed[2] != now[2]:
        return _signature_check(path, "changed", "different events were signed")
    return _signature_check(path, "unchanged", "signed by this key")


def _events_hash(run: Run) -> str | None:
    """Return the SHA-256 of a run's events; None for a report by itself, or if there are none.

    Raises:
        BadInputError: they cannot be read.
    """
    if run.folder is None or not (run.folder / EVENTS).is_file():
        return None
    try:
        return hash_file(run.folder / EVENTS, lambda _: not interruption.is_requested())
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=str(run.folder / EVENTS)) from error
