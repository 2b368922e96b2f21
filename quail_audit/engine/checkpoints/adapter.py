"""Apply a LoRA adapter to its base, one weight at a time, by PEFT itself.

PEFT's own layer is built around a single weight and merged, so that ranks by pattern, rsLoRA, DoRA and the rest come
out bit for bit as `merge_and_unload` gives them on the whole model, which is never loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.architecture import Layout, module_with_weight
from quail_audit.engine.checkpoints.weight_files import TensorInfo, WeightFiles, read_json_object, short_list

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig  # 5 s to import

CONFIG_NAME = "adapter_config.json"
_PREFIX = "base_model.model."
# Adapters of these kinds change more than one weight at a time, or another base.
_UNSUPPORTED = ("layer_replication", "target_parameters", "megatron_config", "use_bdlora")


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that fits its base.

    Attributes:
        folder: its folder.
        config: PEFT's configuration, as trained.
        files: its weights.
        tensors_of: parameter of the base's model -> (module's name in the adapter, its tensors there).
        base_name: the base that it says it was trained on; may be empty.
    """

    folder: Path
    config: LoraConfig
    files: WeightFiles
    tensors_of: Mapping[str, tuple[str, tuple[str, ...]]]
    base_name: str

    def apply(self, parameter: str, weight: torch.Tensor, transposed: bool) -> torch.Tensor:
        """Merge the adapter into the base's weight, as it is stored there: same shape, same dtype.

        If the adapter leaves it alone, it is returned as it is; else the result is a new tensor.

        Raises:
            BadInputError: PEFT cannot merge this adapter.
        """
        if parameter not in self.tensors_of:
            return weight
        module, names = self.tensors_of[parameter]
        if any(".lora_" in name for name in names):
            return self._merge(module, names, weight, transposed)
        whole = [name for name in names if name.endswith(".weight")]
        return self.files.read(whole[-1]).to(weight.dtype, copy=True) if whole else weight

    def _merge(self, path: str, names: tuple[str, ...], weight: torch.Tensor, transposed: bool) -> torch.Tensor:
        import torch
        from peft import PeftModel, set_peft_model_state_dict

        self._refuse_impossible_ranks()
        config = replace(
            self.config,
            target_modules=[path],
            exclude_modules=None,
            layers_to_transform=None,
            layers_pattern=None,
            modules_to_save=None,
            trainable_token_indices=None,
            bias="none",
        )
        try:
            # PEFT starts its factors at random before they are loaded: the caller's random numbers stay as they were.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = PeftModel(_nest_module(path, module_with_weight(weight.clone(), transposed)), config)
                stored = {name: self.files.read(name) for name in names}
                loaded: Any = set_peft_model_state_dict(model, stored)
                missing = [name for name in loaded.missing_keys if ".lora_" in name]
                if loaded.unexpected_keys or missing:
                    raise ValueError(
                        f"does not fit its configuration at {short_list([*loaded.unexpected_keys, *missing])}"
                    )
                merged: torch.Tensor = model.merge_and_unload().get_submodule(path).weight.data
        except BadInputError:
            raise
        except Exception as error:  # PEFT's kinds of LoRA may raise anything
            raise BadInputError(
                f"PEFT cannot merge it into {printable(path)}: {printable(str(error), limit=300)}",
                where=str(self.folder),
                mend="Merge it where it was trained (merge_and_unload) and audit the merged checkpoint",
            ) from error
        return merged

    def _refuse_impossible_ranks(self) -> None:
        """Refuse ranks that no stored factor has: PEFT makes factors of the configured rank before it reads any.

        Raises:
            BadInputError: no stored factor has a side as long as a rank.
        """
        longest = max((side for info in self.files.tensors.values() for side in info.shape), default=0)
        pattern = self.config.rank_pattern  # a configuration may hold anything
        for rank in (self.config.r, *(pattern.values() if isinstance(pattern, dict) else ())):
            if isinstance(rank, int) and rank > longest:
                raise BadInputError(
                    f"states a rank of {rank}; no stored factor has more than {longest}",
                    where=str(self.folder / "adapter_config.json"),
                    mend="Copy or download the adapter again",
                )


def open_adapter(
    folder: Path, files: WeightFiles, base_tensors: Mapping[str, TensorInfo], base_layout: Layout
) -> Adapter:
    """Read an adapter's configuration and find the base's parameters that it changes.

    Raises:
        BadInputError: it is not a LoRA, cannot be applied one weight at a time, or does not fit the base.
    """
    path = folder / CONFIG_NAME
    values = read_json_object(path)
    config = _read_lora_config(values, path)
    tensors_of: dict[str, tuple[str, list[str]]] = {}
    strangers = []
    for name in files.tensors:
        place = _parameter_and_module(name, base_layout)
        if place is None:
            strangers.append(name)
        else:
            tensors_of.setdefault(place[0], (place[1], []))[1].append(name)
    if strangers or not tensors_of:
        raise BadInputError(
            f"does not fit the base: it has no module for {short_list(strangers)}" if strangers else "holds no tensors",
            where=str(folder),
            mend="An adapter is applied to the ORIGINAL checkpoint: name the one that it was trained on",
        )
    adapter = Adapter(
        folder,
        config,
        files,
        {parameter: (module, tuple(names)) for parameter, (module, names) in tensors_of.items()},
        str(values.get("base_model_name_or_path") or ""),
    )
    _check_shapes(adapter, base_tensors, base_layout)
    return adapter


def _read_lora_config(values: dict[str, Any], path: Path) -> LoraConfig:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise BadInputError(
            f"is an adapter of type {printable(str(kind), limit=60)!r}; only LORA is supported",
            where=str(path),
            mend="Merge it where it was trained (merge_and_unload) and audit the merged checkpoint",
        )
    for key in _UNSUPPORTED:
        if values.get(key):
            raise BadInputError(
                f"uses {key}, which cannot be applied one weight at a time",
                where=str(path),
                mend="Merge it where it was trained (merge_and_unload) and audit the merged checkpoint",
            )
    from peft import LoraConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that a newer PEFT wrote
            config: object = LoraConfig.from_peft_type(**values)  # type: ignore[no-untyped-call]
    except Exception as error:  # its checks may raise anything if values make no sense
        raise BadInputError(
            f"is not a LoRA configuration: {printable(f'{type(error).__name__}: {error}', limit=300)}", where=str(path)
        ) from error
    if not isinstance(config, LoraConfig):
        raise BadInputError("is not a LoRA configuration", where=str(path))
    config.inference_mode = True
    return config


def _parameter_and_module(name: str, layout: Layout) -> tuple[str, str] | None:
    """Return the base's parameter that a tensor of the adapter belongs to, and its module's name in the adapter."""
    if not name.startswith(_PREFIX):
        return None
    parts = name.removeprefix(_PREFIX).split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        parameter = layout.parameter_of(f"{module}.weight")
        if parameter is not None:
            return parameter, module
    return None


def _check_shapes(adapter: Adapter, base_tensors: Mapping[str, TensorInfo], layout: Layout) -> None:
    """Refuse whole weights not as large as the base's, and factors of a matrix not as long as its sides."""
    for parameter, (_, names) in adapter.tensors_of.items():
        shape = base_tensors[layout.tensor_of[parameter]].shape
        for name in names:
            found = adapter.files.tensors[name].shape
            factor = next((factor for factor in (".lora_A.", ".lora_B.") if factor in name), None)
            if not name.endswith(".weight") or (factor and len(shape) != 2):
                fits = True  # biases change no weight, and convolutions are not rounded
            elif factor:
                fits = len(found) == 2 and found[1 if factor == ".lora_A." else 0] in shape
            else:
                fits = ".lora_" in name or found == shape
            if not fits:
                raise BadInputError(
                    f"does not fit the base: {printable(name, limit=200)} is {list(found)}, for a weight of "
                    f"{list(shape)}",
                    where=str(adapter.folder),
                    mend="An adapter is applied to the ORIGINAL checkpoint: name the one that it was trained on",
                )


def _nest_module(path: str, module: torch.nn.Module) -> torch.nn.Module:
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
