"""A training from its request to its checkpoint, as an iterator of events. Shows nothing, stores no run.

Not here: the loss and the steps (trainer.py), what is trained on (data.py), what is written (output.py, card.py).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from quail_audit.core.clock import utc_now
from quail_audit.core.errors import UsageError
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainingPlanned, TrainingStarted
from quail_audit.schema.requests import TrainRequest
from quail_train.objectives.presets import preset_named
from quail_train.training.plan import decide, names_at_risk, read_data, refuse_quantized
from quail_train.training.steps import make_steps
from quail_train.training.work import Stop, Work

Events = Generator[Event, None, None]


def train(request: TrainRequest, run_id: str, command: tuple[str, ...], stop: Stop, folder: Path) -> Events:
    """Train as the request says, and write the result to request.out.

    What can be refused is refused first: objective, scheme, layers, device, folders and data, before a step is made.

    Args:
        request: what to train.
        run_id: of the run.
        command: that repeats it, for the record.
        stop: how to end it early.
        folder: of the run; audits that are asked for get folders in it.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield TrainingStarted.of(request, run_id, command=command)
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.schemes.bitsandbytes import bitsandbytes
    from quail_audit.engine.schemes.registry import scheme_named

    bitsandbytes()  # the Trainer imports it, and not as quietly
    from quail_train.data.batches import plan
    from quail_train.layers import select_layers
    from quail_train.training.arguments import check_resumable, refuse_on_shards, shares, trainer_arguments
    from quail_train.training.evaluation import evaluation_for
    from quail_train.training.model import load_source, refuse_other_tokenizer

    preset = preset_named(request.objective)
    scheme = scheme_named(request.scheme)
    parts = shares(request)
    check_resumable(request)
    at_risk = names_at_risk(request)
    pair = open_pair(request.original, request.unlearned)
    refuse_quantized(pair)
    layers = select_layers(pair.layers, request.layers, at_risk)
    source = pair.unlearned if request.init == "unlearned" else pair.original
    refuse_other_tokenizer(pair)
    model, tokenizer, notes = load_source(source, pair, request)
    data = read_data(request, preset, pair, model, tokenizer)
    planned = plan(
        data,
        batch_size=request.batch_size,
        epochs=request.epochs,
        max_steps=request.max_steps,
        processes=parts,
        seed=request.seed,
    )
    arguments = trainer_arguments(request, batch_size=planned.batch_size, steps=planned.steps)
    refuse_on_shards(request, preset, arguments)
    if preset.saliency and arguments.weight_decay:
        raise UsageError(
            "weight decay would move the rows that are to stay",
            where="--weight-decay",
            mend=f"Leave it out with the objective {preset.name}",
        )
    for note in (*pair.notes, *notes, *data.notes):
        yield Noted(message=note)

    objective, announced = decide(request, preset, scheme, pair, source, layers, data, planned)
    yield announced
    evaluation = evaluation_for(request, pair, round(len(data.forget) / planned.batch_size))
    work = Work(request, preset, objective, scheme, pair, source, layers, tokenizer, data, planned, evaluation, folder)
    step = yield from make_steps(work, model, arguments, stop)
    del model
    exit_code = yield from _say_what_it_is(request, announced, command, step, folder)
    yield RunFinished(finished=utc_now(), exit_code=exit_code)


def _say_what_it_is(
    request: TrainRequest, planned: TrainingPlanned, command: tuple[str, ...], step: int, folder: Path
) -> Generator[Event, None, int]:
    """Write the model card; audit the result where it is asked for, and write the card again with its scores.

    Returns:
        The exit code: the audit's, 0 without one.
    """
    from quail_train.output.training_card import write_card
    from quail_train.training.processes import is_main_process

    if not is_main_process():
        return 0
    write_card(Path(request.out), request, planned, command, steps=step, evals=())
    if not request.audit:
        return 0
    from quail_train.training.audits import before_and_after

    evals = []
    for scores, report in before_and_after(request, step, folder):
        evals.append(scores)
        audited = report
        yield scores
    write_card(Path(request.out), request, planned, command, steps=step, evals=tuple(evals))
    if audited.verdict is not None:
        reasons = "; ".join(reason.message for reason in audited.verdict.reasons)
        yield Noted(message=f"the audit of the result: {audited.verdict.outcome}: {reasons}")
    return audited.exit_code or 0
