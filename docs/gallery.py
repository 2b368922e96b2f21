"""Writes docs/gallery: the report of one real audit, the demo's at nf4, in every format. `make gallery`.

Runs from the folder that holds, or will hold, quail-demo, and names everything relative to it, so that nothing of the
machine shows but what was measured on it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from quail_audit.core.errors import EXIT_FAIL

DEMO = Path("quail-demo")
GALLERY = Path(__file__).parent / "gallery"
LARGEST_BYTES = 700_000
ENDINGS = {
    "text": "txt",
    "html": "html",
    "markdown": "md.txt",  # as text, as the site would make a page of it
    "json": "json",
    "junit": "xml",
    "sarif": "sarif",
    "csv": "csv",
    "csv-metrics": "metrics.csv",
    "csv-samples": "samples.csv",
}


def quail(*arguments: str | Path) -> int:
    return subprocess.call([sys.executable, "-m", "quail_audit", *map(str, arguments)])


def main() -> None:
    if not (DEMO / "unlearned").is_dir() and quail("demo", DEMO) != EXIT_FAIL:
        sys.exit(f"quail demo {DEMO} did not end with {EXIT_FAIL}")
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        pair = (DEMO / "original", DEMO / "unlearned", "--data", DEMO / "data", "--retrain", DEMO / "retrain")
        if quail("audit", *pair, "--run-dir", run, "--quiet", "--output", Path(temporary) / "text") != EXIT_FAIL:
            sys.exit(f"the audit of {DEMO} did not end with {EXIT_FAIL}")
        write(run)


def write(run: Path) -> None:
    """Write the report of a run in every format; what was there goes."""
    shutil.rmtree(GALLERY / "report", ignore_errors=True)
    (GALLERY / "report").mkdir(parents=True)
    for name, ending in ENDINGS.items():
        output = GALLERY / "report" / f"report.{ending}"
        more = ("--figures", GALLERY / "report") if name == "text" else ()
        if quail("report", run, "--format", name, "--output", output, *more):
            sys.exit(f"quail report --format {name} failed")
    (GALLERY / "report" / "README.md.txt").write_text(
        "---\nlicense: apache-2.0\n---\n\n# A model that was made to forget\n"
    )
    if quail("report", run, "--output", "/dev/null", "--model-card", GALLERY / "report" / "README.md.txt"):
        sys.exit("quail report --model-card failed")
    for path in sorted((GALLERY / "report").iterdir()):
        assert path.stat().st_size < LARGEST_BYTES, path
        print(f"{path.stat().st_size:8} {path}")


if __name__ == "__main__":
    if len(sys.argv) > 1:  # of a run that is there already
        write(Path(sys.argv[1]))
    else:
        main()
