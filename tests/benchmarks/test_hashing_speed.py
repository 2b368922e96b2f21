"""What hashing the files beside the measuring costs: audits of weights with it and without, and hashing alone.

Prints figures and asserts only that the hashes are those of the files. Run: make bench.
"""

import hashlib
import os
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from quail_audit.engine.audit import run as audits
from quail_audit.runs.integrity.hashing import FileToHash, Hashing
from quail_audit.schema.events.audit import FilesAwaited, FilesHashed, WeightsMeasured
from quail_audit.schema.figures import FileHash
from quail_audit.schema.requests import AuditRequest
from tests.benchmarks.test_schemes_speed import forget, made_pair

pytestmark = pytest.mark.slow

ROUNDS = 7
CASES = [(torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.bfloat16, 0.02)]


class NoHashing(Hashing):
    """Hashes nothing."""

    def start(self, places: Sequence[FileToHash]) -> None:
        """Nothing begins."""

    def wait(self) -> Generator[FilesAwaited, None, tuple[FileHash, ...]]:
        yield from ()
        return ()


@dataclass(frozen=True)
class Taken:
    """Seconds, by the clock, until the layers were measured and until the end."""

    layers_s: float
    all_s: float


def audited(request: AuditRequest) -> tuple[Taken, FilesHashed]:
    started_s = time.perf_counter()
    for event in audits.audit(request, "run"):
        if isinstance(event, WeightsMeasured):
            layers_s = time.perf_counter() - started_s
        elif isinstance(event, FilesHashed):
            hashed = event
    return Taken(layers_s, time.perf_counter() - started_s), hashed


def hashed_alone(files: Sequence[Path]) -> Iterator[str]:
    """As hashlib does it, one after the other."""
    for file in files:
        with file.open("rb") as opened:
            yield hashlib.file_digest(opened, "sha256").hexdigest()


@pytest.mark.parametrize("where", ["from memory", "from disk"])
@pytest.mark.parametrize(("dtype", "share"), CASES, ids=str)
def test_hashing_beside_measuring(
    dtype: torch.dtype,
    share: float,
    where: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if where == "from disk" and not hasattr(os, "posix_fadvise"):
        pytest.skip("this system does not let files be taken out of memory")
    files = made_pair(tmp_path, dtype, share)
    request = AuditRequest(original=str(tmp_path / "original"), unlearned=str(tmp_path / "unlearned"), device="cpu")
    taken: dict[str, list[Taken]] = {"with": [], "without": []}
    alone_s: list[float] = []
    for round_ in range(ROUNDS):
        for way, hashing in (("with", Hashing), ("without", NoHashing)):
            monkeypatch.setattr(audits, "Hashing", hashing)
            if where == "from disk":
                forget(files)
            found, hashed = audited(request)
            if round_ > 0:  # the first compiles
                taken[way].append(found)
            if way == "with":
                hashes = {each.sha256 for each in hashed.files}
        if where == "from disk":
            forget(files)
        started_s = time.perf_counter()
        assert set(hashed_alone(files)) <= hashes
        alone_s.append(time.perf_counter() - started_s)
    size = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()  # gigabytes: not to be kept as pytest keeps folders
    pairs = list(zip(taken["with"], taken["without"], strict=True))
    with capsys.disabled():
        print(f"\n\n{dtype}, {share:.0%} changed, {where}: {size / 1e9:.2f} GB; medians of {len(pairs)} pairs of runs")
        for part in ("layers_s", "all_s"):
            with_s, without_s = (statistics.median(getattr(each, part) for each in taken[way]) for way in taken)
            ratio = statistics.median(getattr(one, part) / getattr(other, part) for one, other in pairs)
            print(f"{part:10} with {with_s:.2f} s, without {without_s:.2f} s, ratio {ratio:.2f}")
        print(f"hashing alone {statistics.median(alone_s):.2f} s")
