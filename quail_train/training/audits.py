"""Audits of a training: of the checkpoint that it began as, and of its result, each in a run folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
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
    """The audit of the training's result: as the audit in request.report was made, else of the scheme and the data."""
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


def before_and_after(request: TrainRequest, step: int, folder: Path) -> Iterator[tuple[TrainEval, Report]]:
    """The scores of the checkpoint that the training began as, then those of its result, each with its report.

    Args:
        request: of the training.
        step: the last one made.
        folder: of the training's run; the audits' run folders are made in it.

    Raises:
        QuailError: an audit could not be finished; the checkpoint is there all the same.
    """
    result = audit_request(request)
    began_as = request.unlearned if request.init == "unlearned" else request.original
    known = read_report(Path(request.report)) if request.report is not None else None
    if known is None or known.request.unlearned != began_as or _lacks_scores(known, result.schemes):
        known = _audited(result.model_copy(update={"unlearned": began_as}), folder / BEFORE)
    yield _scores(known, 0, result.schemes), known
    found = _audited(result, folder / AFTER)
    yield _scores(found, step, result.schemes), found


def _audited(request: AuditRequest, folder: Path) -> Report:
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
