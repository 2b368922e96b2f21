"""Runs a command of quail on a small disk, again and again, with a little more of it free each time.

A process of its own, started by tests/cli/test_full_disk.py in a mount namespace with a disk that nobody else sees.
Prints as JSON what went wrong.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from quail_audit.cli import main as cli
from quail_audit.schema.events.lines import from_line

RUNS = {"run", ".quail"}  # folders of runs, whose events hold times
DEMO = "quail-demo"  # is built in its place; its stamp says where it is not finished
UNFINISHED = (".unfinished", ".carried-", "tmp")  # in the names of what should be gone


class Disk:
    """A disk of which as much is free as is asked for."""

    def __init__(self, root: Path) -> None:
        self.work = root / "work"
        self._filler = root / "filler"

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def begin(self, before: Path) -> None:
        """All of it is free but for what was there before."""
        self.free()
        if self.work.exists():
            shutil.rmtree(self.work)
        shutil.copytree(before, self.work)
        os.chdir(self.work)

    def leave(self, pages: int) -> None:
        """Have no more free."""
        now = os.statvfs(self.work)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (now.f_bavail - pages) * now.f_bsize)
        assert os.statvfs(self.work).f_bavail == pages


def contents(folder: Path) -> dict[str, str]:
    """File -> its digest, or how it ends, of a page, which holds the time of its audit; not of runs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): _end(path) or hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if RUNS.isdisjoint(path.relative_to(folder).parts)
    }


def _end(path: Path) -> str:
    data = path.read_bytes()
    return "a whole page" if data.startswith(b"<!doctype html>") and data.endswith(b"</html>\n") else ""


def problems(done: Any, before: dict[str, str], after: dict[str, str], whole: dict[str, str], work: Path) -> list[str]:
    """What is not as it should be after a command that found the disk full."""
    found = []
    if done.exit_code != 4:
        found.append(f"exit code {done.exit_code}: {done.stderr}")
    if "the disk is full" not in done.stderr or "defect" in done.stderr:
        found.append(f"said: {done.stderr}")
    found += [f"{name} is gone" for name in before.keys() - after.keys()]
    made = {name: digest for name, digest in after.items() if Path(name).parts[0] != DEMO}
    found += [f"{n} is not whole" for n, digest in made.items() if digest not in (before.get(n), whole.get(n))]
    found += [
        f"{path} is left" for path in work.rglob("*") if any(part in path.name for part in UNFINISHED) and path.exists()
    ]
    for events in work.rglob("events.jsonl"):
        text = events.read_text()
        if text and not text.endswith("\n"):
            found.append(f"{events} is cut off")
        for line in text.splitlines():
            from_line(line)
    return found


def build_short_demos() -> None:
    from quail_train.demo import sizes
    from tests.support.short_demos import SHORT

    sizes.DEMOS = {"language modelling": SHORT}


def main(root: str, before: str, step: int, *command: str) -> None:
    """Until the command ends as it does where there is room."""
    cli.add_plug_ins()
    if DEMO in command:
        build_short_demos()
    disk = Disk(Path(root))

    def run() -> Any:
        return CliRunner().invoke(cli.app, command)

    disk.begin(Path(before))
    good = run()
    assert good.exit_code in (0, 1, 5), good.stderr
    whole = contents(disk.work)
    pages, full = 0, 0
    bad: dict[int, list[str]] = {}
    while True:
        disk.begin(Path(before))
        was = contents(disk.work)
        disk.leave(pages)
        done = run()
        if done.exit_code == good.exit_code:
            assert contents(disk.work) == whole
            break
        full += 1
        if found := problems(done, was, contents(disk.work), whole, disk.work):
            bad[pages] = found
        if DEMO in command:
            disk.free()
            again = run()
            assert again.exit_code == good.exit_code, f"it cannot be built any more: {again.stderr}"
            assert contents(disk.work) == whole
        pages += step
    print(json.dumps({"full": full, "bad": bad}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
