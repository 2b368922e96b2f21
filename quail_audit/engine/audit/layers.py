"""Measure a layer at a time under every scheme that needs no calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import UsageError
from quail_audit.core.machine import usable_cores
from quail_audit.engine.audit.scheme_failures import ActiveSchemes
from quail_audit.schema.events.audit import LayerMeasured, WeightsMeasured
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.figures import LayerStatistics

if TYPE_CHECKING:
    from quail_audit.engine.audit.kept_layers import Found, KeptLayer
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.engine.weights.pair import MatrixPair
    from quail_audit.engine.weights.sums import PairSums


@dataclass
class Total:
    """A scheme's layers so far, and the sum of their sums."""

    sums: Any
    layers: list[LayerStatistics] = field(default_factory=list)


def measure_each_layer(
    pair: Pair,
    work: Work,
    kind: type[KeptLayer],
    measure: Callable[[int, Layer], Generator[Event, None, Found]],
    *,
    key: tuple[str, ...] = (),
    but: Collection[str] = (),
) -> Generator[Event, None, dict[str, Total]]:
    """Measure the layers of a pair, one at a time; one that the journal holds is not read again.

    Args:
        pair: the pair.
        work: the audit.
        kind: how a layer is kept.
        measure: takes a layer's number, from 1, and the layer.
        key: how the journal tells these layers from those of another scheme.
        but: layers that do not count for the totals.

    Returns:
        Scheme -> its total.
    """
    totals: dict[str, Total] = defaultdict(lambda: Total(kind.sums_type()))
    for index, layer in enumerate(pair.layers, start=1):
        found = yield from work.journal.once(("layer", *key, layer.name), kind, measure(index, layer))
        for event, sums in found:
            if layer.name not in but:
                totals[event.scheme].sums += sums
                totals[event.scheme].layers.append(event.layer)
    return totals


def measure_weights(
    pair: Pair, schemes: ActiveSchemes, work: Work
) -> Generator[Event, None, tuple[LayerStatistics, ...]]:
    """Read each layer once and measure it under every scheme that rounds it and looks at nothing else.

    Returns:
        The layers that were read, each under one scheme.

    Raises:
        UsageError: no scheme rounds any layer.
    """
    yield from _name_layers_left_alone(pair, schemes)
    if not schemes.data_free:
        return ()
    from quail_audit.engine.audit.kept_layers import KeptLayer
    from quail_audit.engine.weights.statistics import summarize

    measure = partial(_measure_layer, pair, schemes, work)
    totals = yield from measure_each_layer(pair, work, KeptLayer, measure)
    for scheme in schemes.data_free:
        total = totals[scheme.name]
        yield WeightsMeasured(scheme=scheme.name, summary=summarize(total.sums, total.layers))
    return tuple({layer.name: layer for total in totals.values() for layer in total.layers}.values())


def _measure_layer(
    pair: Pair, schemes: ActiveSchemes, work: Work, index: int, layer: Layer
) -> Generator[Event, None, Found]:
    """Measure one layer, whose weights are gone when this returns, so that never two are in memory."""
    from quail_audit.engine.weights.pair import MatrixPair
    from quail_audit.engine.weights.statistics import layer_detail, layer_statistics

    rounding = [scheme for scheme in schemes.data_free if not scheme.why_left_alone(*layer.shape)]
    original, unlearned = (weight.to(work.device) for weight in pair.read(layer))
    matrices = MatrixPair(original, unlearned, rounding, threads=usable_cores())
    found: Found = []
    for scheme in rounding:
        sums = yield from schemes.run(scheme.name, _sums_under(scheme, matrices), work.journal, layer.name)
        if sums is None:
            continue
        limits = work.policy.limits.layer_limits(scheme.name, layer.name)
        measured = layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role, limits=limits)
        total, detail = len(pair.layers), layer_detail(sums)
        event = LayerMeasured(scheme=scheme.name, index=index, total=total, layer=measured, detail=detail)
        found.append((event, sums))
        yield event
    return found


def _sums_under(scheme: Scheme, matrices: MatrixPair) -> Generator[Event, None, PairSums]:
    yield from ()  # a matrix is measured at once
    return matrices.sums_under(scheme)


def _name_layers_left_alone(pair: Pair, schemes: ActiveSchemes) -> Events:
    """Name the layers that a scheme leaves in full precision, as its library does; drop one that rounds none."""
    for scheme in schemes.data_free:
        reasons = {layer.name: why for layer in pair.layers if (why := scheme.why_left_alone(*layer.shape))}
        if not reasons:
            continue
        why = next(iter(reasons.values()))
        if len(reasons) == len(pair.layers):
            error = UsageError(
                f"{scheme.name} rounds none of the {len(reasons)} layers: {why}",
                where="--scheme",
                mend="Choose another scheme: quail schemes lists them",
            )
            yield from schemes.drop(scheme.name, error, pair.layers[0].name)
            continue
        names = ", ".join(list(reasons)[:3]) + (", …" if len(reasons) > 3 else "")
        share = f"{len(reasons)} of {len(pair.layers)} layers"
        yield Noted(message=f"{scheme.name} leaves {share} in full precision: {names} ({why})")
