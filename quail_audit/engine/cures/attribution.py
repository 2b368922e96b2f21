"""Find the layers that bring the memory back, by rounding parts of the model.

Each unit is rounded alone, and everything but it. What counts is the drop in forget NLL. Blocks and roles come first,
then the layers of a block and a role that both matter, likeliest first, as far as the budget goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError
from quail_audit.runs.folder import read_report
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.cures import AttributionPlanned, CureStarted, UnitKind, UnitMeasured
from quail_audit.schema.events.lines import Events
from quail_audit.schema.requests import AttributeRequest

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.cures.swapping import F64, SwappedModel

MATTERS = 0.05  # share of the drop: units that bring less alone are not looked into
SMALLEST_FALL = 0.01  # nats for each token: under it there is nothing to attribute


class Unit:
    """Layers that are rounded together."""

    def __init__(self, kind: UnitKind, name: str, layers: Sequence[Layer]) -> None:
        self.kind = kind
        self.name = name
        self.layers = tuple(layer.name for layer in layers)
        self.weights = sum(layer.weights for layer in layers)


def attribute(request: AttributeRequest, run_id: str, command: tuple[str, ...]) -> Events:
    """Measure each unit's share in the memory's return.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield CureStarted.of(request, run_id, command=command)
    model, layers, notes = open_swapped_model(request.run, request.scheme, batch_size=request.batch_size)
    for note in notes:
        yield Noted(message=note)
    started_s = time.monotonic()
    everything = frozenset(layer.name for layer in layers)
    full, rounded = model.measure_losses(()), model.measure_losses(everything)
    coarse = coarse_units(layers)
    yield AttributionPlanned(
        scheme=request.scheme,
        samples=len(full),
        nll_full=float(full.mean()),
        nll_rounded=float(rounded.mean()),
        units=len(coarse),
    )
    if full.mean() - rounded.mean() < SMALLEST_FALL:
        yield Noted(
            message=f"rounding to {request.scheme} does not bring the forget texts back (their loss falls by under "
            f"{SMALLEST_FALL} nats), so there is nothing to attribute"
        )
        yield RunFinished(finished=utc_now(), exit_code=0)
        return

    def is_spent() -> bool:
        passes = request.budget_passes is not None and model.passes >= request.budget_passes
        return passes or (request.budget_s is not None and time.monotonic() - started_s >= request.budget_s)

    def measure(units: Sequence[Unit], mode: Literal["alone", "spared"]) -> Iterator[UnitMeasured]:
        for unit in units:
            if is_spent():
                return
            losses = model.measure_losses(unit.layers if mode == "alone" else everything - set(unit.layers))
            yield _measured_unit(unit, mode, losses, full, rounded, model.passes, request.seed)

    alone: list[UnitMeasured] = []
    for event in measure(coarse, "alone"):
        alone.append(event)
        yield event
    fine = fine_units(layers, alone)
    for event in measure(fine, "alone"):
        alone.append(event)
        yield event
    # the strongest first, as the budget may end anywhere
    order = {(event.kind, event.unit): event.share for event in alone}
    strongest = sorted((*coarse, *fine), key=lambda unit: -order.get((unit.kind, unit.name), -1.0))
    yield from measure([unit for unit in strongest if (unit.kind, unit.name) in order], "spared")
    if is_spent():
        yield Noted(message=f"the budget is spent: {model.passes} passes over the forget texts")
    yield RunFinished(finished=utc_now(), exit_code=0)


def open_swapped_model(
    run: str, scheme_name: str, *, batch_size: int | None
) -> tuple[SwappedModel, tuple[Layer, ...], tuple[str, ...]]:
    """Return the audited pair's unlearned model, ready to be rounded in part; the pair's layers; and notes.

    Raises:
        QuailError: the run cannot be read, measured no forget texts, or its checkpoints are gone.
    """
    from quail_audit.engine.checkpoints.pair import open_pair
    from quail_audit.engine.cures.swapping import SwappedModel
    from quail_audit.engine.forgetting.measurable import read_data
    from quail_audit.engine.forgetting.metrics.nll import loss_texts
    from quail_audit.engine.forgetting.models.load import load_arm
    from quail_audit.engine.schemes.registry import scheme_named

    audited = read_report(Path(run)).request
    scheme = scheme_named(scheme_name)
    if audited.data is None:
        raise BadInputError(
            "the audit had no data, so there are no forget texts", where=run, mend="Audit with --data, then try again"
        )
    data = read_data(audited.data, metrics=None, max_samples=audited.max_samples, seed=audited.seed)
    forget = loss_texts(data, "forget")
    if not forget:
        raise BadInputError(
            "the data has no forget texts to measure the loss of",
            where=audited.data,
            mend="Add privleak/forget.json or verbmem/forget.json",
        )
    pair = open_pair(audited.original, audited.unlearned, None, audited.skip_modules)
    loaded = load_arm(
        pair.unlearned, None, layers=pair.layers, device=audited.device, dtype=audited.dtype, tokenizer_of=pair.original
    )
    return SwappedModel(pair, loaded, scheme, forget, batch_size=batch_size), pair.layers, (*pair.notes, *loaded.notes)


def coarse_units(layers: Sequence[Layer]) -> list[Unit]:
    """Return the blocks, then the roles; a layer in no block is only in its role."""
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    roles = dict.fromkeys(layer.role for layer in layers)
    return [
        *(Unit("block", str(block), [layer for layer in layers if layer.block == block]) for block in blocks),
        *(Unit("role", role, [layer for layer in layers if layer.role == role]) for role in roles),
    ]


def fine_units(layers: Sequence[Layer], coarse: Sequence[UnitMeasured]) -> list[Unit]:
    """Return the layers whose block and role matter, those of the largest product of shares first."""
    share = {(event.kind, event.unit): event.share for event in coarse}

    def expected_drop(layer: Layer) -> float:
        of_block = share.get(("block", str(layer.block)), 0.0) if layer.block is not None else 1.0
        of_role = share.get(("role", layer.role), 0.0)
        return of_block * of_role if min(of_block, of_role) >= MATTERS else 0.0

    likeliest = sorted((layer for layer in layers if expected_drop(layer) > 0.0), key=expected_drop, reverse=True)
    return [Unit("layer", layer.name, [layer]) for layer in likeliest]


def _measured_unit(
    unit: Unit, mode: Literal["alone", "spared"], losses: F64, full: F64, rounded: F64, passes: int, seed: int
) -> UnitMeasured:
    from quail_audit.engine.forgetting.bootstrap import interval

    part = full - losses if mode == "alone" else losses - rounded
    low, high = interval([part, full - rounded], share_of_fall, seed=seed, paired=True)
    return UnitMeasured(
        kind=unit.kind,
        unit=unit.name,
        layers=unit.layers,
        weights=unit.weights,
        mode=mode,
        nll=float(losses.mean()),
        share=float(share_of_fall(part, full - rounded)),
        low=low,
        high=high,
        passes=passes,
    )


def share_of_fall(part: F64, fall: F64, axis: int = -1) -> F64:
    """Return the part's mean over the whole drop's, along an axis; 0 for a resample that did not drop at all."""
    whole = fall.mean(axis=axis)
    found: F64 = np.divide(part.mean(axis=axis), whole, out=np.zeros_like(np.asarray(whole)), where=whole > 0)
    return found
