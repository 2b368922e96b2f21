"""Say which weights transformers ties, renames and leaves in full precision on loading.

Under transformers 5 its own functions answer. 4.47, the newest that auto-gptq works with, lacks them: there the same
rules answer, so that a checkpoint has the same layers under either.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# gamma and beta: what norms called their parameters when BERT was new; 4.47 still renames them in every checkpoint.
_OLD_NAMES = (("gamma", "weight"), ("beta", "bias"))


@functools.cache
def is_version_5() -> bool:
    """Tell whether the installed transformers has the functions that came with version 5."""
    return find_spec("transformers.core_model_loading") is not None


def tied_weights(model: PreTrainedModel) -> dict[str, str]:
    """Return parameter -> the parameter that it is tied to."""
    if is_version_5():
        tied: dict[str, str] = model.all_tied_weights_keys
        return tied
    first: dict[int, str] = {}
    return {
        name: source
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if (source := first.setdefault(id(parameter), name)) != name
    }


def modules_left(model: PreTrainedModel, skip_modules: Iterable[str] | None) -> list[str]:
    """Return patterns of the modules that stay in full precision when a model is quantized on loading.

    Args:
        model: the model without weights.
        skip_modules: patterns that replace the defaults: tied weights, the last module and the head.
    """
    kept_in_float32 = list(model._keep_in_fp32_modules or ())
    if is_version_5():
        from transformers.quantizers.base import HfQuantizer

        skipped = None if skip_modules is None else list(skip_modules)
        found: list[str] = HfQuantizer.get_modules_to_not_convert(model, skipped, kept_in_float32)
        return found
    if skip_modules is not None:
        return [*skip_modules, *kept_in_float32]
    tied = tied_weights(model)
    last = [name for name, _ in model.named_parameters()][-1]
    untyped: Any = model  # transformers 5 types this, 4.47 does not
    head = untyped.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if head is not None and module is head]
    left = {name.removesuffix(".weight") for name in (*tied, *tied.values(), last, *heads)}
    return [*left, *kept_in_float32]


def is_converted(module: str, left: Iterable[str]) -> bool:
    """Tell whether a module of this name is quantized if modules of these patterns are left alone."""
    if is_version_5():
        from transformers.quantizers.quantizers_utils import should_convert_module

        converts: bool = should_convert_module(module, list(left))
        return converts
    boundary = r"(?:(?<=\.)|(?=\.|$))"
    return not any(re.match(f"(?:{key}){boundary}", module) or module.endswith(key) for key in left)


def kept_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return the function from a parameter to the dtype that it is loaded in, if the model is loaded in another.

    Args:
        model: the model without weights, built in that dtype.
        dtype: dtype that the model is loaded in.
    """
    import torch

    own = {name: parameter.dtype for name, parameter in model.named_parameters(remove_duplicate=False)}
    if is_version_5():
        from transformers.core_model_loading import build_glob_alternation

        plan = model._get_dtype_plan(dtype)
        pattern = build_glob_alternation(list(plan))[0] if plan else None
        return lambda name: torch.float32 if pattern is not None and pattern.search(name) else own.get(name, dtype)
    kept = set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    return lambda name: dtype if kept.isdisjoint(name.split(".")) else torch.float32


def parameter_renaming(model: PreTrainedModel) -> Callable[[str], tuple[str, str]]:
    """Return the function from a stored name to (parameter's name, the pattern by which it is converted, or "")."""
    parameters = model.state_dict()
    prefix = model.base_model_prefix
    if not is_version_5():
        return lambda name: (_rename_as_4_47(name, parameters, prefix), "")

    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    conversions = get_model_conversion_mapping(model)
    converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
    renamings: list[Any] = [conversion for conversion in conversions if not isinstance(conversion, WeightConverter)]

    def rename(name: str) -> tuple[str, str]:
        renamed, converter = rename_source_key(name, renamings, converters, prefix, parameters)
        if renamed not in parameters and name in parameters:
            renamed, converter = rename_source_key(name, [], [], prefix, parameters)
        return renamed, converter or ""

    return rename


def _rename_as_4_47(name: str, parameters: Mapping[str, object], prefix: str) -> str:
    candidates = [name]
    candidates += [name.replace(old, new) for old, new in _OLD_NAMES if old in name]
    for candidate in candidates:
        for spelled in (candidate, f"{prefix}.{candidate}", candidate.removeprefix(f"{prefix}.")):
            if spelled in parameters:
                return spelled
    return name


def config_for_this_version(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed config.json in the words of the installed transformers.

    Version 5 writes `dtype` and `rope_parameters`; 4.47 reads neither, and would silently rotate by other angles.
    Version 5 reads both spellings, so there it is returned as it is.
    """
    if is_version_5():
        return dict(config)
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key == "dtype":
            found.setdefault("torch_dtype", value)
        elif key == "rope_parameters" and isinstance(value, Mapping) and "rope_theta" in value:
            scaling = dict(value)
            found["rope_theta"] = scaling.pop("rope_theta")
            if "partial_rotary_factor" in scaling:
                found["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
            if scaling.get("rope_type", "default") != "default":
                found["rope_scaling"] = scaling
        elif isinstance(value, Mapping):
            found[key] = config_for_this_version(value)
        else:
            found[key] = value
    return found
