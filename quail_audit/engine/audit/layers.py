"""Measure a layer at a time under every scheme that needs no calibration."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.machine import usable_cores
from quail_audit.engine.audit.scheme_failures import ActiveSchemes
from quail_audit.runs.journal import Journal
from quail_audit.schema.events.audit import (
    LayerMeasured,
    WeightsMeasured,
)
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.policy import Policy

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.engine.weights.pair import MatrixPair
    from quail_audit.engine.weights.sums import PairSums

Layers = dict[str, list[LayerStatistics]]  # scheme -> its layers


def measure_weights(
    pair: Pair, attempts: ActiveSchemes, policy: Policy, device: torch.device, journal: Journal
) -> Generator[Event, None, Layers]:
    """Read each layer once and measure it under every scheme that rounds it and looks at nothing else.

    Raises:
        BadInputError: weights that are not finite, after every layer has been measured.
        UsageError: no scheme rounds any layer.
    """
    from quail_audit.engine.audit.kept_layers import keep_layer, kept_layer
    from quail_audit.engine.weights.pair import MatrixPair
    from quail_audit.engine.weights.statistics import layer_detail, layer_statistics, summarize
    from quail_audit.engine.weights.sums import PairSums

    layers: Layers = {scheme.name: [] for scheme in attempts.data_free}
    totals = {scheme.name: PairSums() for scheme in attempts.data_free}
    yield from _say_what_is_left_alone(pair, attempts)
    if not attempts.data_free:
        return layers
    for index, layer in enumerate(pair.layers, start=1):
        before = kept_layer(journal, PairSums, layer.name)
        if before is not None:
            for event, sums in before:
                totals[event.scheme] += sums
                layers[event.scheme].append(event.layer)
                yield event
            continue
        rounding = [scheme for scheme in attempts.data_free if not scheme.why_left_alone(*layer.shape)]
        original, unlearned = (weight.to(device) for weight in pair.read(layer))
        matrices = MatrixPair(original, unlearned, rounding, threads=usable_cores())
        found: list[tuple[LayerMeasured, PairSums]] = []
        for scheme in rounding:
            under = yield from attempts.work(scheme.name, _sums_under(scheme, matrices), journal, layer.name)
            if under is None:
                continue
            totals[scheme.name] += under
            limits = policy.limits.of_layer(scheme.name, layer.name)
            measured = layer_statistics(under, name=layer.name, block=layer.block, role=layer.role, limits=limits)
            layers[scheme.name].append(measured)
            event = LayerMeasured(
                scheme=scheme.name,
                index=index,
                total=len(pair.layers),
                layer=measured,
                detail=layer_detail(under),
            )
            found.append((event, under))
            yield event
        del original, unlearned, matrices  # before the next is read, so that never two layers are in memory
        if len(found) == len(rounding):  # one at which a scheme failed is measured again, and the failure said again
            keep_layer(journal, found, layer.name)
    for scheme in attempts.data_free:
        yield WeightsMeasured(scheme=scheme.name, summary=summarize(totals[scheme.name], layers[scheme.name]))
    measured_once = {layer.name: layer for scheme in attempts.data_free for layer in layers[scheme.name]}
    refuse_nonfinite(tuple(measured_once.values()), pair)
    return layers


def _sums_under(scheme: Scheme, matrices: MatrixPair) -> Generator[Event, None, PairSums]:
    yield from ()  # a matrix is measured at once
    return matrices.sums_under(scheme)


def _say_what_is_left_alone(pair: Pair, attempts: ActiveSchemes) -> Events:
    """Name the layers that a scheme leaves in full precision, as its library does; give up one that rounds none."""
    for scheme in attempts.data_free:
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
            yield from attempts.give_up(scheme.name, error, pair.layers[0].name)
            continue
        names = ", ".join(list(reasons)[:3]) + (", …" if len(reasons) > 3 else "")
        share = f"{len(reasons)} of {len(pair.layers)} layers"
        yield Noted(message=f"{scheme.name} leaves {share} in full precision: {names} ({why})")


def refuse_nonfinite(layers: Sequence[LayerStatistics], pair: Pair) -> None:
    spoilt = [layer for layer in layers if layer.nonfinite_original or layer.nonfinite_unlearned]
    if not spoilt:
        return
    original = sum(layer.nonfinite_original for layer in spoilt)
    unlearned = sum(layer.nonfinite_unlearned for layer in spoilt)
    sides = [(original, pair.original.source), (unlearned, pair.unlearned.source)]
    where = " and ".join(source for count, source in sides if count)
    names = ", ".join(layer.name for layer in spoilt[:3]) + (", …" if len(spoilt) > 3 else "")
    raise BadInputError(
        f"{original + unlearned} weights are NaN or infinite, in {len(spoilt)} layers: {names}",
        where=where,
        mend="Such a model cannot be deployed; the other layers were measured and are in the run's folder",
    )
