"""Train as a request says, from request to checkpoint, as an iterator of events.

Shows nothing and stores no run.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from quail_audit.core.clock import utc_now
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.events.training import TrainingStarted
from quail_audit.schema.requests import TrainRequest
from quail_train.training.work import Stop, Work


def train(request: TrainRequest, run_id: str, command: tuple[str, ...], stop: Stop, folder: Path) -> Events:
    """Train as the request says, and write the result to request.out.

    Everything that can be refused is refused before the first step: objective, scheme, layers, device, folders, data.

    Args:
        request: what to train.
        run_id: ID of the run.
        command: command that repeats it, for the record.
        stop: how to end it early.
        folder: folder of the run; an audit of the result gets a folder in it.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield TrainingStarted.of(request, run_id, command=command)
    from quail_audit.engine.schemes.bitsandbytes import bitsandbytes  # seconds to import, as is all with weights

    bitsandbytes()  # before the Trainer imports it, which is not as quiet
    from quail_train.training.plan import prepare_work
    from quail_train.training.steps import make_steps

    work, model, arguments = yield from prepare_work(request, folder)
    step = yield from make_steps(work, model, arguments, stop)
    del model  # the audit needs its memory
    exit_code = yield from _write_card_and_audit(work, command, step)
    yield RunFinished(finished=utc_now(), exit_code=exit_code)


def _write_card_and_audit(work: Work, command: tuple[str, ...], step: int) -> Generator[Event, None, int]:
    """Write the model card. If the request asks for an audit, audit the result and write the card with its scores.

    Returns:
        The audit's exit code; 0 without an audit.
    """
    from quail_train.output.training_card import write_card
    from quail_train.training.processes import is_main_process

    request, out = work.request, Path(work.request.out)
    if not is_main_process():
        return 0
    write_card(out, request, work.planned, command, steps=step, evals=())
    if not request.audit:
        return 0
    from quail_train.training.audits import audit_result, audit_source

    before = audit_source(request, work.folder)
    yield before
    after, report = audit_result(request, step, work.folder)
    yield after
    write_card(out, request, work.planned, command, steps=step, evals=(before, after))
    if report.verdict is not None:
        reasons = "; ".join(reason.message for reason in report.verdict.reasons)
        yield Noted(message=f"the audit of the result: {report.verdict.outcome}: {reasons}")
    return report.exit_code or 0
