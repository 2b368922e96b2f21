"""Draw the text report of a run as an SVG: the picture in the README.

python docs/experiments/picture.py .quail/runs/RUN docs/audit.svg
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from quail_audit.reports.text.audit import show
from quail_audit.runs.folder import read_report

WIDTH = 118


def main(run: str, picture: str) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show(read_report(Path(run)), console)
    svg = console.export_svg(title="quail audit")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # no font from another site
    Path(picture).write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
