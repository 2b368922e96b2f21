"""Find how the weights of a folder are packed, by its quantization_config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.architecture import transposed_parameters
from quail_audit.engine.checkpoints.packed import awq, bitsandbytes, compressed_tensors, gptq
from quail_audit.engine.checkpoints.packed.interface import MAKE_AGAIN, PackedFiles, PackedMatrix, packed_files
from quail_audit.engine.checkpoints.weight_files import WeightFiles

_READERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], WeightFiles, str], dict[str, PackedMatrix]]]] = {
    "bitsandbytes": ("bitsandbytes", bitsandbytes.find_matrices),
    "gptq": ("GPTQ", gptq.find_matrices),
    "awq": ("AWQ", awq.find_matrices),
    "compressed-tensors": ("compressed-tensors", compressed_tensors.find_matrices),
}


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
