"""Calibrated schemes in an audit: both checkpoints quantized by a backend on the same samples, and read back.

A backend's checkpoints lie in a scratch folder, which goes with the audit. Not here: the order of an audit (audit.py),
and what a backend is (schemes/backends).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quail_audit.errors import EnvironmentProblemError
from quail_audit.events import (
    AuditRequest,
    Event,
    LayerMeasured,
    LayerQuantized,
    LayerStatistics,
    Noted,
    WeightsMeasured,
)
from quail_audit.policy import Policy
from quail_audit.untrusted import printable

if TYPE_CHECKING:
    import torch

    from quail_audit.checkpoints.checkpoint import Checkpoint
    from quail_audit.checkpoints.pair import Layer, Pair
    from quail_audit.rounded import Rounded
    from quail_audit.schemes.backends.process import Scratch
    from quail_audit.schemes.calibrated import CalibratedScheme
    from quail_audit.weights.overlap import PairSums

Side = Literal["original", "unlearned"]
Rows = tuple[tuple[int, ...], ...]  # token ids, a row a sample


@dataclass(frozen=True, eq=False)
class QuantizedPair:
    """Both checkpoints as a backend wrote them.

    Attributes:
        original, unlearned: readable as any other checkpoint.
        left: layers that the backend left in full precision.
    """

    original: Checkpoint
    unlearned: Checkpoint
    left: frozenset[str]

    def rounded(self, layer: Layer) -> tuple[Rounded, Rounded]:
        """A layer that is not left, of both sides, in units of the weights before any scaling."""
        return _rounded(self.original, layer), _rounded(self.unlearned, layer)


def calibration_rows(pair: Pair, request: AuditRequest) -> Rows:
    """The samples of this audit, cut once for both checkpoints.

    Raises:
        UsageError: there is nothing to calibrate on.
        BadInputError: the texts cannot be read, or are too few.
    """
    from quail_audit.forgetting.arms import load_tokenizer
    from quail_audit.forgetting.calibration import calibration_texts, rows_of

    texts = calibration_texts(request.calibration, request.data)
    tokenizer, _ = load_tokenizer(pair.original, pair.unlearned)
    window = pair.original.config.get("max_position_embeddings")
    return rows_of(
        texts,
        tokenizer,
        samples=request.calibration_samples,
        window=window if isinstance(window, int) else None,
        least=max(layer.shape[1] for layer in pair.layers),
        seed=request.seed,
    )


def quantize_pair(
    scheme: CalibratedScheme, pair: Pair, rows: Rows, request: AuditRequest, device: str, scratch: Scratch
) -> Generator[Event, None, QuantizedPair]:
    """Let the scheme's backend quantize both checkpoints, one after the other.

    Args:
        scheme: how.
        pair: both in full precision.
        rows: to calibrate both on.
        request: the audit's.
        device: that the backend computes on.
        scratch: where it writes; what is returned lies there.

    Raises:
        EnvironmentProblemError: the backend is not installed, or failed, and at which layer.
        BadInputError: a layer's Hessian cannot be used.
    """
    backend = scheme.backend(device)
    original = yield from _quantize(scheme, backend, "original", pair, rows, request, device, scratch)
    unlearned = yield from _quantize(scheme, backend, "unlearned", pair, rows, request, device, scratch)
    parameters = {layer.name: f"{layer.name}.weight" for layer in pair.layers}
    rounded = original.packed.keys() & unlearned.packed.keys()
    left = frozenset(name for name, parameter in parameters.items() if parameter not in rounded)
    if left:
        names = ", ".join(sorted(left)[:3]) + (", …" if len(left) > 3 else "")
        library = backend.rpartition(".")[2]
        yield Noted(message=f"{scheme.name}: {library} left {len(left)} layers in full precision: {printable(names)}")
    return QuantizedPair(original, unlearned, left)


def _quantize(
    scheme: CalibratedScheme,
    backend: str,
    side: Side,
    pair: Pair,
    rows: Rows,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
) -> Generator[Event, None, Checkpoint]:
    from quail_audit.checkpoints.checkpoint import open_checkpoint
    from quail_audit.forgetting.arms import load_tokenizer
    from quail_audit.forgetting.calibration import write_model_folder
    from quail_audit.schemes.backends.job import Job, LayerStarted
    from quail_audit.schemes.backends.process import run

    checkpoint = pair.original if side == "original" else pair.unlearned
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
        device=device,
        seed=request.seed,
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
    if not made.packed:
        raise EnvironmentProblemError(f"{backend.rpartition('.')[2]} rounded no layer", where=checkpoint.source)
    return made


def _rounded(made: Checkpoint, layer: Layer) -> Rounded:
    from quail_audit.schemes.backends.scaling import unscaled

    return unscaled(made.packed[f"{layer.name}.weight"].unpack(), made.folder, layer.name)


def measure_quantized(
    scheme: CalibratedScheme, pair: Pair, made: QuantizedPair, policy: Policy
) -> Generator[Event, None, list[LayerStatistics]]:
    """Hold each layer's update against what is left of it in the backend's checkpoints, one layer at a time.

    A layer that the backend left is measured as what it is: its update survives whole. It has no codes, so it is no
    part of the summary.
    """
    from quail_audit.weights.overlap import PairSums, layer_detail, layer_statistics, summarize

    total = PairSums()
    layers: list[LayerStatistics] = []
    for index, layer in enumerate(pair.layers, start=1):
        original, unlearned = pair.read(layer)
        sums = _sums(scheme, layer, original, unlearned, made)
        limits = policy.limits.of_layer(scheme.name, layer.name)
        measured = layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role, limits=limits)
        detail = layer_detail(sums)
        if layer.name in made.left:
            state = "untouched" if measured.survival is None else "carried"
            measured = measured.model_copy(update={"overlap": None, "state": state, "at_risk": False})
            detail = None
        else:
            total += sums
        del original, unlearned  # before the next is read, so that never two layers are in memory
        layers.append(measured)
        yield LayerMeasured(scheme=scheme.name, index=index, total=len(pair.layers), layer=measured, detail=detail)
    rounded = [measured for measured in layers if measured.name not in made.left]
    yield WeightsMeasured(scheme=scheme.name, summary=summarize(total, rounded))
    return layers


def _sums(
    scheme: CalibratedScheme, layer: Layer, original: torch.Tensor, unlearned: torch.Tensor, made: QuantizedPair
) -> PairSums:
    import torch

    from quail_audit.rounded import Rounded
    from quail_audit.weights.overlap import sums_of_rounded

    if layer.name in made.left:
        no_codes = torch.zeros_like(original, dtype=torch.uint8)
        as_they_are = Rounded(no_codes, original), Rounded(no_codes, unlearned)
        return sums_of_rounded(original, unlearned, *as_they_are, levels=scheme.levels)
    return sums_of_rounded(original, unlearned, *made.rounded(layer), levels=scheme.levels)
