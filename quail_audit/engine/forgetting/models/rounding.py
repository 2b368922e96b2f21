"""Round the layers of a loaded model as a scheme does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from quail_audit.core.errors import BadInputError
from quail_audit.engine.schemes.bitsandbytes import FourBit, Int8, bitsandbytes
from quail_audit.engine.schemes.interface import ByLayer

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.model.experts import Part
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.schema.figures import Execution


def round_layers(
    model: PreTrainedModel,
    scheme: Scheme | ByLayer | None,
    layers: Sequence[Layer],
    device: torch.device,
    computing: torch.dtype,
    where: str,
) -> tuple[Execution, str]:
    """Round layers of a model in place; return how they compute, and why if that is not the plain way.

    Args:
        model: a loaded model on the CPU.
        scheme: how to round; None: not at all.
        layers: the layers to round.
        device: device that the model will run on.
        computing: dtype that bitsandbytes' modules compute in.
        where: the checkpoint's folder, for messages.

    Raises:
        BadInputError: the model lacks a layer.
    """
    if scheme is None:
        return "full precision", ""
    absent = [layer.name for layer in layers if not _has_layer(model, layer)]
    if absent:
        raise BadInputError(
            f"the model that transformers makes of the checkpoint has no layer {absent[0]} ({len(absent)} are absent)",
            where=where,
        )
    _copy_parameters(model, {layer.part.parameter for layer in layers if layer.part is not None})
    if device.type == "cuda" and isinstance(scheme, FourBit):
        for layer in layers:
            if layer.part is not None:  # bitsandbytes has no module for experts that lie in one parameter
                _round_part(model, layer, layer.part, scheme)
                continue
            linear = _linear4bit(model.get_submodule(layer.name), scheme, computing, transposed=layer.transposed)
            model.set_submodule(layer.name, linear.to(device))
        return "bitsandbytes Linear4bit", ""
    for layer in layers:
        own = scheme.schemes[layer.name] if isinstance(scheme, ByLayer) else scheme
        if layer.part is not None:
            _round_part(model, layer, layer.part, own)
            continue
        module = model.get_submodule(layer.name)
        weight = _matrix(module, transposed=layer.transposed)
        rounded = own.deployed_weights(weight)
        # a new parameter, not new values: the weight may be tied to an embedding, which is not rounded
        module.weight = nn.Parameter(rounded.T.contiguous() if layer.transposed else rounded, requires_grad=False)
    if isinstance(scheme, FourBit):
        return "dequantized weights", (
            f"on {device.type} bitsandbytes' modules are slow or compute in bfloat16; the weights' values are the same"
        )
    if isinstance(scheme, Int8):
        return "dequantized weights", "the layers' inputs, which LLM.int8() rounds as well, are left as they are"
    return "dequantized weights", "the scheme has no modules of its own; the values are those it is deployed with"


def _has_layer(model: PreTrainedModel, layer: Layer) -> bool:
    try:
        if layer.part is not None:
            return isinstance(model.get_parameter(layer.part.parameter), torch.Tensor)
        return isinstance(model.get_submodule(layer.name).weight, torch.Tensor)
    except AttributeError:
        return False


def _copy_parameters(model: PreTrainedModel, names: Collection[str]) -> None:
    """Give the model its own copy of parameters that are changed in place: they may be mapped from their files."""
    for name in names:
        path, _, own = name.rpartition(".")
        copied = nn.Parameter(model.get_parameter(name).detach().clone(), requires_grad=False)
        setattr(model.get_submodule(path), own, copied)


def _round_part(model: PreTrainedModel, layer: Layer, part: Part, scheme: Scheme) -> None:
    """Round one matrix of a parameter that holds several, in place: experts are tied to nothing."""
    place = part.of(model.get_parameter(part.parameter).detach())
    rounded = scheme.deployed_weights((place.T if layer.transposed else place).contiguous())
    place.copy_(rounded.T if layer.transposed else rounded)


def _matrix(module: nn.Module, *, transposed: bool) -> torch.Tensor:
    """Return a layer's weights [outputs, inputs]."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - _has() saw to it
    return weight.detach().T.contiguous() if transposed else weight.detach()


def _linear4bit(module: nn.Module, scheme: FourBit, computing: torch.dtype, *, transposed: bool) -> nn.Module:
    """Return the module that transformers puts in a layer's place; moving it to a device quantizes its weights."""
    library = bitsandbytes()
    weight = _matrix(module, transposed=transposed)
    bias = getattr(module, "bias", None)
    linear: nn.Module = library.nn.Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        compute_dtype=computing,
        compress_statistics=scheme.double_quantization,
        quant_type=scheme.kind,
        device="meta",
    )
    linear.weight = library.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=scheme.double_quantization,
        quant_type=scheme.kind,
        module=linear,
    )
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
