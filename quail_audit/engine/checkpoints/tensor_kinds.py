"""Sort a checkpoint's tensors by their part in the model, and say what a scheme rounds of them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from quail_audit.engine.checkpoints.loaded_weights import LoadedWeights
from quail_audit.engine.checkpoints.model.architecture import model_without_weights
from quail_audit.engine.checkpoints.model.transformers_rules import tied_weights
from quail_audit.engine.checkpoints.packed.interface import PackedFiles
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.schema.inspection import ModulesLeft, RoundedBy, TensorsOfKind

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.schemes.calibrated import CalibratedScheme

LAYERS = "layers that schemes round"
LEFT = "embeddings, head and other matrices"
VECTORS = "norms, biases and other vectors"
UNREAD = "split or fused as transformers loads them"
UNUSED = "no part of the model"
_EXAMPLES = 2
_LEFT_BY_ALL = "loaders leave it in full precision"


def sort_tensors(checkpoint: Checkpoint) -> tuple[TensorsOfKind, ...]:
    """Return the model's tensors by their part in it, those that have one; an adapter's base's."""
    layout = checkpoint.layout
    rounded = {matrix.parameter for matrix in layout.rounded}
    parameter_of = {tensor: parameter for parameter, tensor in layout.tensor_of.items()}
    for made, conversion in layout.conversions.items():
        parameter_of.update(dict.fromkeys(conversion.names, made))
    kinds: dict[str, list[str]] = {kind: [] for kind in (LAYERS, LEFT, VECTORS, UNREAD, UNUSED)}
    for name in checkpoint.names:
        parameter = parameter_of.get(name)
        if parameter is None:
            loaded = layout.parameter_of(name)
            kinds[UNUSED if name in layout.unused else LEFT if loaded is not None else UNREAD].append(name)
        elif parameter in rounded:
            kinds[LAYERS].append(name)
        else:
            kinds[LEFT if len(checkpoint.info(name).shape) >= 2 else VECTORS].append(name)
    return tuple(_of_kind(checkpoint, kind, names) for kind, names in kinds.items() if names)


def adapter_tensors(checkpoint: Checkpoint) -> TensorsOfKind | None:
    """Return an adapter's own tensors; None if the checkpoint is no adapter."""
    if checkpoint.adapter is None:
        return None
    tensors = checkpoint.files.tensors
    dtypes = Counter(str(info.dtype).removeprefix("torch.") for info in tensors.values())
    return TensorsOfKind(
        kind="of the adapter",
        tensors=len(tensors),
        weights=sum(math.prod(info.shape) for info in tensors.values()),
        dtypes=tuple(dtype for dtype, _ in dtypes.most_common()),
        examples=tuple(tensors)[:_EXAMPLES],
    )


def _of_kind(checkpoint: Checkpoint, kind: str, names: list[str]) -> TensorsOfKind:
    whole = checkpoint.adapter_of or checkpoint
    packed = whole.files.matrices if isinstance(whole.files, PackedFiles) else {}
    stored: Counter[str] = Counter()
    loaded: Counter[str] = Counter()
    for name in names:
        weights = math.prod(checkpoint.info(name).shape)
        loaded[str(checkpoint.info(name).dtype).removeprefix("torch.")] += weights
        stored[packed[name].scheme if name in packed else _stored(whole, name)[1]] += weights
    return TensorsOfKind(
        kind=kind,
        tensors=len(names),
        weights=sum(stored.values()),
        dtypes=tuple(dtype for dtype, _ in stored.most_common()),
        examples=tuple(_stored(whole, name)[0] for name in names[:_EXAMPLES]),
        loaded=tuple(dtype for dtype, _ in loaded.most_common()),
    )


def _stored(whole: Checkpoint, name: str) -> tuple[str, str]:
    """Return a tensor's name and type in the files."""
    files = whole.files
    if isinstance(files, LoadedWeights):
        own = files.stored[name]
        return own, str(files.files.tensors[own].dtype).removeprefix("torch.")
    return name, str(whole.info(name).dtype).removeprefix("torch.")


def find_tied(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the parameters that are another one, if transformers knows the model."""
    whole = checkpoint.adapter_of or checkpoint
    model = model_without_weights(whole.config, whole.files.tensors, str(whole.folder))
    return () if model is None else tuple(f"{name} is {other}" for name, other in tied_weights(model).items())


def list_renamed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the tensors that are stored under another name than the model has, as "stored is name"."""
    whole = checkpoint.adapter_of or checkpoint
    stored = {parameter: _stored(whole, tensor)[0] for parameter, tensor in whole.layout.tensor_of.items()}
    return tuple(f"{tensor} is {parameter}" for parameter, tensor in stored.items() if tensor != parameter)


def rounded_by(checkpoint: Checkpoint, scheme: Scheme | CalibratedScheme) -> RoundedBy:
    """Return what a scheme rounds of the model, and which modules with a matrix it leaves."""
    layout = checkpoint.layout
    left: dict[tuple[str, str], list[int]] = defaultdict(list)
    layers = weights = 0
    for matrix in layout.rounded:
        rows, columns = matrix.shape_in(layout.shapes[matrix.parameter])
        if isinstance(scheme, Scheme) and (why := scheme.why_left_alone(rows, columns)):
            left[_numbered(matrix.module), why].append(rows * columns)
        else:
            layers += 1
            weights += rows * columns
    for module in layout.left:
        if own := _weights_of(checkpoint, module):  # a tied head has none of its own
            left[_numbered(module), _LEFT_BY_ALL].append(own)
    every = {name: math.prod(checkpoint.info(name).shape) for name in checkpoint.names if name not in layout.unused}
    return RoundedBy(
        scheme=scheme.name,
        layers=layers,
        weights=weights,
        share=weights / max(1, sum(every.values())),
        left=tuple(
            ModulesLeft(modules=name, count=len(sizes), weights=sum(sizes), why=why)
            for (name, why), sizes in left.items()
        ),
    )


def _weights_of(checkpoint: Checkpoint, module: str) -> int:
    layout = checkpoint.layout
    return sum(
        math.prod(shape)
        for parameter, shape in layout.shapes.items()
        if (parameter.rpartition(".")[0] == module or parameter == module)
        and (parameter in layout.tensor_of or parameter in layout.conversions)
    )


def _numbered(module: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "N", module)
