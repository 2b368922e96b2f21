"""A disk that is full from some write of an audit on: exit 4, what was there stays whole, and the audit goes on."""

import errno
import os
from pathlib import Path

import pytest

from quail_audit.cli.audit import resume_audit, run_audit
from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.writing import _NamedFile, explain_write_errors
from quail_audit.runs.names import EVENTS, JOURNAL, REPORT, REQUEST
from quail_audit.schema.events.lines import from_line
from quail_audit.schema.requests import AuditRequest
from tests.support.tiny_audits import lines_of, report_in, request


class Disk:
    """Counts the writes of a run's files, and refuses those from some number on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = 0.0
        self.writes = 0
        write, write_text = os.write, _NamedFile.write

        def writing(descriptor: int, data: bytes) -> int:
            if self._is_full():
                write(descriptor, data[: len(data) // 2])  # what still fits
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        def writing_text(file: _NamedFile, text: str) -> int:
            with explain_write_errors(file._place):
                if self._is_full():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_text(file, text)

        monkeypatch.setattr("quail_audit.core.writing.os.write", writing)
        monkeypatch.setattr(_NamedFile, "write", writing_text)

    def _is_full(self) -> bool:
        self.writes += 1
        return self.writes > self.left

    def holds(self, writes: float) -> None:
        """Have room for so many from here on."""
        self.left, self.writes = writes, 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def fails_and_goes_on(asked: AuditRequest, disk: Disk, writes: int, folder: Path, whole: Path) -> None:
    disk.holds(writes)
    with pytest.raises(EnvironmentProblemError, match="the disk is full") as caught:
        run_audit(asked, run_dir=folder, output=folder.with_suffix(".txt"), quiet=True)
    assert caught.value.exit_code == 4
    disk.holds(float("inf"))
    for name in (EVENTS, JOURNAL):
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            assert content == b"" or content.endswith(b"\n"), name
    if (folder / EVENTS).exists():
        for line in (folder / EVENTS).read_text().splitlines():
            from_line(line)
    if not (folder / REQUEST).exists():
        run_audit(asked, run_dir=folder, output=folder.with_suffix(".txt"), quiet=True)
    else:
        resume_audit(folder, output=folder.with_suffix(".txt"), quiet=True)
    assert lines_of(folder) == lines_of(whole)
    assert report_in(folder) == report_in(whole)
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".unfinished")]


def whole_audit(asked: AuditRequest, disk: Disk, folder: Path) -> int:
    disk.holds(float("inf"))
    run_audit(asked, run_dir=folder, output=folder.with_suffix(".txt"), quiet=True)
    assert (folder / REPORT).exists()
    return disk.writes


def test_the_first_and_the_last_write(world: Path, tmp_path: Path, disk: Disk) -> None:
    asked = request(world, data=None)
    writes = whole_audit(asked, disk, tmp_path / "whole")
    for number in (0, writes - 1):
        fails_and_goes_on(asked, disk, number, tmp_path / f"{number}", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_write(world: Path, tmp_path: Path, disk: Disk) -> None:
    asked = request(world, max_samples=2, batch_size=1)
    writes = whole_audit(asked, disk, tmp_path / "whole")
    assert writes > 100
    for number in range(writes):
        fails_and_goes_on(asked, disk, number, tmp_path / f"{number}", tmp_path / "whole")
