"""Print a training's report: the result, the loss, and scores before and after."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.reports.text.frame import show_failure, show_heading, show_notes
from quail_audit.schema.events.training import TrainEval
from quail_audit.schema.report import TrainingReport


def show(report: TrainingReport, console: Console) -> None:
    """Print the report."""
    request = report.request
    start = request.unlearned if request.init == "unlearned" else request.original
    show_heading(f"{start} → {request.out}", f"{request.objective}   run {report.run_id}", console)
    show_failure(report.failure, console)
    for line in _summary_lines(report):
        console.print(Text(f" {printable(line)}"))
    scores = before_and_after(report)
    if scores is not None:
        console.print()
        console.print(_table(*scores))
    show_notes(report.notes, console)


def before_and_after(report: TrainingReport) -> tuple[TrainEval, TrainEval] | None:
    """Return the scores before training and of its result; the audits' scores if there are any."""
    audited = [found for found in report.evals if found.source == "audit"]
    found = audited if len(audited) > 1 else [one for one in report.evals if one.source == "training"]
    return (found[0], found[-1]) if len(found) > 1 else None


def _summary_lines(report: TrainingReport) -> list[str]:
    lines = []
    if report.plan is not None:
        plan = report.plan
        lines.append(
            f"{len(plan.layers)} layers, {wording.count_text(plan.weights)} weights trained; "
            f"{plan.forget_samples} forget and {plan.retain_samples} retain samples"
        )
        if plan.margin_logits is not None:
            lines.append(f"margin {plan.margin_logits:.4g} logits, hinge {report.request.hinge}")
    if report.first_step is not None and report.last_step is not None:
        first, last = report.first_step, report.last_step
        lines.append(f"{last.step} of {last.total} steps; loss {first.loss:.4g} → {last.loss:.4g}")
        lines.extend(
            f"   {name} {first.terms.get(name, value):.4g} → {value:.4g}" for name, value in last.terms.items()
        )
    lines.extend(f"result: {saved.folder}" for saved in report.saved if saved.final)
    return lines


def _table(before: TrainEval, after: TrainEval) -> Table:
    precisions = list(dict.fromkeys(precision for found in after.scores.values() for precision in found))
    table = Table(box=None, pad_edge=True, show_edge=False)
    table.add_column("before → after", no_wrap=True)
    for precision in precisions:
        table.add_column(printable(precision), justify="right", no_wrap=True)
    for metric, found in after.scores.items():
        cells = [
            f"{wording.value_text(before.scores.get(metric, {}).get(precision), metric)} → "
            f"{wording.value_text(found.get(precision), metric)}"
            for precision in precisions
        ]
        table.add_row(printable(wording.metric_title(metric)), *cells)
    return table
