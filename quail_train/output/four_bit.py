"""Pack a checkpoint to bitsandbytes' 4 bits without the model in memory.

The files are those that transformers saves. For a carried checkpoint, whose codes are chosen already: packing only
stores them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_train.output.checkpoint import name_shards, replace_together, write_description, write_index

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.schemes.bitsandbytes import FourBit

SHARD_BYTES = 1 << 28  # held in memory; more only for a larger tensor


def write_four_bit_copy(
    folder: Path,
    source: Checkpoint,
    layers: Sequence[Layer],
    scheme: FourBit,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Write a folder that transformers loads in 4 bits without further settings.

    Args:
        folder: made if absent; files of the same names are replaced.
        source: checkpoint in full precision.
        layers: layers to pack; every other tensor is copied, to the last bit.
        scheme: nf4 or fp4.
        tokenizer: tokenizer to write; None if there is none.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    from transformers import BitsAndBytesConfig

    double = scheme.double_quantization
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": scheme.kind, "bnb_4bit_use_double_quant": double}
    config: dict[str, Any] = BitsAndBytesConfig(**settings).to_dict()  # type: ignore[no-untyped-call]
    with replace_together(folder) as unfinished:
        _write_shards(unfinished, _tensors(source, layers, scheme))
        write_description(unfinished, source, {"quantization_config": config}, tokenizer)


def _tensors(source: Checkpoint, layers: Sequence[Layer], scheme: FourBit) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of the copy, in the source's order; a packed weight is followed by what dequantizes it."""
    from bitsandbytes.functional import quantize_4bit

    from quail_audit.engine.schemes.bitsandbytes import BLOCK_SIZE

    matrix_of = {}
    for layer in layers:
        matrix = layer.matrix
        matrix_of[source.layout.tensor_of[matrix.parameter]] = matrix
    for name in source.names:
        if name not in matrix_of:
            yield name, source.read(name)
            continue
        matrix = matrix_of[name]
        packed, state = quantize_4bit(
            source.read_matrix(matrix).contiguous(),
            blocksize=BLOCK_SIZE,
            compress_statistics=scheme.double_quantization,
            quant_type=scheme.kind,
        )
        yield name, packed
        for part, value in state.as_dict(packed=True).items():
            yield f"{name}.{part}", value


def _write_shards(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    waiting: dict[str, torch.Tensor] = {}
    size_bytes = total = 0

    def write() -> None:
        shards.append(list(waiting))
        save_file(waiting, folder / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        waiting.clear()

    for name, tensor in tensors:
        own_bytes = tensor.numel() * tensor.element_size()
        if waiting and size_bytes + own_bytes > SHARD_BYTES:
            write()
            size_bytes = 0
        waiting[name] = tensor.contiguous()
        size_bytes, total = size_bytes + own_bytes, total + own_bytes
    write()
    named = name_shards(shards)
    for number, name in enumerate(named, start=1):  # their count is known only now
        (folder / f"{number}.safetensors").replace(folder / name)
    write_index(folder, named, total)
