"""Audit the truth set's checkpoints with Quail, as a user does from Python, and keep each report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.validity.truth_set import FEW, FORGET, FOUR_BITS, Case

TWO_BITS = "rtn-int2-g32"  # breaks every model of the truth set
AT_TWO_BITS = ("confined-nf4", "retrained", "for-good", "half-forgotten")  # cases that are audited there as well


def schemes_of(case: Case) -> tuple[str, ...]:
    """Return the schemes that a case is audited at, all in one audit."""
    return (*FOUR_BITS, TWO_BITS) if case.name in AT_TWO_BITS else FOUR_BITS


def report_of(folder: Path, case: Case, items: int) -> dict[str, Any]:
    """Return report.json of an audit of a case: read, if that audit was made before.

    Args:
        folder: the group's.
        case: the case.
        items: at most so many forget items are asked, and retain items.
    """
    run = folder / "audits" / f"{case.name}-{items}"
    if not (run / "report.json").is_file():
        import quail_audit as quail

        shutil.rmtree(run, ignore_errors=True)
        quail.audit(
            folder / case.original,
            folder / case.name,
            retrain=folder / "reference",
            data=folder / (f"data-{FEW}" if case.items == FEW else "data"),
            schemes=schemes_of(case),
            max_samples=items if items < FORGET else None,
            device="cpu",
            run_dir=run,
        )
        for path in run.iterdir():
            if path.name != "report.json" and path.is_file():
                path.unlink()
    found: dict[str, Any] = json.loads((run / "report.json").read_text())
    return found
