"""Carry an update as a request says, from request to checkpoint, as an iterator of events.

Shows nothing and stores no run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.clock import utc_now
from quail_audit.schema.events.common import CheckpointSaved, RunFinished
from quail_audit.schema.events.cures import CureStarted
from quail_audit.schema.events.lines import Events
from quail_audit.schema.requests import CarryRequest

if TYPE_CHECKING:
    from quail_train.carry.plan import CarryWork


def carry(request: CarryRequest, run_id: str, command: tuple[str, ...]) -> Events:
    """Carry the update as the request says, and write the result to request.out.

    Everything that can be refused is refused before the first layer: scheme, layers, checkpoints.

    Args:
        request: what to carry.
        run_id: ID of the run.
        command: command that repeats it, for the record.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield CureStarted.of(request, run_id, command=command)
    from quail_train.carry.layers import carry_layers  # seconds to import, as is all that touches weights
    from quail_train.carry.plan import prepare_work
    from quail_train.output.carry_card import write_card

    work = yield from prepare_work(request)
    carried = yield from carry_layers(work)
    write_card(Path(request.out), request, carried, command)
    yield CheckpointSaved(folder=request.out, final=True)
    if request.copy_4bit is not None:
        _write_four_bit_copy(work, request.copy_4bit)
        yield CheckpointSaved(folder=request.copy_4bit, final=True)
    yield RunFinished(finished=utc_now(), exit_code=0)


def _write_four_bit_copy(work: CarryWork, folder: str) -> None:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_train.output.four_bit import write_four_bit_copy

    assert isinstance(work.scheme, FourBit)  # noqa: S101 - plan.py refused the others
    result = open_checkpoint(work.request.out)
    write_four_bit_copy(Path(folder), result, work.pair.layers, work.scheme, work.tokenizer)
