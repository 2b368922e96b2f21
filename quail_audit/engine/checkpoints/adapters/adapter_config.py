"""Read an adapter's configuration, and refuse those that stand for no one set of weights.

A LoRA that is merged is a model like any other. Adapters that act on some texts only, that route, that change how many
layers there are, or whose base PEFT changes by chance as it loads them, are not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.weight_files import short_list

if TYPE_CHECKING:
    from peft import LoraConfig  # 5 s to import

MERGE_IT = (
    "Merge it where it was trained and audit the merged checkpoint: "
    'model.merge_and_unload().save_pretrained("merged"); tokenizer.save_pretrained("merged")'
)
_SAVE_AS_LORA = (
    f"{MERGE_IT}. Or save it with path_initial_model_for_weight_conversion, as PEFT's manual says, and audit that"
)

# Every field of PEFT's LoraConfig, by what it means for the merged weights. PEFT's own layers take these into account:
MERGED_FIELDS = frozenset(
    {
        "alpha_pattern",
        "bias",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "kasa_config",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "task_type",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_rslora",
    }
)
# These say how it was trained or where it came from; merged weights are the same without them:
SILENT_FIELDS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "monteclora_config",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "velora_config",
    }
)
# These are refused if they are set: field -> why.
REFUSED_FIELDS: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts on what follows its invocation tokens only, so no merged model does the same",
    "arrow_config": "it routes each token through other adapters, so no merged model does the same",
    "layer_replication": "it makes a model of other layers than its base's",
    "megatron_config": "its layers are Megatron's, not transformers'",
    "use_qalora": "PEFT cannot merge it",
}
# Initial values by name, as PEFT knows them. Once trained factors are loaded, only those that change the base matter.
_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
_CHANGE_THE_BASE = ("pissa", "olora", "loftq")  # the same way each time, from the base alone

_NO_ADVICE = "It adds tokens or states to prompts and changes no weight, so there is nothing to merge"
_PROMPTS = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"})
_UNMERGED = frozenset({"ADAPTION_PROMPT", "POLY", "XLORA"})


def read_lora_config(values: dict[str, Any], path: Path) -> LoraConfig:
    """Return PEFT's own configuration of an adapter_config.json.

    Args:
        values: the file, parsed.
        path: the file, for messages.

    Raises:
        BadInputError: it is no LoRA, makes no sense, or stands for no one set of weights: which option, what to do.
    """
    kind: object = values.get("peft_type")
    if kind != "LORA":
        raise _other_kind_error(kind, path)
    for field, why in REFUSED_FIELDS.items():
        if values.get(field):
            raise BadInputError(f"uses {field}: {why}", where=str(path), mend=_mend_of(field))
    from peft import LoraConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that a newer PEFT wrote; see unknown_keys
            known = {key: value for key, value in values.items() if key != "runtime_config"}
            config: object = LoraConfig.from_peft_type(**known)  # type: ignore[no-untyped-call]
    except Exception as error:  # its checks may raise anything if values make no sense
        raise BadInputError(
            f"is not a LoRA configuration: {printable(f'{type(error).__name__}: {error}', limit=300)}", where=str(path)
        ) from error
    if not isinstance(config, LoraConfig):
        raise BadInputError("is not a LoRA configuration", where=str(path))
    _check_initial_values(config, path)
    config.inference_mode = True
    return config


def unknown_keys(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options that are set in an adapter_config.json and that the installed PEFT does not know."""
    from dataclasses import fields

    from peft import LoraConfig

    known = {field.name for field in fields(LoraConfig)}
    return tuple(sorted(key for key, value in values.items() if key not in known and value))


def changes_its_base(config: LoraConfig) -> bool:
    """Tell whether PEFT changes the weights of the base before it adds the factors to them."""
    return config.init_lora_weights in _CHANGE_THE_BASE or bool(getattr(config, "kasa_config", None))


def starts_at_zero(config: LoraConfig) -> bool:
    """Tell whether a module without stored factors stays as its base has it, to the last bit, as PEFT starts it."""
    plain = config.init_lora_weights is True or config.init_lora_weights == "gaussian"
    return plain and not config.use_dora and not changes_its_base(config)


def _check_initial_values(config: LoraConfig, path: Path) -> None:
    found: object = config.init_lora_weights
    if any(found is value or (isinstance(value, str) and found == value) for value in _KEEP_THE_BASE):
        return
    if found in _CHANGE_THE_BASE:
        return
    name = printable(str(found), limit=60)
    if isinstance(found, str) and found.startswith("pissa_niter_"):
        why = "PEFT changes the base by a factorization that it draws at random, each time it loads the adapter"
    elif found in ("corda", "lora_ga"):
        why = "its base was changed by what its training data said, and the adapter does not say how"
    else:
        raise BadInputError(
            f"starts from {name!r}, which the installed PEFT does not know",
            where=str(path),
            mend=f"Install the PEFT that wrote it. {MERGE_IT}",
        )
    raise BadInputError(f"starts from {name!r}: {why}", where=str(path), mend=_SAVE_AS_LORA)


def _mend_of(field: str) -> str:
    if field in ("alora_invocation_tokens", "arrow_config"):
        return "Only its base can be audited, or a plain LoRA trained in its place"
    return MERGE_IT


def _other_kind_error(kind: object, path: Path) -> BadInputError:
    name = printable(str(kind), limit=60)
    if str(kind) in _PROMPTS:
        mend = f"{_NO_ADVICE}; only its base can be audited"
    elif str(kind) in _UNMERGED:
        mend = "It cannot be merged; only its base can be audited"
    else:
        mend = MERGE_IT
    return BadInputError(f"is an adapter of type {name!r}; only LORA is supported", where=str(path), mend=mend)


def describe_unknown(keys: tuple[str, ...]) -> str:
    """Return the note on options of a newer PEFT."""
    return f"the adapter sets options that the installed PEFT does not know, and passes over: {short_list(keys)}"
