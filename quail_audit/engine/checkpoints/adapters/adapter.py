"""Apply a LoRA adapter to its base, one module at a time, by PEFT itself.

PEFT's own layer is built around a single module and merged, so that ranks by pattern, rsLoRA, DoRA and the rest come
out bit for bit as `merge_and_unload` gives them on the whole model, which is never loaded.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapters.adapter_config import (
    MERGE_IT,
    changes_its_base,
    describe_unknown,
    read_lora_config,
    unknown_keys,
)
from quail_audit.engine.checkpoints.adapters.adapter_plan import (
    ANOTHER_BASE,
    PREFIX,
    SAMPLER,
    Change,
    Plan,
    cannot_merge_error,
    plan_changes,
)
from quail_audit.engine.checkpoints.model.architecture import Layout, model_without_weights
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles, read_json_object, short_list

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig  # 5 s to import
    from torch import nn

CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that fits its base.

    Attributes:
        folder: its folder.
        config: PEFT's configuration, as it applies to this base.
        files: its weights.
        changes_of: parameter of the base's model -> what changes it, in PEFT's order, each with the parameter's name
            there, which is another if it is tied.
        base_name: the base that it says it was trained on; may be empty.
        notes: what a reader of the result should know.
        base: the base's model on the meta device.
    """

    folder: Path
    config: LoraConfig
    files: WeightFiles
    changes_of: Mapping[str, tuple[tuple[Change, str], ...]]
    base_name: str
    notes: tuple[str, ...]
    base: nn.Module = field(repr=False)

    def apply(self, parameter: str, weight: torch.Tensor, read: Callable[[str], torch.Tensor | None]) -> torch.Tensor:
        """Merge the adapter into the base's weight, as it is stored there: same shape, same dtype.

        If the adapter leaves it alone, it is returned as it is; else the result is a new tensor.

        Args:
            parameter: its name in the base's model.
            weight: the base's weight.
            read: from the name of another parameter of the base to its weight; None if it has none.

        Raises:
            BadInputError: PEFT cannot merge this adapter.
        """
        for change, name in self.changes_of.get(parameter, ()):
            weight = self._apply(change, name, weight, read)
        return weight

    def _apply(
        self, change: Change, parameter: str, weight: torch.Tensor, read: Callable[[str], torch.Tensor | None]
    ) -> torch.Tensor:
        import torch

        if change.kind in ("lora", "parameters"):
            return self._merge(change, parameter, weight, read)
        if change.kind == "rows":
            (name,) = change.names
            return weight.index_copy(0, torch.tensor(change.rows), self.files.read(name).to(weight.dtype))
        return self.files.read(f"{PREFIX}{parameter}").to(weight.dtype, copy=True)

    def _merge(
        self, change: Change, parameter: str, weight: torch.Tensor, read: Callable[[str], torch.Tensor | None]
    ) -> torch.Tensor:
        import torch
        from peft import PeftModel, set_peft_model_state_dict

        path = change.module
        try:
            module = copy.deepcopy(self.base.get_submodule(path))
            for name, held in list(module.named_parameters()):
                values = weight if f"{path}.{name}" == parameter else read(f"{path}.{name}")
                _set_parameter(module, name, torch.zeros(held.shape) if values is None else values.clone())
            # PEFT starts its factors at random before they are loaded: the caller's random numbers stay as they were.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = PeftModel(_nest_module(path, module), self._config_of(change))
                stored = {name: self.files.read(name) for name in change.names}
                loaded: Any = set_peft_model_state_dict(model, stored)
                missing = [name for name in loaded.missing_keys if ".lora_" in name and SAMPLER not in name]
                if loaded.unexpected_keys or missing:
                    raise ValueError(
                        f"does not fit its configuration at {short_list([*loaded.unexpected_keys, *missing])}"
                    )
                merged = model.merge_and_unload().get_submodule(path)
        except BadInputError:
            raise
        except Exception as error:  # PEFT's kinds of LoRA may raise anything
            raise cannot_merge_error(self.folder, printable(path, limit=200), error) from error
        found: torch.Tensor = merged.get_parameter(parameter.removeprefix(f"{path}.")).data
        return found

    def _config_of(self, change: Change) -> LoraConfig:
        """Return the configuration for a model of nothing but one module."""
        by_module = change.kind == "lora"
        changes: dict[str, Any] = {
            "target_modules": [change.module] if by_module else [],
            "task_type": None,
            "bias": "none",
            **dict.fromkeys(
                ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
            ),
        }
        if hasattr(self.config, "trainable_token_indices"):
            changes["trainable_token_indices"] = None
        if by_module and hasattr(self.config, "target_parameters"):
            changes["target_parameters"] = None
        return replace(self.config, **changes)


def open_adapter(
    folder: Path,
    files: WeightFiles,
    base_config: Mapping[str, Any],
    base_tensors: Mapping[str, TensorInfo],
    base_layout: Layout,
) -> Adapter:
    """Read an adapter's configuration and find the base's parameters that it changes.

    Raises:
        BadInputError: it is not a LoRA, cannot be applied one module at a time, or does not fit the base.
    """
    path = folder / CONFIG_NAME
    values = read_json_object(path)
    config = read_lora_config(values, path)
    if not files.tensors:
        raise BadInputError("holds no tensors", where=str(folder), mend=ANOTHER_BASE)
    _refuse_impossible_ranks(config, files, path)
    base = model_without_weights(base_config, base_tensors, str(folder)) or _model_of(base_layout, base_tensors)
    _check_shapes(folder, files, base_tensors, base_layout)
    plan = plan_changes(folder, config, files.tensors, base)
    return Adapter(
        folder=folder,
        config=plan.config,
        files=files,
        changes_of=_changes_of(folder, plan, base, base_layout, base_tensors),
        base_name=str(values.get("base_model_name_or_path") or ""),
        notes=_notes(values, plan),
        base=base,
    )


def _notes(values: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    notes = []
    if plan.without_factors:
        notes.append(
            f"the adapter targets modules that it holds no factors for, so they are as in its base (was it saved in "
            f"part?): {short_list(plan.without_factors)}"
        )
    if unknown := unknown_keys(values):
        notes.append(describe_unknown(unknown))
    return tuple(notes)


def _changes_of(
    folder: Path, plan: Plan, base: nn.Module, layout: Layout, tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[tuple[Change, str], ...]]:
    """Return parameter -> its changes.

    Raises:
        BadInputError: a parameter that is changed cannot be read one by one, or is changed in ways that don't add up.
    """
    shapes = {name: tuple(held.shape) for name, held in base.named_parameters(remove_duplicate=False)}
    found: dict[str, list[tuple[Change, str]]] = {}
    unread = []
    for change in plan.changes:
        for name in change.parameters:
            parameter = name if name in layout.tensor_of else layout.parameter_of(name)
            if change.kind == "copy" and parameter != name and parameter in layout.tensor_of:
                continue  # another copy of the head unties it; what it was tied to stays
            tensor = layout.tensor_of.get(parameter or name)
            if tensor is None or tensors[tensor].shape != shapes[name]:
                if name not in layout.absent:
                    unread.append(name)
            elif change.kind != "lora" or not name.endswith(".bias") or _changes_bias(plan.config, change):
                found.setdefault(parameter or name, []).append((change, name))
    if unread:
        raise BadInputError(
            f"changes weights that are split or fused as transformers loads them: {short_list(unread)}",
            where=str(folder),
            mend=MERGE_IT,
        )
    if changes_its_base(plan.config):
        shared = [name for name, changes in found.items() if len(changes) > 1]
        if shared:
            raise BadInputError(
                f"changes weights twice that are tied in its base: {short_list(shared)}",
                where=str(folder),
                mend=MERGE_IT,
            )
    return {name: tuple(changes) for name, changes in found.items()}


def _changes_bias(config: LoraConfig, change: Change) -> bool:
    return bool(getattr(config, "lora_bias", False)) or any(".base_layer." in name for name in change.names)


def _refuse_impossible_ranks(config: LoraConfig, files: WeightFiles, path: Path) -> None:
    """Refuse ranks that no stored factor has: PEFT makes factors of the configured rank before it reads any.

    Raises:
        BadInputError: no stored factor has a side as long as a rank.
    """
    longest = max((side for info in files.tensors.values() for side in info.shape), default=0)
    pattern = config.rank_pattern  # a configuration may hold anything
    for rank in (config.r, *(pattern.values() if isinstance(pattern, dict) else ())):
        if isinstance(rank, int) and rank > longest:
            raise BadInputError(
                f"states a rank of {rank}; no stored factor has more than {longest}",
                where=str(path),
                mend="Copy or download the adapter again",
            )


def _check_shapes(folder: Path, files: WeightFiles, base_tensors: Mapping[str, TensorInfo], layout: Layout) -> None:
    """Refuse whole weights not as large as the base's, and factors of a matrix not as long as its sides."""
    for name, info in files.tensors.items():
        tensor = layout.tensor_of.get(_parameter_of(name, layout) or "")
        if tensor is None:
            continue  # PEFT will say more
        shape, found = base_tensors[tensor].shape, info.shape
        factor = next((factor for factor in (".lora_A.", ".lora_B.") if factor in name), None)
        if not name.endswith(".weight") or (factor and len(shape) != 2):
            fits = True  # biases change no weight, and convolutions are not rounded
        elif factor:
            fits = len(found) == 2 and found[1 if factor == ".lora_A." else 0] in shape
        else:
            fits = ".lora_" in name or found == shape
        if not fits:
            is_table = name.endswith(("embed_tokens.weight", "lm_head.weight", "wte.weight", "base_layer.weight"))
            is_resized = not factor and is_table and found[1:] == shape[1:]
            raise BadInputError(
                f"does not fit the base: {printable(name, limit=200)} is {list(found)}, for a weight of {list(shape)}",
                where=str(folder),
                mend=_resized(found[0]) if is_resized else ANOTHER_BASE,
            )


def _resized(rows: int) -> str:
    """Return what to do about an adapter whose base had another vocabulary."""
    return (
        f"If its base's vocabulary was resized to {rows} tokens, merge it there and audit the merged checkpoint: "
        f"base.resize_token_embeddings({rows}); "
        'PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained("merged"). '
        "Else name the ORIGINAL that it was trained on"
    )


def _parameter_of(name: str, layout: Layout) -> str | None:
    """Return the base's parameter that a tensor of the adapter belongs to by its name."""
    parts = name.removeprefix(PREFIX).split(".")
    for end in range(len(parts) - 1, 0, -1):
        parameter = layout.parameter_of(f"{'.'.join(parts[:end])}.weight")
        if parameter is not None:
            return parameter
    return None


def _model_of(layout: Layout, tensors: Mapping[str, TensorInfo]) -> nn.Module:
    """Return a model of linear layers and bare parameters, without weights, for a base that transformers lacks."""
    import torch
    from torch import nn

    root = nn.Module()
    for parameter, tensor in layout.tensor_of.items():
        *parents, leaf = parameter.split(".")
        shape = tensors[tensor].shape
        inner = root
        for depth, part in enumerate(parents):
            if not hasattr(inner, part):
                is_matrix = depth == len(parents) - 1 and leaf == "weight" and len(shape) == 2
                linear = nn.Linear(shape[1], shape[0], bias=False, device="meta") if is_matrix else nn.Module()
                inner.add_module(part, linear)
            inner = getattr(inner, part)
        inner.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False))
    return root


def _set_parameter(module: nn.Module, name: str, values: torch.Tensor) -> None:
    from torch import nn

    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Parameter(values, requires_grad=False))


def _nest_module(path: str, module: nn.Module) -> nn.Module:
    """Return a model of nothing but one module, under the name that it has in the whole."""
    from torch import nn

    *parents, last = path.split(".")
    root = inner = nn.Module()
    for part in parents:
        child = nn.Module()
        inner.add_module(part, child)
        inner = child
    inner.add_module(last, module)
    return root
