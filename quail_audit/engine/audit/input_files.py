"""List the files that an audit reads: checkpoints, data, calibration, policy and baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.runs.integrity.hashing import FileToHash, find_file
from quail_audit.runs.names import EVENTS
from quail_audit.schema.layout import RAW_RETAIN, data_files, description_files

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.schema.figures import FileRole
    from quail_audit.schema.requests import AuditRequest


def given_files(request: AuditRequest, *, calibrated: bool) -> Iterator[FileToHash]:
    """Yield the files of an audit's data, calibration, policy and baseline, as far as they are files.

    Anything else, such as a pipe, cannot be read twice. The reader of a missing file reports it.

    Args:
        request: of the audit.
        calibrated: whether texts are read to calibrate on.

    Raises:
        BadInputError: one cannot be looked at, or is no regular file.
    """
    if request.data is not None:
        folder = Path(request.data)
        names = data_files(folder)
        if calibrated and request.calibration is None and (folder / RAW_RETAIN).is_file():
            names += (RAW_RETAIN,)
        for name in names:
            yield find_file("data", folder / name, name)
    named: dict[FileRole, str | None] = {
        "calibration": request.calibration if calibrated else None,
        "policy": request.policy,
        "baseline": request.baseline,
    }
    for role, path in named.items():
        if path is not None:
            file = Path(path) / EVENTS if Path(path).is_dir() else Path(path)
            if file.is_file():
                yield find_file(role, file, file.name)


def checkpoint_files(pair: Pair) -> tuple[FileToHash, ...]:
    """The files of an audit's checkpoints: the weight files in use, then all that describes them.

    Raises:
        BadInputError: one cannot be looked at, or is no regular file.
    """
    sides: dict[FileRole, Checkpoint | None] = {
        "original": pair.original,
        "unlearned": pair.unlearned,
        "retrain": pair.retrain,
    }
    return tuple(
        find_file(role, checkpoint.folder / name, name)
        for role, checkpoint in sides.items()
        if checkpoint is not None
        for name in (
            *(file.relative_to(checkpoint.folder).as_posix() for file in checkpoint.weight_files),
            *description_files(checkpoint.folder),
        )
    )
