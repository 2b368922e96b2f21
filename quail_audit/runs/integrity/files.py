"""Hash the files of an audit again and compare them with what it recorded."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quail_audit.core import interruption
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.hub import find_in_cache, parse_hub_id
from quail_audit.core.paths import is_inside
from quail_audit.runs.integrity.checks import FileState, IntegrityCheck, ReadingProgress
from quail_audit.runs.integrity.hashing import hash_file
from quail_audit.runs.names import EVENTS
from quail_audit.schema.figures import FileHash, FileRole
from quail_audit.schema.layout import data_files, description_files, weight_files_read_first
from quail_audit.schema.report import Report

_CHECKPOINTS: tuple[FileRole, ...] = ("original", "unlearned", "retrain")


_FILES: tuple[FileRole, ...] = ("calibration", "policy", "baseline")  # each a file, not a folder


_ROLES: tuple[FileRole, ...] = (*_CHECKPOINTS, "data", *_FILES)


@dataclass(frozen=True)
class _Job:
    """A file to hash, and its recorded hash."""

    recorded: FileHash
    file: Path


def check_files(
    report: Report, given: Mapping[FileRole, Path], progress: ReadingProgress
) -> tuple[IntegrityCheck, ...]:
    by_role: dict[FileRole, dict[str, FileHash]] = {}
    for each in report.files:
        recorded = by_role.setdefault(each.role, {})
        if each.path in recorded or (each.role in _FILES and recorded):
            raise BadInputError("the report names a file twice", where=f"files, {each.role}, {each.path}")
        recorded[each.path] = each
    for role in given:
        if role not in by_role:
            raise UsageError(f"the report names no file of this kind: {role}", where=f"--{role}", mend="Leave it out")
    checks: list[IntegrityCheck | _Job] = []
    for role in _ROLES:
        if role in by_role:
            checks.extend(_look_at_role(role, by_role[role], _find_place(role, report, given.get(role))))
        elif _is_requested(role, report):
            checks.append(_file_check(role, "", "not checked", "the report has no hash of it"))
    return tuple(_hash_jobs(checks, progress))


def _file_check(role: FileRole, name: str, standing: FileState, message: str = "") -> IntegrityCheck:
    return IntegrityCheck(part="file", role=role, name=name, standing=standing, message=message)


def _is_requested(role: FileRole, report: Report) -> bool:
    """Return whether the audit was given this role. Calibration texts are read only if a scheme needs them."""
    return role != "calibration" and getattr(report.request, role) is not None


def _look_at_role(
    role: FileRole, recorded: Mapping[str, FileHash], place: Path | None
) -> Iterator[IntegrityCheck | _Job]:
    if place is None:
        for name in recorded:
            yield _file_check(
                role, name, "not checked", f"it is no longer where the audit read it; say where it is with --{role}"
            )
        return
    for each in recorded.values():
        if role in _FILES:
            yield _look_at_file(each, place)
        elif is_inside(each.path):
            yield _look_at_file(each, place / each.path)
        else:
            raise BadInputError(
                "the report names a file outside its folder",
                where=f"files, {role}, {each.path}",
                mend="quail audit did not write it; do not trust it",
            )
    if role not in _FILES:
        for name in _names_read_now(role, place, recorded):
            if name not in recorded:
                yield _file_check(role, name, "added", "an audit would now read it")


def _names_read_now(role: FileRole, folder: Path, recorded: Collection[str]) -> tuple[str, ...]:
    """Return the names that an audit would now read from a folder; none if it cannot be listed."""
    try:
        return _read_by_names(role, folder, recorded)
    except OSError:
        return ()


def _read_by_names(role: FileRole, folder: Path, recorded: Collection[str]) -> tuple[str, ...]:
    if role == "data":
        return data_files(folder)
    return (*description_files(folder), *weight_files_read_first(folder, recorded))


def _find_place(role: FileRole, report: Report, given: Path | None) -> Path | None:
    """Return the folder or file of a role; None if it cannot be found.

    Raises:
        BadInputError: the one that was named does not exist.
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
    return None if hub_id is None or facts is None or facts.revision is None else find_in_cache(hub_id, facts.revision)


def _folder_or_file(role: FileRole, path: Path) -> Path | None:
    if role in _FILES:
        file = path / EVENTS if path.is_dir() else path
        return file if file.exists() else None
    if path.is_dir():
        return path
    return path.parent if role in _CHECKPOINTS and path.suffix.lower() == ".gguf" and path.is_file() else None


def _look_at_file(recorded: FileHash, file: Path) -> IntegrityCheck | _Job:
    """Check a file without reading it, or return the job of hashing it."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _file_check(recorded.role, recorded.path, "missing")
    except (OSError, ValueError) as error:
        return _file_check(recorded.role, recorded.path, "not checked", f"it cannot be read: {error}")
    if not stat.S_ISREG(found.st_mode):
        return _file_check(recorded.role, recorded.path, "changed", "it is not a regular file")
    if found.st_size != recorded.bytes:
        return _file_check(recorded.role, recorded.path, "changed", "its size changed")
    return _Job(recorded, file)


def _hash_jobs(checks: list[IntegrityCheck | _Job], progress: ReadingProgress) -> Iterator[IntegrityCheck]:
    total_bytes = sum(each.recorded.bytes for each in checks if isinstance(each, _Job))
    done_bytes = 0

    def goes_on(count: int) -> bool:
        nonlocal done_bytes
        done_bytes += count
        progress(done_bytes, total_bytes)
        return not interruption.is_requested()

    for each in checks:
        if isinstance(each, IntegrityCheck):
            yield each
            continue
        role, name = each.recorded.role, each.recorded.path
        try:
            found = hash_file(each.file, goes_on, most_bytes=each.recorded.bytes)
        except OSError as error:
            yield _file_check(role, name, "not checked", f"it cannot be read: {error.strerror or error}")
            continue
        if interruption.is_requested():
            raise KeyboardInterrupt
        yield (
            _file_check(role, name, "unchanged")
            if found == each.recorded.sha256
            else _file_check(role, name, "changed", "its contents changed")
        )
