"""Read every tensor that is not measured as a layer: is it finite, and is it the same on both sides?

A checkpoint with a value that is NaN or infinite in any tensor that transformers keeps is refused, the reference too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.runs.journal import Entry
from quail_audit.schema.events.audit import OtherTensorsRead
from quail_audit.schema.events.lines import Events
from quail_audit.schema.figures import NAMES_KEPT, LayerStatistics, OtherTensors

if TYPE_CHECKING:
    from typing import Self

    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair

NAMES_SHOWN = 3  # of tensors that are not finite


@dataclass(frozen=True)
class Spoilt:
    """A tensor with values that are NaN or infinite.

    Attributes:
        name: the stored tensor's, or the layer's.
        source: the checkpoint, as the user named it.
        count: how many values.
        place: the tensor's in the model.
    """

    name: str
    source: str
    count: int
    place: int


class KeptOtherTensors(Entry):
    """The other tensors of a pair, all of them finite."""

    read: OtherTensorsRead

    @classmethod
    def of(cls, events: Sequence[Any], result: list[Spoilt]) -> Self | None:
        """Return the entry; None if a tensor is not finite, which ends the run."""
        return None if result else cls(read=events[0])

    def replay(self) -> Generator[OtherTensorsRead, None, list[Spoilt]]:
        """Yield the event; return that nothing is spoilt."""
        yield self.read
        return []


def read_other_tensors(pair: Pair, measured: Sequence[LayerStatistics], work: Work) -> Events:
    """Read each tensor that was not measured, once; refuse checkpoints of which any tensor is not finite.

    Args:
        pair: the checkpoints. Of the reference no layer was measured, so every tensor is read.
        measured: layers of which both sides were read already, each once.
        work: the audit.

    Raises:
        BadInputError: says how many values are NaN or infinite, in which tensors, on which side.
    """
    reading = _read(pair, _tensors_of(pair, measured))
    spoilt = yield from work.journal.once(("other tensors",), KeptOtherTensors, reading)
    _refuse([*_spoilt_layers(measured, pair), *spoilt], "tensors" if spoilt else "layers")


def _tensors_of(pair: Pair, measured: Sequence[LayerStatistics]) -> set[str]:
    """Return the tensors that hold nothing but measured layers: parameters, and stored tensors they are made of."""
    read = {layer.name for layer in measured}
    not_read = {layer.matrix.parameter for layer in pair.layers if layer.name not in read}
    found: set[str] = set()
    for parameter in {layer.matrix.parameter for layer in pair.layers} - not_read:
        found.add(parameter)
        for side in (pair.original, pair.unlearned):
            conversion = side.layout.conversions.get(parameter)
            found.update(() if conversion is None else conversion.names)
    return found


def _read(pair: Pair, measured: set[str]) -> Generator[OtherTensorsRead, None, list[Spoilt]]:
    """Compare the tensors of both sides, one at a time, then read those of the reference."""
    from quail_audit.engine.weights.whole_tensors import count_differing, count_nonfinite

    spoilt: list[Spoilt] = []
    ours, theirs = _kept_tensors(pair.original), _kept_tensors(pair.unlearned)
    count = identical = weights = differing = 0
    unmeasured = [_unmeasured_matrices(side) for side in (pair.original, pair.unlearned)]
    matrices: dict[str, int] = {}
    matrices_changed = 0
    changed: list[str] = []
    lacking: list[str] = []
    for place, name in enumerate(dict.fromkeys((*ours, *theirs))):
        if name in measured:
            continue
        found = []
        for side, names in ((pair.original, ours), (pair.unlearned, theirs)):
            stored = names.get(name) or _tied_tensor(name, side)
            tensor = None if stored is None else side.read(stored)
            found.append(tensor)
            if stored is not None and tensor is not None and (nonfinite := count_nonfinite(tensor)):
                spoilt.append(Spoilt(stored, side.source, nonfinite, place))
        first, second = found
        size = max(tensor.numel() for tensor in found if tensor is not None)
        if first is None or second is None:
            different, lacking = size, [*lacking, name]
        else:
            different = count_differing(first, second) if first.shape == second.shape else size
        count, weights, differing = count + 1, weights + size, differing + different
        identical += different == 0
        if any(name in names for names in unmeasured):
            matrices[name] = size
            matrices_changed += different
        if different:
            changed.append(name)
    if pair.retrain is not None:
        for place, stored in enumerate(_kept_tensors(pair.retrain).values()):
            if nonfinite := count_nonfinite(pair.retrain.read(stored)):
                spoilt.append(Spoilt(stored, pair.retrain.source, nonfinite, place))
    tensors = OtherTensors(
        count=count,
        weights=weights,
        identical=identical,
        changed=tuple(printable(name) for name in changed[:NAMES_KEPT]),
        weights_changed=differing,
        on_one_side=tuple(printable(name) for name in lacking[:NAMES_KEPT]),
        matrices=tuple(printable(name) for name in list(matrices)[:NAMES_KEPT]),
        matrix_weights=sum(matrices.values()),
        matrix_weights_changed=matrices_changed,
    )
    yield OtherTensorsRead(tensors=tensors)
    return spoilt


def _unmeasured_matrices(side: Checkpoint) -> set[str]:
    """Return the blocks' matrices that no scheme rounds here: parameters, and stored tensors that are made to them."""
    layout = side.layout
    loaded = {name: layout.parameter_of(name) for name in side.names}
    return {*layout.unmeasured, *(name for name, parameter in loaded.items() if parameter in layout.unmeasured)}


def _kept_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Return parameter -> stored name of all that transformers keeps, in model order.

    What it splits, fuses or ties has the name by which it is stored, and comes last.
    """
    kept = dict(checkpoint.layout.tensor_of)
    known = set(kept.values())
    others = [name for name in checkpoint.names if name not in known]
    layout = checkpoint.layout
    kept.update({name: name for name in others if layout.parameter_of(name) is not None or name in layout.unmeasured})
    kept.update({name: name for name in _kept_buffers([name for name in others if name not in kept], checkpoint)})
    return kept


def _kept_buffers(names: Sequence[str], checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the stored tensors that are loaded into a buffer of the model, such as the bias of a router."""
    from quail_audit.engine.checkpoints.model.architecture import model_without_weights
    from quail_audit.engine.checkpoints.model.transformers_rules import parameter_renaming

    if not names:
        return
    tensors = {name: checkpoint.info(name) for name in checkpoint.names}
    model = model_without_weights(checkpoint.config, tensors, str(checkpoint.folder))
    if model is None:
        return
    rename, loaded = parameter_renaming(model), model.state_dict()
    yield from (name for name in names if rename(name)[0] in loaded)


def _tied_tensor(name: str, side: Checkpoint) -> str | None:
    """Return the tensor that stands for a tied one that this side does not store, such as a head."""
    parameter = side.layout.parameter_of(name)
    return None if parameter is None else side.layout.tensor_of.get(parameter)


def _spoilt_layers(measured: Sequence[LayerStatistics], pair: Pair) -> Iterator[Spoilt]:
    order = {parameter: place for place, parameter in enumerate(_kept_tensors(pair.original))}
    for layer in measured:
        sides = ((layer.nonfinite_original, pair.original), (layer.nonfinite_unlearned, pair.unlearned))
        for count, side in sides:
            if count:
                yield Spoilt(layer.name, side.source, count, order.get(f"{layer.name}.weight", len(order)))


def _refuse(spoilt: Sequence[Spoilt], kind: str) -> None:
    if not spoilt:
        return
    names = list(dict.fromkeys(each.name for each in sorted(spoilt, key=lambda each: each.place)))
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    raise BadInputError(
        f"{sum(each.count for each in spoilt)} weights are NaN or infinite, in {len(names)} {kind}: {shown}",
        where=" and ".join(dict.fromkeys(each.source for each in spoilt)),
        mend="Such a model cannot be deployed: take a checkpoint from before it broke, or make it again. What was "
        "measured is in the run's folder",
    )
