"""Audit the checkpoint that a training began with, and its result.

Each audit has its own run folder.
"""

from __future__ import annotations

from pathlib import Path

from quail_audit.engine.audit.run import audit
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.names import new_run_id
from quail_audit.runs.record import record
from quail_audit.schema.events.training import TrainEval
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest, TrainRequest

BEFORE, AFTER = "audit-before", "audit"


def audit_request(request: TrainRequest) -> AuditRequest:
    """Return the request to audit the result: as in the audit of request.report, else the scheme and the data."""
    if request.report is None:
        return AuditRequest(
            original=request.original,
            unlearned=request.out,
            data=request.data,
            text_column=request.text_column,
            label_column=request.label_column,
            schemes=(request.scheme,),
            device=request.device,
            seed=request.seed,
        )
    found = read_report(Path(request.report)).request
    schemes = tuple(dict.fromkeys((*found.schemes, request.scheme)))
    return found.model_copy(update={"unlearned": request.out, "schemes": schemes, "data": found.data or request.data})


def audit_source(request: TrainRequest, folder: Path) -> TrainEval:
    """Return the scores of the checkpoint that the training began with, from the audit in request.report if it fits.

    Args:
        request: request of the training.
        folder: folder of the training's run; an audit's run folder is made in it.

    Raises:
        QuailError: the audit could not be finished.
    """
    result = audit_request(request)
    source = request.unlearned if request.init == "unlearned" else request.original
    report = read_report(Path(request.report)) if request.report is not None else None
    if report is None or report.request.unlearned != source or _lacks_scores(report, result.schemes):
        report = _audit(result.model_copy(update={"unlearned": source}), folder / BEFORE)
    return _scores(report, 0, result.schemes)


def audit_result(request: TrainRequest, step: int, folder: Path) -> tuple[TrainEval, Report]:
    """Audit the training's result. Return its scores and the report.

    Args:
        request: request of the training.
        step: last step made.
        folder: folder of the training's run; the audit's run folder is made in it.

    Raises:
        QuailError: the audit could not be finished.
    """
    result = audit_request(request)
    report = _audit(result, folder / AFTER)
    return _scores(report, step, result.schemes), report


def _audit(request: AuditRequest, folder: Path) -> Report:
    with new_run(folder, request):
        for _ in record(audit(request, new_run_id()), folder):
            pass
    return read_report(folder)


def _lacks_scores(report: Report, schemes: tuple[str, ...]) -> bool:
    return not all(scheme in report.schemes and report.schemes[scheme].metrics for scheme in schemes)


def _scores(report: Report, step: int, schemes: tuple[str, ...]) -> TrainEval:
    scores: dict[str, dict[str, float]] = {}
    for scheme in schemes:
        for metric, arms in report.schemes[scheme].metrics.items():
            for arm, score in arms.items():
                checkpoint, _, precision = arm.partition("/")
                if checkpoint == "unlearned":
                    scores.setdefault(metric, {})[precision] = score.mean
    return TrainEval(step=step, scores=scores, source="audit")
