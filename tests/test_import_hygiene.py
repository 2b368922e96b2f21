"""Try in a process of its own that an import loads nothing that it must not.

Allowed, and why:

- `import quail_audit` loads Python's own modules only: a script that reads one constant must not wait.
- `quail --help` and `quail --version` load typer, for they are what it parses; pydantic and Textual wait for a command.
- The app loads Textual, Rich and pydantic: it draws, and reads events. The engine runs in processes of its own.
- Reading data and computing recovery load numpy, for the bootstrap's arrays; torch waits until a model is loaded.
"""

import os
import subprocess
import sys

import pytest

from tests.support.places import ROOT

ENGINE = {"torch", "transformers", "bitsandbytes", "numba", "scipy", "sklearn", "accelerate", "peft", "rouge_score"}
HELP = """import sys
from quail_audit.cli.main import main
sys.argv = ["quail", "--help"]
try:
    main()
except SystemExit:
    pass"""


def loaded_by(code: str) -> set[str]:
    """The top-level packages that are loaded once the code has run."""
    shown = code + "\nprint(); print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "used", "kept_out"),
    [
        ("import sys, quail_audit", "quail_audit", ENGINE | {"numpy", "pydantic", "typer", "textual", "rich"}),
        ("import sys, quail_audit.core.errors", "quail_audit", ENGINE | {"numpy", "pydantic"}),
        (HELP, "typer", ENGINE | {"numpy", "pydantic", "textual"}),
        (
            (
                "import sys, quail_audit.tui.app, quail_audit.tui.screens.audit, quail_audit.tui.screens.start, "
                "quail_audit.tui.screens.found"
            ),
            "textual",
            ENGINE | {"numpy", "textual_fspicker"},
        ),
        ("import sys, quail_audit.tui.browser.serve", "aiohttp", ENGINE | {"numpy"}),
        ("import sys, quail_audit.tui.settings", "quail_audit", ENGINE | {"numpy"}),
        ("import sys, quail_audit.tui.theme.files", "quail_audit", ENGINE | {"numpy"}),
        ("import sys, quail_audit.reports.formats", "pydantic", ENGINE | {"numpy", "matplotlib"}),
        ("import sys, quail_audit as quail; quail.read_report, quail.Scheme, quail.Metric", "pydantic", ENGINE),
        (
            "import sys, quail_audit.engine.forgetting.data.folder, quail_audit.engine.forgetting.membership",
            "numpy",
            ENGINE,
        ),
    ],
)
def test_nothing_heavy_is_loaded(code: str, used: str, kept_out: set[str]) -> None:
    loaded = loaded_by(code)
    assert used in loaded, "the list of packages is the last line"
    assert not loaded & kept_out


def test_importing_the_package_takes_no_time() -> None:
    code = "import time; before = time.process_time(); import quail_audit; print(time.process_time() - before)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(times) < 0.1
