"""Run the `quail` command in a process of its own, or in this one."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from quail_audit.cli import main as cli

QUAIL = [sys.executable, "-m", "quail_audit"]


def quail(
    *arguments: str | Path, cwd: Path | None = None, limit_s: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUAIL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100"} | environment,
        timeout=limit_s,
    )


def quail_here(*arguments: str | Path) -> Result:
    """Run the command in this process, if that makes no difference: a new one takes seconds to import torch."""
    return CliRunner().invoke(cli.app, list(map(str, arguments)))
