"""Quantize both checkpoints with a calibrated scheme's backend, and measure the result.

Both are quantized on the same samples. A backend's checkpoints lie in a scratch folder, which goes with the audit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.untrusted import printable
from quail_audit.engine.audit.layers import measure_each_layer
from quail_audit.engine.audit.scheme_failures import ActiveSchemes
from quail_audit.runs.journal import Entry
from quail_audit.schema.events.audit import LayerMeasured, LayerQuantized, WeightsMeasured
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events

if TYPE_CHECKING:
    from typing import Self

    import torch

    from quail_audit.engine.audit.kept_layers import Found
    from quail_audit.engine.audit.work import Side, Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.weights.sums import PairSums

SIDES: tuple[Side, ...] = ("original", "unlearned")
Rows = tuple[tuple[int, ...], ...]  # token ids, a row a sample


class KeptQuantized(Entry):
    """The events of quantizing both checkpoints, which themselves are not kept."""

    events: tuple[LayerQuantized | Noted, ...]
    left: tuple[str, ...]  # layers that the backend left in full precision

    @classmethod
    def of(cls, events: Sequence[Any], result: frozenset[str]) -> Self:
        """Return the entry."""
        return cls(events=tuple(events), left=tuple(sorted(result)))

    def replay(self) -> Generator[Event, None, frozenset[str]]:
        """Yield the events again; return the layers left in full precision."""
        yield from self.events
        return frozenset(self.left)


def measure_calibrated(pair: Pair, schemes: ActiveSchemes, work: Work) -> Events:
    """Quantize both checkpoints under every calibrated scheme, and measure their layers."""
    for scheme in schemes.calibrated:
        yield from schemes.run(scheme.name, _measure_scheme(scheme, pair, work), work.journal)


def _measure_scheme(scheme: CalibratedScheme, pair: Pair, work: Work) -> Events:
    """Compare each layer's update with what is left of it in the backend's checkpoints.

    A layer that the backend left is measured as what it is: its update survives whole. It has no codes, so it is no
    part of the summary.
    """
    from quail_audit.engine.audit.kept_layers import KeptLayer
    from quail_audit.engine.weights.statistics import summarize

    quantizing = _quantize_pair(scheme, pair, work)
    left = yield from work.journal.once(
        ("quantized", scheme.name), KeptQuantized, quantizing, again=not _is_measured(scheme, pair, work)
    )

    measure = partial(_measure_layer, scheme, left, pair, work)
    totals = yield from measure_each_layer(pair, work, KeptLayer, measure, key=(scheme.name,), but=left)
    total = totals[scheme.name]
    yield WeightsMeasured(scheme=scheme.name, summary=summarize(total.sums, total.layers))


def _is_measured(scheme: CalibratedScheme, pair: Pair, work: Work) -> bool:
    """Tell if the journal holds every layer and every arm of a scheme, so that nothing needs its checkpoints."""
    arms = SIDES if work.request.data is not None else ()
    return all(work.journal.holds("layer", scheme.name, layer.name) for layer in pair.layers) and all(
        work.was_asked(f"{side}/{scheme.name}") for side in arms
    )


def _quantize_pair(scheme: CalibratedScheme, pair: Pair, work: Work) -> Generator[Event, None, frozenset[str]]:
    """Let the scheme's backend quantize both checkpoints, one after the other, into work.quantized.

    Returns:
        The layers that the backend left in full precision.

    Raises:
        EnvironmentProblemError: the backend is not installed, or failed, and at which layer.
        BadInputError: a layer's Hessian cannot be used.
    """
    backend = scheme.backend(str(work.device))  # before any text is read
    rows = _calibration_rows(pair, work)
    made: dict[Side, Checkpoint] = {}
    for side in SIDES:
        made[side] = yield from _quantize(scheme, backend, side, rows, pair, work)
    work.quantized[scheme.name] = made
    rounded = made["original"].packed.keys() & made["unlearned"].packed.keys()
    left = frozenset(layer.name for layer in pair.layers if f"{layer.name}.weight" not in rounded)
    if left:
        names = ", ".join(sorted(left)[:3]) + (", …" if len(left) > 3 else "")
        library = backend.rpartition(".")[2]
        yield Noted(message=f"{scheme.name}: {library} left {len(left)} layers in full precision: {printable(names)}")
    return left


def _calibration_rows(pair: Pair, work: Work) -> Rows:
    """Cut the samples of this audit, once for both checkpoints.

    Raises:
        UsageError: there is nothing to calibrate on.
        BadInputError: the texts cannot be read, or are too few.
    """
    from quail_audit.engine.checkpoints.model.model_config import read_model_config
    from quail_audit.engine.forgetting.data.calibration_texts import cut_into_rows, read_calibration_texts
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer

    request = work.request
    texts = read_calibration_texts(request.calibration, request.data)
    tokenizer, _ = load_tokenizer(pair.original, pair.unlearned)
    return cut_into_rows(
        texts,
        tokenizer,
        samples=request.calibration_samples,
        window=read_model_config(pair.original.config).window,
        least=max(layer.shape[1] for layer in pair.layers),
        seed=request.seed,
    )


def _quantize(
    scheme: CalibratedScheme, backend: str, side: Side, rows: Rows, pair: Pair, work: Work
) -> Generator[LayerQuantized | Noted, None, Checkpoint]:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
    from quail_audit.engine.forgetting.models.export import write_model_folder
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
    from quail_audit.engine.schemes.backends.messages import Job, LayerStarted
    from quail_audit.engine.schemes.backends.process import run

    checkpoint = pair.original if side == "original" else pair.unlearned
    scratch = work.scratch
    model, folder = scratch.folder / f"{side}-{scheme.name}-source", scratch.folder / f"{side}-{scheme.name}"
    write_model_folder(checkpoint, load_tokenizer(checkpoint, pair.original)[0], model)
    job = Job(
        backend=backend,
        model=str(model),
        folder=str(folder),
        rows=rows,
        method=scheme.method,
        bits=scheme.bits,
        group_size=scheme.group_size,
        desc_act=scheme.desc_act,
        dtype=checkpoint.facts.dtypes[0],
        device=str(work.device),
        seed=work.request.seed,
    )
    index = 0
    for message in run(job, scratch, checkpoint.source):
        if isinstance(message, LayerStarted):
            index += 1
            total = max(index, len(pair.layers))
            yield LayerQuantized(scheme=scheme.name, side=side, layer=message.name, index=index, total=total)
        else:
            yield Noted(
                message=f"{scheme.name}: {printable(message.name)} of {checkpoint.source} was rounded to nearest, "
                "because too few of the samples reached it"
            )
    made = open_checkpoint(str(folder))
    made = replace(made, source=f"{checkpoint.source} at {scheme.name}")  # not a scratch folder
    if not made.packed:
        raise EnvironmentProblemError(f"{backend.rpartition('.')[2]} rounded no layer", where=checkpoint.source)
    return made


def _measure_layer(
    scheme: CalibratedScheme, left: frozenset[str], pair: Pair, work: Work, index: int, layer: Layer
) -> Generator[Event, None, Found]:
    from quail_audit.engine.weights.statistics import layer_detail, layer_statistics

    original, unlearned = pair.read(layer)  # freed on return, so that two layers are never in memory
    made = None if layer.name in left else work.quantized[scheme.name]
    sums = _sums(scheme, layer, original, unlearned, made)
    limits = work.policy.limits.layer_limits(scheme.name, layer.name)
    measured = layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role, limits=limits)
    detail = layer_detail(sums)
    if layer.name in left:
        state = "untouched" if measured.survival is None else "carried"
        measured = measured.model_copy(update={"overlap": None, "state": state, "at_risk": False})
        detail = None
    event = LayerMeasured(scheme=scheme.name, index=index, total=len(pair.layers), layer=measured, detail=detail)
    yield event
    return [(event, sums)]


def _sums(
    scheme: CalibratedScheme,
    layer: Layer,
    original: torch.Tensor,
    unlearned: torch.Tensor,
    made: dict[Side, Checkpoint] | None,
) -> PairSums:
    """Sum over a layer's weights and what the backend made of them; None: it left them as they are."""
    import torch

    from quail_audit.engine.schemes.backends.awq_scales import undo_scales
    from quail_audit.engine.schemes.rounded import RoundedMatrix
    from quail_audit.engine.weights.tensor_sums import sums_of_rounded

    if made is None:
        no_codes = torch.zeros_like(original, dtype=torch.uint8)
        rounded = [RoundedMatrix(no_codes, weight) for weight in (original, unlearned)]
    else:  # in units of the weights before any scaling
        rounded = [
            undo_scales(made[side].packed[f"{layer.name}.weight"].unpack(), made[side].folder, layer.name)
            for side in SIDES
        ]
    return sums_of_rounded(original, unlearned, *rounded, levels=scheme.levels)
