"""Find how the weights of a folder are packed, by its quantization_config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.model.architecture import transposed_parameters
from quail_audit.engine.checkpoints.packed import awq, bitsandbytes, compressed_tensors, gptq
from quail_audit.engine.checkpoints.packed.interface import MAKE_AGAIN, PackedFiles, PackedMatrix, packed_files
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles, read_json_object

_AUTO_GPTQ = "quantize_config.json"
_PLAIN_DTYPES = ("float64", "float32", "float16", "bfloat16", "bool")
_READERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], WeightFiles, str], dict[str, PackedMatrix]]]] = {
    "bitsandbytes": ("bitsandbytes", bitsandbytes.find_matrices),
    "gptq": ("GPTQ", gptq.find_matrices),
    "awq": ("AWQ", awq.find_matrices),
    "compressed-tensors": ("compressed-tensors", compressed_tensors.find_matrices),
}


# The last part, or a part, of the name of a tensor that only a packed matrix has.
_PACKED_PARTS = frozenset(
    {"qweight", "qzeros", "scales", "g_idx", "absmax", "quant_map", "nested_absmax", "SCB", "weight_packed"}
    | {"weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point", "quant_state", "W_q", "_data", "_scale"}
)
_MASKS = frozenset({"bias", "masked_bias", "position_ids", "mask", "attn_mask"})  # buffers of whole numbers
_ROUND_WHILE_COMPUTING = frozenset({"bitnet"})  # methods whose models round plain weights themselves


def find_packing(
    config: Mapping[str, Any], files: WeightFiles, folder: Path
) -> tuple[dict[str, Any], WeightFiles | PackedFiles, tuple[str, ...]]:
    """Return a configuration without its quantization_config, the weights as they are read, and notes.

    A quantization_config over plain weights is left from before they were merged or dequantized: it is passed over.

    Args:
        config: the parsed config.json.
        files: the stored tensors.
        folder: the checkpoint's folder.

    Raises:
        BadInputError: the weights are packed, and Quail does not read the format, or they don't fit it.
    """
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    quantization = config.get("quantization_config")
    packed = [name for name, info in files.tensors.items() if _is_packed(name, info)]
    if not quantization and packed and (folder / _AUTO_GPTQ).is_file():
        quantization = {"quant_method": "gptq", **read_json_object(folder / _AUTO_GPTQ)}  # before config.json had it
    if not quantization:
        return plain, files, ()
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if packed or method in _ROUND_WHILE_COMPUTING:
        where = str(folder / "config.json")
        return plain, open_packed({**config, "quantization_config": quantization}, files, where), ()
    named = printable(str(method), limit=60) if method else "an unnamed method"
    return (
        plain,
        files,
        (f"config.json says that it is quantized, by {named}, but its weights are plain: it is audited as plain",),
    )


def _is_packed(name: str, info: TensorInfo) -> bool:
    parts = name.split(".")
    if not _PACKED_PARTS.isdisjoint(parts):
        return True
    dtype = str(info.dtype).removeprefix("torch.")
    return len(info.shape) >= 2 and dtype not in _PLAIN_DTYPES and parts[-1] not in _MASKS


def open_packed(config: Mapping[str, Any], files: WeightFiles, where: str) -> PackedFiles:
    """Return the weights of a quantized folder as the weights that they stand for.

    Args:
        config: its config.json, with a quantization_config.
        files: the stored tensors.
        where: config.json, for messages.

    Raises:
        BadInputError: Quail does not read the format, or what is stored does not fit it.
    """
    quantization = config["quantization_config"]
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if not isinstance(method, str) or method not in _READERS:
        raise BadInputError(
            f"is quantized by {printable(str(method or 'an unnamed method'), limit=60)}; Quail reads "
            f"{', '.join(_READERS)} and GGUF files",
            where=where,
            mend="Give it in one of these formats, or the full-precision checkpoint",
        )
    words, read = _READERS[method]
    matrices = read(quantization, files, where)
    if not matrices:
        raise BadInputError(
            f"says that the weights are packed by {words}, and the weight files hold none that is",
            where=where,
            mend=MAKE_AGAIN,
        )
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    transposed = transposed_parameters(plain, files.tensors, where.removesuffix("/config.json"))
    return packed_files(f"{words}, {files.format}", files, matrices, transposed)
