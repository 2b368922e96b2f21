"""Read config.json as transformers reads it, and name its dtype, attention and counts.

A value that transformers itself refuses, and whose meaning is plain ("torch.bfloat16", "bf16"), is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.weight_files import TensorInfo, read_json_object

# How transformers 5 writes the numbers that JSON lacks (PreTrainedConfig._encode_special_floats).
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_DTYPE_KEYS = ("dtype", "torch_dtype")  # the former wins, as in transformers
_DTYPE_WORDS = {
    "half": "float16",
    "fp16": "float16",
    "float": "float32",
    "fp32": "float32",
    "bf16": "bfloat16",
    "double": "float64",
}
OTHER_CONFIG = "config.json does not belong to these weights: give the config.json that was saved with them"
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_ATTENTION_ANYWHERE = ("eager", "sdpa")  # kinds of attention that need no package and no kind of GPU


def read_config(path: Path) -> dict[str, Any]:
    """Return a parsed config.json: infinities as numbers, dtypes by their plain names.

    Raises:
        BadInputError: as read_json_object.
    """
    found = read_json_object(path)
    try:
        return _plain_dtypes(_decode_floats(found))
    except RecursionError as error:
        raise BadInputError("is nested too deeply", where=str(path)) from error


def dtype_name(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that a configuration names for its model, or for its text model: "bfloat16"; None if none."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in _DTYPE_KEYS:
            if isinstance(found := part.get(key), str):
                return found
    return None


def attention_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of attention that a configuration asks for and that not every machine has."""
    found: dict[str, None] = {}
    for key, value in config.items():
        if key in _ATTENTION_KEYS:
            asked = value.values() if isinstance(value, Mapping) else (value,)
            found.update((str(name), None) for name in asked if name is not None and name not in _ATTENTION_ANYWHERE)
        elif isinstance(value, Mapping):
            found.update(dict.fromkeys(attention_names(value)))
    return tuple(found)


def without_foreign_attention(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that leaves the kind of attention to transformers, unless it asks for eager or sdpa.

    Transformers then takes sdpa if the model's class has it, else eager. Each kind computes the same up to rounding.
    """
    return {
        key: without_foreign_attention(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _ATTENTION_KEYS or value in _ATTENTION_ANYWHERE
    }


def _decode_floats(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(tag := value.get("__float__"), str) and tag in _FLOATS:
            return _FLOATS[tag]
        return {key: _decode_floats(inner) for key, inner in value.items()}
    return [_decode_floats(inner) for inner in value] if isinstance(value, list) else value


def _plain_dtypes(config: dict[str, Any]) -> dict[str, Any]:
    """Spell dtypes as transformers reads them, here and in nested configurations; drop "auto" and nonsense."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key not in _DTYPE_KEYS:
            found[key] = _plain_dtypes(value) if isinstance(value, dict) else value
            continue
        spelled = value.get("") if isinstance(value, dict) else value  # by module: transformers takes the main one
        if isinstance(spelled, str):
            name = spelled.strip().removeprefix("torch.")
            spelled = None if name == "auto" else _DTYPE_WORDS.get(name, name)
        if spelled is not None:
            found[key] = spelled
    return found


def check_counts(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> None:
    """Refuse a model far larger than its weights: it would take hours or all memory to build, and cannot be loaded."""
    nested = [value for value in config.values() if isinstance(value, Mapping)]
    longest = max((side for info in tensors.values() for side in info.shape), default=0)
    limits = {**dict.fromkeys(_DEPTHS, len(tensors)), "num_labels": longest}
    for part in (config, *nested):
        for key, limit in limits.items():
            count = part.get(key)
            if isinstance(count, (int, float)) and count > limit:
                raise BadInputError(
                    f"says {key} = {printable(str(count), limit=40)}, more than the weight files have room for",
                    where=f"{where}/config.json",
                    mend=OTHER_CONFIG,
                )
