"""Load the model of an arm: in full precision, or as it is deployed under a scheme.

One arm is loaded at a time; drop it before the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError, first_line
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.config_file import without_foreign_attention
from quail_audit.engine.checkpoints.model.model_class import is_classifier, model_class
from quail_audit.engine.checkpoints.model.transformers_rules import config_for_this_version, is_version_5
from quail_audit.engine.forgetting.models.batches import is_out_of_memory
from quail_audit.engine.forgetting.models.device import find_device, find_dtype
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.engine.forgetting.models.rounding import round_layers
from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
from quail_audit.engine.schemes.interface import ByLayer

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.schema.figures import Execution

_WEIGHTS_ONLY = "Forgetting is measured on models that transformers loads; leave --data out to measure weights only"
_WHY_DEQUANTIZED = "the checkpoint is quantized already: its model computes with the values that its codes stand for"


@dataclass(frozen=True, eq=False)
class LoadedArm:
    """A model that is ready to be evaluated.

    Attributes:
        model: the model, on its device, in eval mode; a language model or a sequence classifier, as its config.json
            says. The former is set to plain greedy generation.
        tokenizer: the checkpoint's own, or the one that stands in for it.
        execution: how its layers compute.
        device: "cpu", "cuda:0", "mps:0".
        dtype: dtype that it computes in: "float32".
        reason: why this execution, if it is not the plain one.
        notes: what a reader of the report should know.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    execution: Execution
    device: str
    dtype: str
    reason: str = ""
    notes: tuple[str, ...] = ()


def load_arm(
    checkpoint: Checkpoint,
    scheme: Scheme | ByLayer | None,
    *,
    layers: Sequence[Layer],
    device: str,
    dtype: str,
    tokenizer_of: Checkpoint | None = None,
    is_tokenizer_shared: bool = False,
) -> LoadedArm:
    """Load a checkpoint as an arm.

    Under nf4 or fp4 on CUDA the layers become bitsandbytes' own Linear4bit modules, quantized from the checkpoint's
    dtype as transformers does it on loading. Elsewhere, and under other schemes, each layer's weights are replaced by
    scheme.dequantize(scheme.quantize(weights)), in the checkpoint's dtype, one layer at a time: the very values that
    the deployed model computes with. Weights are rounded first and cast to the computing dtype after.

    Args:
        checkpoint: a model's, or an adapter's, which is merged into its base.
        scheme: None for full precision; or a scheme for each of the layers.
        layers: the modules to round.
        device: "auto" (cuda, then mps, then cpu), "cpu", "cuda", "cuda:1", "mps".
        dtype: dtype to compute in; "auto": the checkpoint's own, but float32 on a CPU.
        tokenizer_of: the checkpoint whose tokenizer to use if this one has none.
        is_tokenizer_shared: use that one in any case.

    Raises:
        UsageError: no such kind of device or dtype.
        BadInputError: transformers cannot make a model of the checkpoint, or there is no tokenizer.
        EnvironmentProblemError: the device is absent, or out of memory.
    """
    target = find_device(device)
    asked_dtype = find_dtype(dtype)
    tokenizer, notes = load_tokenizer(checkpoint, tokenizer_of)
    if is_tokenizer_shared and tokenizer_of is not None:
        tokenizer, notes = load_tokenizer(tokenizer_of, checkpoint)
    with _explain_errors(checkpoint.source, checkpoint.folder):
        base = checkpoint.adapter_of or checkpoint
        model, own_dtype = _load_base(base)
        model = _merge_adapter(model, checkpoint)
        computing = asked_dtype or (torch.float32 if target.type == "cpu" else own_dtype)
        execution, reason = round_layers(model, scheme, layers, target, computing, str(checkpoint.folder))
        if checkpoint.scheme is not None:
            execution, reason = "dequantized weights", _WHY_DEQUANTIZED
        nn.Module.to(model, device=target, dtype=computing)
        nn.Module.eval(model)
    if is_classifier(checkpoint.config):
        notes += _set_padding(model, tokenizer, checkpoint)
    else:
        model.generation_config = _greedy_config(model.generation_config)
    return LoadedArm(
        model=model,
        tokenizer=tokenizer,
        execution=execution,
        device=str(model.device),
        dtype=str(computing).removeprefix("torch."),
        reason=reason,
        notes=notes,
    )


@contextmanager
def _explain_errors(source: str, folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a model is loaded into an error that says so."""
    try:
        with quiet_transformers():
            yield
    except QuailError:
        raise
    except Exception as error:  # the files are untrusted, and transformers may fail on them in any way
        if is_out_of_memory(error):
            raise EnvironmentProblemError(
                "out of memory while loading the model",
                where=source,
                mend="Use a device with more memory, or --dtype bfloat16",
            ) from error
        if isinstance(error, ImportError):
            raise EnvironmentProblemError(f"a package is missing: {error}", where=source) from error
        raise BadInputError(f"transformers cannot load the model: {first_line(error)}", where=str(folder)) from error


def _load_base(base: Checkpoint) -> tuple[PreTrainedModel, torch.dtype]:
    """Load a whole model on the CPU from the tensors that its layers are compared by; return it and its own dtype.

    Weights that are stored quantized, or in a GGUF file, are loaded in float32, which holds every dequantized value
    exactly; their own dtype is then the one that the configuration names.
    """
    settings = config_for_this_version(without_foreign_attention(base.config))
    settings.pop("auto_map", None)  # the checkpoint's own code
    model_type = settings.get("model_type")
    kind: Any = model_class(base.config)
    if kind is None or not isinstance(model_type, str):
        raise BadInputError(
            f"transformers knows no {printable(str(model_type), limit=60)!r} language model",
            where=f"{base.folder}/config.json",
            mend=_WEIGHTS_ONLY,
        )
    config: Any = CONFIG_MAPPING[model_type].from_dict(settings)
    if kind.config_class.model_type != config.model_type:  # a language model that is part of a larger one
        config = config.get_text_config()
    own_dtype = base.dtype
    loaded = kind.from_pretrained(
        None,
        config=config,
        state_dict={name: base.read(name).float() if base.is_converted else base.read(name) for name in base.names},
        output_loading_info=True,
        **{"dtype" if is_version_5() else "torch_dtype": torch.float32 if base.is_converted else own_dtype},
    )
    model = _check_complete(loaded, base)
    if (base.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(base.folder, local_files_only=True)
    return model, own_dtype


def _check_complete(loaded: Any, base: Checkpoint) -> PreTrainedModel:
    """Return the model of transformers' (model, loading info), and refuse one with weights left to chance."""
    model, found = loaded
    if absent := sorted(found["missing_keys"]):
        raise BadInputError(
            f"lacks {len(absent)} weights of a {type(model).__name__}, which would be random: {absent[0]}",
            where=str(base.folder),
            mend="Forgetting is measured on models with their head; leave --data out to measure weights only",
        )
    if not isinstance(model, PreTrainedModel):
        raise BadInputError("this is not a language model", where=str(base.folder))
    return model


def _merge_adapter(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """Merge an adapter into its base; return any other model as it is."""
    if checkpoint.adapter_of is None:
        return model
    from peft import PeftModel

    base = checkpoint.adapter_of
    if base.is_converted:  # it was loaded in float32; a layer is merged in the type that it stands for
        for name in base.names:
            parameter = base.layout.parameter_of(name)
            if parameter is not None:
                held = model.get_parameter(parameter)
                held.data = held.data.to(base.info(name).dtype)
    # PEFT starts factors at random before it loads them; two loads are the same, and the caller's numbers too.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = PeftModel.from_pretrained(model, checkpoint.folder, local_files_only=True, torch_device="cpu")
    merged = adapted.merge_and_unload()
    if not isinstance(merged, PreTrainedModel):
        raise BadInputError("this is not a language model", where=str(checkpoint.folder))
    return merged


def _greedy_config(found: GenerationConfig | None) -> GenerationConfig:
    """Return a checkpoint's generation settings without its penalties and the like, for plain greedy decoding."""
    special = {} if found is None else {"bos_token_id": found.bos_token_id, "eos_token_id": found.eos_token_id}
    return GenerationConfig(**special)  # type: ignore[no-untyped-call]


def _set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Give a classifier its tokenizer's padding token if it names none: a decoder finds a text's last token by it.

    Raises:
        BadInputError: neither it nor its tokenizer has one that no text ends with.
    """
    config: Any = model.config.get_text_config()
    if config.pad_token_id is not None:
        return ()
    padding = tokenizer.pad_token_id
    if padding is None or tokenizer("a")["input_ids"][-1:] == [padding]:
        raise BadInputError(
            "the classifier names no padding token, so texts cannot be batched",
            where=f"{checkpoint.folder}/config.json",
            mend="Set pad_token_id, to a token that no text ends with",
        )
    config.pad_token_id = padding
    return (f"{checkpoint.source} names no padding token; its tokenizer's was used",)
