"""Calibrated schemes in an audit: both checkpoints quantized by a backend on the same samples, and read back.

A backend's checkpoints lie in a scratch folder, which goes with the audit. Not here: the order of an audit (audit.py),
and what a backend is (schemes/backends).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.untrusted import printable
from quail_audit.core.values import Value
from quail_audit.engine.audit.layers import Layers
from quail_audit.engine.audit.scheme_failures import ActiveSchemes
from quail_audit.runs.journal import Journal, collecting
from quail_audit.schema.events.audit import LayerMeasured, LayerQuantized, WeightsMeasured
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.policy import Policy
from quail_audit.schema.requests import AuditRequest

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.backends.process import Scratch
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.schemes.rounded import RoundedMatrix
    from quail_audit.engine.weights.sums import PairSums


if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.schemes.backends.process import Scratch
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.weights.sums import PairSums

Side = Literal["original", "unlearned"]
SIDES: tuple[Side, ...] = ("original", "unlearned")
Rows = tuple[tuple[int, ...], ...]  # token ids, a row a sample


class KeptQuantized(Value):
    """What was said while both checkpoints were quantized. They themselves are not kept."""

    events: tuple[LayerQuantized | Noted, ...]
    left: tuple[str, ...]  # QuantizedPair.left


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

    def rounded(self, layer: Layer) -> tuple[RoundedMatrix, RoundedMatrix]:
        """A layer that is not left, of both sides, in units of the weights before any scaling."""
        return _rounded(self.original, layer), _rounded(self.unlearned, layer)


def calibration_rows(pair: Pair, request: AuditRequest) -> Rows:
    """The samples of this audit, cut once for both checkpoints.

    Raises:
        UsageError: there is nothing to calibrate on.
        BadInputError: the texts cannot be read, or are too few.
    """
    from quail_audit.engine.forgetting.data.calibration_texts import cut_into_rows, read_calibration_texts
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer

    texts = read_calibration_texts(request.calibration, request.data)
    tokenizer, _ = load_tokenizer(pair.original, pair.unlearned)
    window = pair.original.config.get("max_position_embeddings")
    return cut_into_rows(
        texts,
        tokenizer,
        samples=request.calibration_samples,
        window=window if isinstance(window, int) else None,
        least=max(layer.shape[1] for layer in pair.layers),
        seed=request.seed,
    )


def quantize_pair(
    scheme: CalibratedScheme,
    pair: Pair,
    rows: Rows,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
    journal: Journal,
) -> Generator[Event, None, QuantizedPair]:
    """Let the scheme's backend quantize both checkpoints, one after the other.

    Args:
        scheme: how.
        pair: both in full precision.
        rows: to calibrate both on.
        request: the audit's.
        device: that the backend computes on.
        scratch: where it writes; what is returned lies there.
        journal: keeps what was said; see kept_quantized.

    Raises:
        EnvironmentProblemError: the backend is not installed, or failed, and at which layer.
        BadInputError: a layer's Hessian cannot be used.
    """
    backend = scheme.backend(device)
    said: list[LayerQuantized | Noted] = []
    sides = []
    for side in SIDES:
        quantizing = _quantize(scheme, backend, side, pair, rows, request, device, scratch)
        sides.append((yield from collecting(quantizing, (LayerQuantized, Noted), said)))
    original, unlearned = sides
    parameters = {layer.name: f"{layer.name}.weight" for layer in pair.layers}
    rounded = original.packed.keys() & unlearned.packed.keys()
    left = frozenset(name for name, parameter in parameters.items() if parameter not in rounded)
    if left:
        names = ", ".join(sorted(left)[:3]) + (", …" if len(left) > 3 else "")
        library = backend.rpartition(".")[2]
        note = Noted(message=f"{scheme.name}: {library} left {len(left)} layers in full precision: {printable(names)}")
        said.append(note)
        yield note
    journal.keep(KeptQuantized(events=tuple(said), left=tuple(sorted(left))), "quantized", scheme.name)
    return QuantizedPair(original, unlearned, left)


def kept_quantized(journal: Journal, scheme: CalibratedScheme, pair: Pair) -> KeptQuantized | None:
    """What was said while both checkpoints were quantized, where every layer was measured too; None where not."""
    from quail_audit.engine.audit.kept_layers import is_kept

    if not all(is_kept(journal, scheme.name, layer.name) for layer in pair.layers):
        return None
    return journal.find(KeptQuantized, "quantized", scheme.name)


def _quantize(
    scheme: CalibratedScheme,
    backend: str,
    side: Side,
    pair: Pair,
    rows: Rows,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
) -> Generator[LayerQuantized | Noted, None, Checkpoint]:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
    from quail_audit.engine.forgetting.models.export import write_model_folder
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
    from quail_audit.engine.schemes.backends.messages import Job, LayerStarted
    from quail_audit.engine.schemes.backends.process import run

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
    made = replace(made, source=f"{checkpoint.source} at {scheme.name}")  # not a scratch folder
    if not made.packed:
        raise EnvironmentProblemError(f"{backend.rpartition('.')[2]} rounded no layer", where=checkpoint.source)
    return made


def _rounded(made: Checkpoint, layer: Layer) -> RoundedMatrix:
    from quail_audit.engine.schemes.backends.awq_scales import undo_scales

    return undo_scales(made.packed[f"{layer.name}.weight"].unpack(), made.folder, layer.name)


def measure_quantized(
    scheme: CalibratedScheme,
    pair: Pair,
    left: frozenset[str],
    made: QuantizedPair | None,
    policy: Policy,
    journal: Journal,
) -> Generator[Event, None, list[LayerStatistics]]:
    """Hold each layer's update against what is left of it in the backend's checkpoints, one layer at a time.

    A layer that the backend left is measured as what it is: its update survives whole. It has no codes, so it is no
    part of the summary. One that the journal holds is not read again.

    Args:
        scheme: the backend's.
        pair: both in full precision.
        left: layers that the backend left in full precision.
        made: what it wrote; None where the journal holds every layer.
        policy: for the layers' states.
        journal: what was measured before, and where it is kept.
    """
    from quail_audit.engine.audit.kept_layers import keep_layer, kept_layer
    from quail_audit.engine.weights.statistics import summarize
    from quail_audit.engine.weights.sums import PairSums

    total = PairSums()
    layers: list[LayerStatistics] = []
    for index, layer in enumerate(pair.layers, start=1):
        found = kept_layer(journal, PairSums, scheme.name, layer.name)
        if found is None:
            assert made is not None  # noqa: S101 - see above
            found = [_measured(scheme, pair, layer, index, made, policy)]
        for event, sums in found:
            layers.append(event.layer)
            if layer.name not in left:
                total += sums
            yield event
        keep_layer(journal, found, scheme.name, layer.name)
    rounded = [measured for measured in layers if measured.name not in left]
    yield WeightsMeasured(scheme=scheme.name, summary=summarize(total, rounded))
    return layers


def _measured(
    scheme: CalibratedScheme, pair: Pair, layer: Layer, index: int, made: QuantizedPair, policy: Policy
) -> tuple[LayerMeasured, PairSums]:
    from quail_audit.engine.weights.statistics import layer_detail, layer_statistics

    original, unlearned = pair.read(layer)  # gone when this returns, so that never two layers are in memory
    sums = _sums(scheme, layer, original, unlearned, made)
    limits = policy.limits.of_layer(scheme.name, layer.name)
    measured = layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role, limits=limits)
    detail = layer_detail(sums)
    if layer.name in made.left:
        state = "untouched" if measured.survival is None else "carried"
        measured = measured.model_copy(update={"overlap": None, "state": state, "at_risk": False})
        detail = None
    event = LayerMeasured(scheme=scheme.name, index=index, total=len(pair.layers), layer=measured, detail=detail)
    return event, sums


def _sums(
    scheme: CalibratedScheme, layer: Layer, original: torch.Tensor, unlearned: torch.Tensor, made: QuantizedPair
) -> PairSums:
    import torch

    from quail_audit.engine.schemes.rounded import RoundedMatrix
    from quail_audit.engine.weights.tensor_sums import sums_of_rounded

    if layer.name in made.left:
        no_codes = torch.zeros_like(original, dtype=torch.uint8)
        as_they_are = RoundedMatrix(no_codes, original), RoundedMatrix(no_codes, unlearned)
        return sums_of_rounded(original, unlearned, *as_they_are, levels=scheme.levels)
    return sums_of_rounded(original, unlearned, *made.rounded(layer), levels=scheme.levels)


QuantizedPairs = dict[str, QuantizedPair]  # calibrated scheme -> both checkpoints as its backend wrote them


def measure_calibrated(
    pair: Pair,
    attempts: ActiveSchemes,
    layers: Layers,
    policy: Policy,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
    arms: Sequence[str],
    journal: Journal,
) -> Generator[Event, None, QuantizedPairs]:
    """Quantize both checkpoints under every calibrated scheme, and measure their layers, which are added to layers.

    A scheme of which every layer and every arm is in the journal is not quantized again.
    """
    quantized: QuantizedPairs = {}
    for scheme in attempts.calibrated:
        own = [arm for arm in arms if arm.rpartition("/")[2] == scheme.name]
        work = _calibrated(pair, scheme, own, policy, request, device, scratch, journal)
        found = yield from attempts.work(scheme.name, work, journal)
        if found is None:
            continue
        layers[scheme.name], made = found
        if made is not None:
            quantized[scheme.name] = made
    return quantized


def _calibrated(
    pair: Pair,
    scheme: CalibratedScheme,
    arms: Sequence[str],
    policy: Policy,
    request: AuditRequest,
    device: str,
    scratch: Scratch,
    journal: Journal,
) -> Generator[Event, None, tuple[list[LayerStatistics], QuantizedPair | None]]:
    """Quantize both checkpoints under one scheme and measure their layers; no checkpoints where no arm needs them."""
    before = kept_quantized(journal, scheme, pair)
    if before is not None and all(journal.holds("arm", arm) for arm in arms):
        yield from before.events
        return (yield from measure_quantized(scheme, pair, frozenset(before.left), None, policy, journal)), None
    scheme.backend(device)  # before any text is read
    rows = calibration_rows(pair, request)
    made = yield from quantize_pair(scheme, pair, rows, request, device, scratch, journal)
    return (yield from measure_quantized(scheme, pair, made.left, made, policy, journal)), made
