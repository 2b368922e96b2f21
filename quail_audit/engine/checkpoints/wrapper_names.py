"""Take the prefixes of wrappers off the names of stored tensors: torch.compile's, DDP's, FSDP's, PEFT's.

A model that was saved inside a wrapper has the wrapper's name in front of its tensors' names, or in their middle.
Transformers then finds none of them; here they get the names that the model itself gives them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.model.architecture import model_without_weights
from quail_audit.engine.checkpoints.model.transformers_rules import parameter_renaming
from quail_audit.engine.checkpoints.weight_files import TensorInfo, short_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Modules that torch and its trainers put around others, at any depth: torch.compile, FSDP, activation checkpointing
# (torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py), Lightning Fabric.
_WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module"}
)
_IN_FRONT = ("module.", "base_model.model.")  # DDP's and DeepSpeed's, PEFT's; taken off if the model is not known
_OF_PEFT = frozenset(
    {"base_layer", "original_module", "modules_to_save", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}
)
_LONGEST = 6  # parts of a name that a prefix may have
_ASKED = 400  # names that are enough to find a prefix


@dataclass(frozen=True)
class BareNames:
    """The names that the model gives to stored tensors.

    Attributes:
        stored: name in the model -> name in the file, in the order of the files.
        wrappers: the prefixes that were taken off: ("_orig_mod",).
    """

    stored: Mapping[str, str]
    wrappers: tuple[str, ...]


def find_bare_names(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str) -> BareNames:
    """Return the names without what wrappers added. Names that the model knows stay as they are.

    Args:
        config: the parsed config.json; empty if there is none.
        tensors: the stored tensors, by name.
        where: the checkpoint's folder, for messages.

    Raises:
        BadInputError: the tensors are those of a PEFT model with its adapter beside the weights, or ZeRO-3's empty
            ones, or two of them get the same name; config.json describes no model that can be built.
    """
    _refuse_peft_model(tensors, where)
    removed = Counter(part for name in tensors for part in name.split(".") if part in _WRAPPERS)
    bare = {name: _without_wrappers(name) for name in tensors} if removed else {name: name for name in tensors}
    model = model_without_weights(config, tensors, where)
    prefix = _shared_prefix(bare.values()) if model is None else _prefix_by_model(model, bare, tensors)
    if prefix:
        removed[prefix.removesuffix(".")] += 1
        bare = {name: found.removeprefix(prefix) for name, found in bare.items()}
    stored: dict[str, str] = {}
    for name, found in bare.items():
        if found in stored:
            raise BadInputError(
                f"holds two tensors for {short_list([found])}: {short_list([stored[found], name])}",
                where=where,
                mend="Keep one model in the folder, and save it outside its wrapper",
            )
        stored[found] = name
    _refuse_empty_tensors(model, tensors, stored, where)
    return BareNames(stored, tuple(removed))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shared_prefix(names: Iterable[str]) -> str:
    every = list(names)
    prefix = ""
    while found := next((p for p in _IN_FRONT if every and all(n.startswith(prefix + p) for n in every)), ""):
        prefix += found
    return prefix


def _prefix_by_model(model: PreTrainedModel, bare: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> str:
    """Return the prefix without which the model knows most names; "" if it knows at least half its own without."""
    shape_of = _shape_lookup(model)
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names = list(bare.items())
    known = sum(shape_of(found) is not None for _, found in names)
    if 2 * known >= min(len(names), sum(1 for _ in model.parameters())):
        return ""
    votes: Counter[str] = Counter()
    step = max(1, len(names) // _ASKED)
    for name, found in islice(names, 0, None, step):
        parts = found.split(".")
        lengths = range(1, min(_LONGEST, len(parts) - 1) + 1)
        fitting = [
            length
            for length in lengths
            if (shape := shape_of(".".join(parts[length:]))) is not None
            and (shape in ((), tensors[name].shape) or 0 in tensors[name].shape)
        ]
        # a parameter's own name, before one that transformers would still find
        exact = [length for length in fitting if ".".join(parts[length:]) in own]
        if fitting:
            votes[".".join(parts[: (exact or fitting)[0]]) + "."] += 1
    first = votes.most_common(2)
    if not first or (len(first) == 2 and first[0][1] == first[1][1]):
        return ""  # nothing, or two models side by side
    return first[0][0]


def _shape_lookup(model: PreTrainedModel) -> Callable[[str], tuple[int, ...] | None]:
    """Return the function from a stored name to the shape of its parameter; () if it is converted, None if unknown."""
    rename = parameter_renaming(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}

    def shape_of(name: str) -> tuple[int, ...] | None:
        renamed, converts = rename(name)
        return () if converts else shapes.get(renamed)

    return shape_of


def _refuse_peft_model(tensors: Mapping[str, TensorInfo], where: str) -> None:
    wrapped = [name for name in tensors if not _OF_PEFT.isdisjoint(name.split("."))]
    if wrapped:
        raise BadInputError(
            f"holds a PEFT model with its adapter beside the weights, not a merged one: {short_list(wrapped)}",
            where=where,
            mend="Merge it where it was trained: model.merge_and_unload().save_pretrained(folder); or save the adapter "
            "alone with model.save_pretrained(folder) of the PeftModel",
        )


def _refuse_empty_tensors(
    model: PreTrainedModel | None, tensors: Mapping[str, TensorInfo], stored: Mapping[str, str], where: str
) -> None:
    """Refuse tensors without elements: under DeepSpeed's ZeRO-3 every process saves placeholders, unless it gathers."""
    empty = [found for found, name in stored.items() if 0 in tensors[name].shape and found.endswith("weight")]
    if model is not None:
        shape_of = _shape_lookup(model)
        empty = [found for found in empty if (shape := shape_of(found)) is not None and math.prod(shape) > 0]
    if empty:
        raise BadInputError(
            f"holds empty tensors for {short_list(empty)}: DeepSpeed's ZeRO-3 saved placeholders",
            where=where,
            mend="Gather the weights in the run's checkpoint, which holds global_step*: python zero_to_fp32.py . OUT "
            '--safe_serialization; or train with "stage3_gather_16bit_weights_on_model_save": true',
        )
