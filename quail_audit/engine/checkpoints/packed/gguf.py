"""Read a GGUF file as a checkpoint, with transformers' names and order of rows.

Values come from the gguf package and names, configuration and the undone permutations of query and key rows from
transformers, as it loads the same file with `gguf_file=`; codes go the same way. One tensor is mapped at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.model.architecture import (
    model_without_weights,
    silence_libraries,
    transposed_parameters,
)
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.checkpoints.packed.gguf_header import StoredTensor, read_header
from quail_audit.engine.checkpoints.packed.interface import PackedFiles, PackedMatrix, packed_files
from quail_audit.engine.checkpoints.weight_files import TensorInfo, short_list, unreadable_error
from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
_ONE = b"\x00\x3c"  # as a float16
_ZERO = b"\x00\x00"


@dataclass(frozen=True)
class _BlockEncoding:
    """A block encoding whose codes Quail reads.

    With every scale set to 1 and every offset to 0 a block dequantizes to its codes, less what is taken off them: the
    gguf package then knows the layout of the bits, and only where the scales lie is written here.

    Attributes:
        unit: (first byte in the block, bytes that mean a scale of 1 or an offset of 0).
        taken_off: what dequantizing subtracts from the codes. For q8_0 it is 127, as llama.cpp stores nothing below
            -127; should another tool store -128, its code is 255.
    """

    unit: tuple[tuple[int, bytes], ...]
    taken_off: int = 0


# Source of the places: ggml-common.h, block_q4_0 to block_q6_K. In q4_k and q5_k eight scales and eight minima of 6
# bits share 12 bytes; in q3_k a scale is 6 bits less 32.
_K_SCALES = b"\x01" * 4 + b"\x00" * 4 + b"\x01" * 4
_KINDS = {
    "Q4_0": _BlockEncoding(((0, _ONE),), 8),
    "Q4_1": _BlockEncoding(((0, _ONE), (2, _ZERO))),
    "Q5_0": _BlockEncoding(((0, _ONE),), 16),
    "Q5_1": _BlockEncoding(((0, _ONE), (2, _ZERO))),
    "Q8_0": _BlockEncoding(((0, _ONE),), 127),
    "Q2_K": _BlockEncoding(((0, b"\x01" * 16), (80, _ONE), (82, _ZERO))),
    "Q3_K": _BlockEncoding(((96, b"\x11" * 8 + b"\xaa" * 4), (108, _ONE)), 4),
    "Q4_K": _BlockEncoding(((0, _ONE), (2, _ZERO), (4, _K_SCALES))),
    "Q5_K": _BlockEncoding(((0, _ONE), (2, _ZERO), (4, _K_SCALES))),
    "Q6_K": _BlockEncoding(((192, b"\x01" * 16), (208, _ONE)), 32),
}
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, eq=False)
class GgufTensors:
    """The tensors of a GGUF file that are not packed. Implements Weights.

    Attributes:
        path: the file.
        tensors: name in the model -> shape and dtype.
        file_of: name in the model -> the file.
        size_bytes: bytes of the file.
        stored: name in the model -> (name in the file, where it lies).
        processor: transformers' own, which puts rows and values as its model has them.
        format: the format in words.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    file_of: Mapping[str, Path]
    size_bytes: int
    stored: Mapping[str, tuple[str, StoredTensor]] = field(repr=False)
    processor: Any = field(repr=False)
    format: str = "GGUF"

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as the model has it, in its own dtype. Raises as WeightFiles.read."""
        import torch

        values = torch.from_numpy(self.to_model_order(name, self.values(name)))
        return values.to(self.tensors[name].dtype)

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor's values in the order of the file: float32."""
        from gguf import GGMLQuantizationType, dequantize

        _, stored = self.stored[name]
        return dequantize(self.blocks(name), GGMLQuantizationType(stored.kind)).reshape(stored.shape)

    def codes(self, name: str) -> Bytes:
        """Return a packed tensor's codes in the order of the file: uint8 in the tensor's shape."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        _, stored = self.stored[name]
        quantization = GGMLQuantizationType(stored.kind)
        kind = _KINDS[quantization.name]
        blocks = self.blocks(name).reshape(-1, GGML_QUANT_SIZES[quantization][1]).copy()
        for start, unit in kind.unit:
            blocks[:, start : start + len(unit)] = np.frombuffer(unit, np.uint8)
        codes = dequantize(blocks, quantization) + np.float32(kind.taken_off)
        return codes.astype(np.int16).astype(np.uint8).reshape(stored.shape)

    def blocks(self, name: str) -> Bytes:
        """Return the bytes of a tensor, row by row: mapped, and released with the array."""
        _, stored = self.stored[name]
        try:
            with self.path.open("rb") as opened:
                data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise unreadable_error(self.path, OSError(str(error))) from error
        if stored.start + stored.size_bytes > len(data):
            raise BadInputError(f"{printable(name)} changed while it was being read", where=str(self.path))
        found = np.frombuffer(data, np.uint8, stored.size_bytes, stored.start)
        return found.reshape(*stored.shape[:-1], -1)

    def to_model_order(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Put what the file holds of a tensor in the order of the model's parameter: contiguous, and writable."""
        gguf_name, _ = self.stored[name]
        processed = self.processor.process(
            weights=array, name=gguf_name, tensor_key_mapping={}, parsed_parameters={"tensors": {}}
        )
        # GPT-2's head: transformers leaves it as it is
        return np.array(array if processed.name is None else processed.weights, order="C")


LEAST_TENSORS_PER_LAYER = 2  # attention and what follows it


def open_gguf(path: Path) -> tuple[dict[str, Any], PackedFiles]:
    """Return the configuration of the model in a GGUF file, as its config.json would have it, and its weights.

    Raises:
        BadInputError: it is not a GGUF file, is corrupt, or holds a model or an encoding that Quail does not read.
    """
    from gguf import GGMLQuantizationType

    architecture, stored = read_header(path)
    if not stored:
        raise BadInputError("holds no tensors", where=str(path))
    other = {
        name: GGMLQuantizationType(tensor.kind).name
        for name, tensor in stored.items()
        if GGMLQuantizationType(tensor.kind).name not in (*_KINDS, *_PLAIN)
    }
    if other:
        raise BadInputError(
            f"stores {short_list(list(other))} as {', '.join(sorted(set(other.values())))}; Quail reads "
            f"{', '.join(kind.lower() for kind in (*_PLAIN, *_KINDS))}",
            where=str(path),
        )
    config, processor, name_map = _read_with_transformers(path, architecture, stored)
    named = {name_map.get(name, name): (name, tensor) for name, tensor in stored.items()}
    if len(named) < len(stored):
        fused = [name for name in stored if named[name_map.get(name, name)][0] != name]
        raise BadInputError(
            f"holds weights that transformers fuses, as in a mixture of experts: {short_list(fused)}",
            where=str(path),
            mend="Give the checkpoint that it was made from, or one of another format",
        )
    tensors = {name: _tensor_info(tensor) for name, (_, tensor) in named.items()}
    transposed = transposed_parameters(config, tensors, str(path))
    plain = GgufTensors(
        path=path,
        tensors={name: _transpose(info) if name in transposed else info for name, info in tensors.items()},
        file_of=dict.fromkeys(tensors, path),
        size_bytes=path.stat().st_size,
        stored=named,
        processor=processor,
    )
    matrices = {
        name: PackedMatrix(
            scheme=f"gguf-{GGMLQuantizationType(tensor.kind).name.lower()}",
            info=tensors[name],
            parts=(name,),
            unpack=partial(_unpack, plain, name, name in transposed),
        )
        for name, (_, tensor) in named.items()
        if GGMLQuantizationType(tensor.kind).name in _KINDS and len(tensor.shape) == 2
    }
    return config, packed_files(plain.format, plain, matrices, transposed)


def _tensor_info(tensor: StoredTensor) -> TensorInfo:
    import torch
    from gguf import GGMLQuantizationType

    dtype = _PLAIN.get(GGMLQuantizationType(tensor.kind).name, "float32")
    # transformers computes with vectors, some of which it changes, in float32
    return TensorInfo(tensor.shape, getattr(torch, dtype if len(tensor.shape) > 1 else "float32"))


def _transpose(info: TensorInfo) -> TensorInfo:
    return TensorInfo(info.shape[::-1], info.dtype)


def _unpack(tensors: GgufTensors, name: str, transposed: bool) -> RoundedMatrix:
    import torch

    arrays = (tensors.codes(name), tensors.values(name))
    codes, values = (torch.from_numpy(tensors.to_model_order(name, array)) for array in arrays)
    return RoundedMatrix(
        codes=codes.T.contiguous() if transposed else codes, values=values.T.contiguous() if transposed else values
    )


def _read_with_transformers(
    path: Path, architecture: str, stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, Any], Any, Mapping[str, str]]:
    """Return the model's configuration, what puts tensors in its order, and gguf's names -> its names."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        load_gguf_checkpoint,
    )

    infos = {name: _tensor_info(tensor) for name, tensor in stored.items()}
    try:
        with silence_libraries():
            config: dict[str, Any] = load_gguf_checkpoint(str(path))["config"]  # type: ignore[no-untyped-call]
            model = model_without_weights(config, infos, str(path))
            if model is None:
                raise ValueError(f"it has no language model {architecture!r}")
            # without a depth in the metadata, transformers takes a whole model's, whose names would take seconds
            depth = read_model_config(model.config).layers or 0
            if depth * LEAST_TENSORS_PER_LAYER > len(stored):
                raise ValueError(f"{depth} layers are more than its {len(stored)} tensors are enough for")
            processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config)  # type: ignore[no-untyped-call]
            return config, processor, get_gguf_hf_weights_map(model, processor)
    except BadInputError:
        raise
    except Exception as error:  # libraries may raise anything if metadata make no sense
        raise BadInputError(
            f"holds no model that transformers can read: {printable(f'{type(error).__name__}: {error}', limit=300)}",
            where=str(path),
        ) from error
