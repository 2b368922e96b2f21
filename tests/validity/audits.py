"""Audit the truth set's checkpoints with Quail, keep each report, and judge it on all items or on the first of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import quail_audit as quail
from quail_audit.runs.folder import read_report
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.verdict.checks import Judgement
from quail_audit.verdict.judge import day_of, judge_report
from tests.validity.truth_set import FEW, FOUR_BITS, Case

TWO_BITS = "rtn-int2-g32"  # breaks every model of the truth set
AT_TWO_BITS = ("confined-nf4", "retrained", "for-good", "half-forgotten")  # cases that are audited there as well


def schemes_of(case: Case) -> tuple[str, ...]:
    """Return the schemes that a case is audited at, all in one audit."""
    return (*FOUR_BITS, TWO_BITS) if case.name in AT_TWO_BITS else FOUR_BITS


def report_of(folder: Path, case: Case) -> Report:
    """Return the report of a case's audit on all its items, which is made once.

    Args:
        folder: the group's.
        case: the case.
    """
    run = _run_of(folder, case)
    if not is_audited(folder, case):
        audit(folder, case, run)
        for path in run.iterdir():
            if path.name != "report.json" and path.is_file():
                path.unlink()
    return read_report(run / "report.json")


def is_audited(folder: Path, case: Case) -> bool:
    """Return whether the report of a case's audit is there."""
    return (_run_of(folder, case) / "report.json").is_file()


def _run_of(folder: Path, case: Case) -> Path:
    return folder / "audits" / case.name


def audit(folder: Path, case: Case, run: Path, data: Path | None = None) -> None:
    """Audit a case into a run's folder; what is there goes.

    Args:
        folder: the group's.
        case: the case.
        run: the run's folder.
        data: the data folder; None: the case's.
    """
    shutil.rmtree(run, ignore_errors=True)
    quail.audit(
        folder / case.original,
        folder / case.name,
        retrain=folder / "reference",
        data=data or folder / (f"data-{FEW}" if case.items == FEW else "data"),
        schemes=schemes_of(case),
        device="cpu",
        run_dir=run,
    )


def judge_first(report: Report, items: int) -> Judgement:
    """Return the verdicts of a report on its first items, by the default policy."""
    scores = {
        metric: {arm: values[:items] for arm, values in arms.items()} for metric, arms in report.items.items()
    }  # fmt: skip
    samples = {metric: min(items, count) for metric, count in report.samples.items()}
    first = report.model_copy(update={"items": scores, "samples": samples})
    return judge_report(first, Policy(), day_of(report))
