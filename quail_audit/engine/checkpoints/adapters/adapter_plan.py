"""Find out which modules of a base an adapter changes, and by which of its tensors, as PEFT would.

PEFT itself puts its layers into the base's model on the meta device, where nothing has values, and matches the names of
the adapter's tensors with them. So there is one answer to what a configuration targets: PEFT's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapters.adapter_config import MERGE_IT, starts_at_zero
from quail_audit.engine.checkpoints.model.architecture import silence_libraries
from quail_audit.engine.checkpoints.weight_files import TensorInfo, short_list

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch import nn

PREFIX = "base_model.model."
ANOTHER_BASE = "An adapter is applied to the ORIGINAL checkpoint: name the one that it was trained on"
SAMPLER = ".lora_monteclora_sampler."  # a merge ignores it


@dataclass(frozen=True)
class Change:
    """A module that an adapter changes.

    Attributes:
        module: its name in the base's model.
        kind: "lora": factors are merged into it; "parameters": into parameters of it that are named; "copy": another
            copy of it takes its place; "weight": its weight is overwritten; "rows": some rows of it are.
        names: the adapter's tensors that do it.
        parameters: the parameters that it holds, by the name in the base's model.
        rows: the rows, if some are overwritten.
    """

    module: str
    kind: Literal["lora", "parameters", "copy", "weight", "rows"]
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """An adapter's changes to its base.

    Attributes:
        config: PEFT's configuration as it applies it to this model; its initial values are the adapter's own.
        changes: in the order in which PEFT merges them.
        without_factors: modules that the configuration targets and the files hold nothing for: they stay as they are.
    """

    config: LoraConfig
    changes: tuple[Change, ...]
    without_factors: tuple[str, ...]


def plan_changes(folder: Path, config: LoraConfig, tensors: Mapping[str, TensorInfo], base: nn.Module) -> Plan:
    """Match an adapter with its base's model.

    Args:
        folder: the adapter's, for messages.
        config: its configuration.
        tensors: its tensors.
        base: the base's model on the meta device, which stays as it is.

    Raises:
        BadInputError: PEFT cannot apply it, or would leave out some of it or start some of it at random: which part.
    """
    import torch

    empty = {name: torch.empty(info.shape, dtype=info.dtype, device="meta") for name, info in tensors.items()}
    try:
        with silence_libraries(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            model = _adapt(copy.deepcopy(base), config)
            _check_whole_modules(folder, model, tensors)
            loaded = _load(model, empty)
    except QuailError:
        raise
    except Exception as error:  # PEFT may raise anything if the configuration or the tensors make no sense
        _check_modules(folder, base, tuple(tensors))
        raise cannot_merge_error(folder, "this base", error) from error
    if converted := [name for name in loaded.names if name not in tensors]:
        raise BadInputError(
            f"was trained on a model whose modules are others in the installed transformers: "
            f"{short_list(sorted(set(tensors) - set(loaded.names)))} would become {short_list(converted)}",
            where=str(folder),
            mend=MERGE_IT,
        )
    _check_names(folder, base, loaded)
    changes = _changes(model, loaded)
    without = _without_factors(folder, config, changes, loaded.missing)
    settled: Any = model.peft_config["default"]
    if getattr(settled, "target_modules_to_tie", None):
        raise BadInputError(
            "ties the factors of the head to those of the embeddings (ensure_weight_tying)",
            where=str(folder),
            mend=MERGE_IT,
        )
    settled.init_lora_weights = config.init_lora_weights
    return Plan(settled, tuple(change for change in changes if change.names), without)


def cannot_merge_error(folder: Path, into: str, error: Exception) -> BadInputError:
    """Return the error for an adapter that PEFT raises an error on."""
    text = printable(str(error) or type(error).__name__, limit=300)
    return BadInputError(f"PEFT cannot merge it into {into}: {text}", where=str(folder), mend=MERGE_IT)


def _adapt(model: nn.Module, config: LoraConfig) -> Any:
    """Return the model with PEFT's layers in it, as `PeftModel.from_pretrained` puts them, with no values."""
    import torch
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftModel

    config = copy.deepcopy(config)
    if config.init_lora_weights != "mica":  # which makes another kind of layer
        config.init_lora_weights = True  # no values: nothing to start from
    kind: Any = PeftModel
    if hasattr(model, "config"):
        kind = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type or "", PeftModel)
    with torch.device("meta"):
        return kind(model, config, low_cpu_mem_usage=True)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """How PEFT matched names: those it loads, those the model has no place for, and the model's that stay empty."""

    names: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]


def _load(model: Any, tensors: Mapping[str, torch.Tensor]) -> _Loaded:
    """Let PEFT load the tensors, and note what it makes of their names."""
    from peft import set_peft_model_state_dict

    names: list[str] = []
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    except ImportError:  # before transformers 5 there is nothing to convert
        names.extend(tensors)
    else:
        names.extend(
            convert_peft_adapter_state_dict_for_transformers(
                model=model, peft_config=model.peft_config["default"], adapter_state_dict=dict(tensors)
            )
        )
    result: Any = set_peft_model_state_dict(model, dict(tensors), low_cpu_mem_usage=True)
    missing = tuple(name for name in result.missing_keys if ".lora_" in name and SAMPLER not in name)
    return _Loaded(tuple(names), tuple(name for name in result.unexpected_keys if SAMPLER not in name), missing)


def _check_whole_modules(folder: Path, model: Any, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse modules that the configuration calls saved, if the files don't hold them: PEFT would stop at them."""
    absent = [
        name
        for module, wrapper in _wrappers(model)
        for key in _stored_keys(wrapper)
        if (name := f"{PREFIX}{module}.{key}") not in tensors
    ]
    if absent:
        raise BadInputError(
            f"says that it holds whole modules, or rows of them, that its files lack: {short_list(absent)}",
            where=str(folder),
            mend=f"Save it again, with everything that was trained. {MERGE_IT}",
        )


def _check_names(folder: Path, base: nn.Module, loaded: _Loaded) -> None:
    """Refuse tensors that PEFT passes over without a word."""
    if not loaded.unexpected:
        return
    _check_modules(folder, base, loaded.unexpected)
    idle = short_list(loaded.unexpected)
    raise BadInputError(
        f"holds tensors that its configuration has no use for, so PEFT would leave them out: {idle}",
        where=str(folder),
        mend=f"Compare target_modules, use_dora and bias in its adapter_config.json with what was trained. {MERGE_IT}",
    )


def _check_modules(folder: Path, base: nn.Module, names: tuple[str, ...]) -> None:
    """Refuse names of modules that the base lacks."""
    known = {name for name, _ in base.named_modules()}
    known |= {name for name, _ in base.named_parameters(remove_duplicate=False)}
    strangers = [name for name in names if _module_of(name) not in known and name.removeprefix(PREFIX) not in known]
    if names and not any(name.startswith(PREFIX) for name in names):
        raise BadInputError(
            f"its tensors are not named as PEFT names them, with {PREFIX!r} in front: {short_list(names)}",
            where=str(folder),
            mend=f"Load it as it was trained and save it with PEFT's save_pretrained. {MERGE_IT}",
        )
    if strangers:
        raise BadInputError(
            f"does not fit the base: it has no module for {short_list(strangers)}",
            where=str(folder),
            mend=f"{ANOTHER_BASE}. Or: {MERGE_IT}",
        )


def _module_of(name: str) -> str:
    """Return the module that a tensor of an adapter names."""
    return name.removeprefix(PREFIX).partition(".lora_")[0].removesuffix(".base_layer")


def _wrappers(model: Any) -> list[tuple[str, Any]]:
    """Return the modules that PEFT replaces as a whole or by rows, by name."""
    from peft.utils import other

    kind: Any = getattr(other, "AuxiliaryTrainingWrapper", None) or other.ModulesToSaveWrapper
    inner = model.base_model.model
    return [(name, module) for name, module in inner.named_modules() if isinstance(module, kind)]


def _stored_keys(wrapper: Any) -> tuple[str, ...]:
    """Return the names that the wrapper's tensors have in an adapter's files, after the module's."""
    if hasattr(wrapper, "adapter_state_dict_load_map"):
        return tuple(wrapper.adapter_state_dict_load_map("default"))
    return tuple(wrapper.modules_to_save["default"].state_dict())


def _changes(model: Any, loaded: _Loaded) -> list[Change]:
    """Return what PEFT's layers would change, and weights that are stored whole, in the order in which PEFT merges."""
    from peft.tuners.lora.layer import LoraLayer

    inner = model.base_model.model
    left = list(loaded.names)
    wrappers = dict(_wrappers(model))
    changes: list[Change] = []

    def take(module: str) -> tuple[str, ...]:
        taken = tuple(name for name in left if name.startswith(f"{PREFIX}{module}."))
        left[:] = [name for name in left if name not in taken]
        return taken

    inside = ""  # a layer's own modules are part of it
    for name, module in inner.named_modules():
        if inside and name.startswith(f"{inside}."):
            continue
        if name in wrappers:
            adapter: Any = getattr(module, "token_adapter", None)
            kept = tuple(key for key in (_stored_keys(module) if adapter is None else ("weight",)))
            parameters = tuple(f"{name}.{key}" for key in kept)
            rows = () if adapter is None else tuple(int(row) for row in adapter.token_indices["default"])
            changes.append(Change(name, "copy" if adapter is None else "rows", take(name), parameters, rows))
            inside = name
        elif isinstance(module, LoraLayer):
            held = module.get_base_layer().named_parameters()
            kind: Any = "parameters" if hasattr(module, "parameter_name") else "lora"
            changes.append(Change(name, kind, take(name), tuple(f"{name}.{key}" for key, _ in held)))
            inside = name
    weights = [(name, name.removeprefix(PREFIX)) for name in left]  # which PEFT loads before it merges
    return [*(Change(weight.rpartition(".")[0], "weight", (name,), (weight,)) for name, weight in weights), *changes]


def _without_factors(
    folder: Path, config: LoraConfig, changes: list[Change], missing: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the modules that are targeted and have no factors; refuse those with a part of them.

    Raises:
        BadInputError: a factor is there without its other, or PEFT would start it at random.
    """
    missing = tuple(name.removeprefix(PREFIX) for name in missing)
    without = []
    for change in changes:
        lacking = [name for name in missing if name.startswith(f"{change.module}.")]
        if not lacking:
            continue
        if any(".lora_" in name for name in change.names):
            raise BadInputError(
                f"PEFT cannot merge it: {printable(change.module, limit=200)} lacks {short_list(lacking)}, "
                "which would be random",
                where=str(folder),
                mend=f"Save it again, with everything that was trained, or copy it again. {MERGE_IT}",
            )
        without.append(change.module)
    if without and not starts_at_zero(config):
        raise BadInputError(
            "holds no factors for modules that its configuration targets, and the way it starts would change them: "
            f"{short_list(without)}",
            where=str(folder),
            mend=f"Save it again, with everything that was trained. {MERGE_IT}",
        )
    return tuple(without)
