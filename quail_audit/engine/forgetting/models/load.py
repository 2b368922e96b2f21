"""Loading the model of an arm: a checkpoint in full precision, or as it is deployed under a scheme.

Not here: what is asked of it (evaluate.py). One arm is loaded at a time; drop it before the next.
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
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError, UsageError
from quail_audit.engine.checkpoints.architecture import is_classifier
from quail_audit.engine.checkpoints.transformers_rules import as_this_version_spells_it, knows_version_5
from quail_audit.engine.checkpoints.weight_files import read_json_object
from quail_audit.engine.forgetting.models.batches import is_out_of_memory
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.engine.schemes.bitsandbytes import FourBit, Int8, bitsandbytes
from quail_audit.engine.schemes.interface import ByLayer

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.schema.figures import Execution

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
_WHY_DEQUANTIZED = "the checkpoint is quantized already: its model computes with the values that its codes stand for"


@dataclass(frozen=True, eq=False)
class LoadedArm:
    """A model that is ready to be asked.

    Attributes:
        model: on its device, in eval mode; a language model or a sequence classifier, as its config.json says. The
            former is set to plain greedy generation.
        tokenizer: the checkpoint's own, or the one that stands in for it.
        execution: how its layers compute.
        device: "cpu", "cuda:0", "mps:0".
        dtype: that it computes in: "float32".
        reason: why this execution, where it is not the plain one.
        notes: what the reader of the report should know.
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
) -> LoadedArm:
    """Load a checkpoint as an arm.

    Under nf4 or fp4 on CUDA the layers become bitsandbytes' own Linear4bit modules, quantized from the checkpoint's
    dtype as transformers does it on loading. Elsewhere, and under other schemes, each layer's weights are replaced by
    scheme.dequantize(scheme.quantize(weights)), in the checkpoint's dtype, one layer at a time: the very values that
    the deployed model computes with. Weights are rounded first and cast to the computing dtype after.

    Args:
        checkpoint: a model's, or an adapter's, which is merged into its base.
        scheme: None for full precision; or a scheme for each of the layers.
        layers: the modules that are rounded.
        device: "auto" (cuda, then mps, then cpu), "cpu", "cuda", "cuda:1", "mps".
        dtype: to compute in; "auto": the checkpoint's own, but float32 on a CPU.
        tokenizer_of: whose tokenizer to use where the checkpoint has none.

    Raises:
        UsageError: no such kind of device or dtype.
        BadInputError: transformers cannot make a model of the checkpoint, or there is no tokenizer.
        EnvironmentProblemError: the device is absent, or out of memory.
    """
    target = find_device(device)
    asked_dtype = find_dtype(dtype)
    tokenizer, notes = load_tokenizer(checkpoint, tokenizer_of)
    with _loading(checkpoint.source, checkpoint.folder):
        base = checkpoint.adapter_of or checkpoint
        model, own_dtype = _load_dequantized(base) if base.is_converted else _load_as_stored(base)
        model = _with_adapter(model, checkpoint)
        computing = asked_dtype or (torch.float32 if target.type == "cpu" else own_dtype)
        execution, reason = _round_layers(model, scheme, layers, target, computing, str(checkpoint.folder))
        if checkpoint.scheme is not None:
            execution, reason = "dequantized weights", _WHY_DEQUANTIZED
        nn.Module.to(model, device=target, dtype=computing)
        nn.Module.eval(model)
    if is_classifier(checkpoint.config):
        notes += _with_padding(model, tokenizer, checkpoint)
    else:
        model.generation_config = _plain_greedy(model.generation_config)
    return LoadedArm(
        model=model,
        tokenizer=tokenizer,
        execution=execution,
        device=str(model.device),
        dtype=str(computing).removeprefix("torch."),
        reason=reason,
        notes=notes,
    )


def find_device(device: str) -> torch.device:
    """The device of a --device option.

    Raises:
        UsageError: no such kind of device.
        EnvironmentProblemError: this machine has none, or not so many.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {device!r}", where="--device", mend="Give auto, cpu, cuda, cuda:N or mps")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = found.index if found.index is not None else 0
        if index >= count:
            has = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
            raise EnvironmentProblemError(
                f"no such device {device!r}: torch sees {has}", where="--device", mend="Give --device cpu, or auto"
            )
        return torch.device("cuda", index)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentProblemError(
            "no such device 'mps': torch sees no Apple GPU", where="--device", mend="Give --device cpu, or auto"
        )
    return found


def find_dtype(dtype: str) -> torch.dtype | None:
    """The dtype of a --dtype option; None for auto.

    Raises:
        UsageError: no such dtype.
    """
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", where="--dtype", mend=f"Give auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


@contextmanager
def _loading(source: str, folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a model is made of a checkpoint into an error that says so."""
    try:
        with quiet_transformers():
            yield
    except QuailError:
        raise
    except Exception as error:  # the files are anybody's, and transformers may fail on them in any way
        if is_out_of_memory(error):
            raise EnvironmentProblemError(
                "out of memory while loading the model",
                where=source,
                mend="Use a device with more memory, or --dtype bfloat16",
            ) from error
        if isinstance(error, ImportError):
            raise EnvironmentProblemError(f"a package is missing: {error}", where=source) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInputError(f"transformers cannot load the model: {lines[0]}", where=str(folder)) from error


def _load_as_stored(base: Checkpoint) -> tuple[PreTrainedModel, torch.dtype]:
    """The whole model on the CPU, in the checkpoint's own dtype, and that dtype."""
    config = None
    if not (base.folder / "config.json").exists() or not knows_version_5():
        settings = as_this_version_spells_it(base.config)  # another checkpoint's may stand in
        config = AutoConfig.for_model(settings.pop("model_type", ""), **settings)
    asked_type = {"dtype" if knows_version_5() else "torch_dtype": "auto"}
    auto: Any = AutoModelForSequenceClassification if is_classifier(base.config) else AutoModelForCausalLM
    model = _complete(
        auto.from_pretrained(
            base.folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **asked_type,
        ),
        base,
    )
    return model, model.dtype


def _load_dequantized(base: Checkpoint) -> tuple[PreTrainedModel, torch.dtype]:
    """The model of weights that are stored quantized, or in a GGUF file, on the CPU, and the dtype of its config.

    In float32, which holds every dequantized value exactly whatever its type is.
    """
    settings = as_this_version_spells_it(base.config)
    config = AutoConfig.for_model(settings.pop("model_type", ""), **settings)
    own_dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    auto: Any = AutoModelForSequenceClassification if is_classifier(base.config) else AutoModelForCausalLM
    kind: Any = auto._model_mapping[type(config)]
    loaded = kind.from_pretrained(
        None,
        config=config,
        state_dict={name: base.read(name).float() for name in base.names},
        output_loading_info=True,
        **{"dtype" if knows_version_5() else "torch_dtype": torch.float32},
    )
    model = _complete(loaded, base)
    if (base.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(base.folder, local_files_only=True)
    return model, own_dtype if isinstance(own_dtype, torch.dtype) else torch.float32


def _complete(loaded: Any, base: Checkpoint) -> PreTrainedModel:
    """The model of transformers' (model, loading info), where no weight of it was left to chance."""
    model, found = loaded
    if absent := sorted(found["missing_keys"]):
        raise BadInputError(
            f"lacks {len(absent)} weights of a {type(model).__name__}, which would be random: {absent[0]}",
            where=str(base.folder),
            mend="Forgetting is measured on models with their head; leave --data out to measure weights only",
        )
    if not isinstance(model, PreTrainedModel):
        raise BadInputError("this is no language model", where=str(base.folder))
    return model


def _with_adapter(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """An adapter's base with the adapter merged into it; any other model as it is."""
    if checkpoint.adapter_of is None:
        return model
    from peft import PeftModel

    merged = PeftModel.from_pretrained(model, checkpoint.folder, local_files_only=True).merge_and_unload()
    if not isinstance(merged, PreTrainedModel):
        raise BadInputError("this is no language model", where=str(checkpoint.folder))
    return merged


def _round_layers(
    model: PreTrainedModel,
    scheme: Scheme | ByLayer | None,
    layers: Sequence[Layer],
    device: torch.device,
    computing: torch.dtype,
    where: str,
) -> tuple[Execution, str]:
    if scheme is None:
        return "full precision", ""
    absent = [layer.name for layer in layers if not _has(model, layer.name)]
    if absent:
        raise BadInputError(
            f"the model that transformers makes of the checkpoint has no layer {absent[0]} ({len(absent)} are absent)",
            where=where,
        )
    if device.type == "cuda" and isinstance(scheme, FourBit):
        for layer in layers:
            linear = _linear4bit(model.get_submodule(layer.name), scheme, computing, transposed=layer.transposed)
            model.set_submodule(layer.name, linear.to(device))
        return "bitsandbytes Linear4bit", ""
    for layer in layers:
        module = model.get_submodule(layer.name)
        weight = _matrix(module, transposed=layer.transposed)
        rounded = (scheme.schemes[layer.name] if isinstance(scheme, ByLayer) else scheme).deployed(weight)
        # a new parameter, not new values: the weight may be tied to an embedding, which is not rounded
        module.weight = nn.Parameter(rounded.T.contiguous() if layer.transposed else rounded, requires_grad=False)
    if isinstance(scheme, FourBit):
        return "dequantized weights", (
            f"on {device.type} bitsandbytes' modules are slow or compute in bfloat16; the weights' values are the same"
        )
    if isinstance(scheme, Int8):
        return "dequantized weights", "the layers' inputs, which LLM.int8() rounds as well, are left as they are"
    return "dequantized weights", "the scheme has no modules of its own; the values are those it is deployed with"


def _has(model: PreTrainedModel, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name).weight, torch.Tensor)
    except AttributeError:
        return False


def _matrix(module: nn.Module, *, transposed: bool) -> torch.Tensor:
    """A layer's weights [outputs, inputs]."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - _has() saw to it
    return weight.detach().T.contiguous() if transposed else weight.detach()


def _linear4bit(module: nn.Module, scheme: FourBit, computing: torch.dtype, *, transposed: bool) -> nn.Module:
    """The module that transformers puts in a layer's place; its weights are quantized on its way to a device."""
    library = bitsandbytes()
    weight = _matrix(module, transposed=transposed)
    bias = getattr(module, "bias", None)
    linear: nn.Module = library.nn.Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        compute_dtype=computing,
        compress_statistics=scheme.double_quantization,
        quant_type=scheme.kind,
        device="meta",
    )
    linear.weight = library.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=scheme.double_quantization,
        quant_type=scheme.kind,
        module=linear,
    )
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def _plain_greedy(found: GenerationConfig | None) -> GenerationConfig:
    """A checkpoint's generation settings without its penalties and the like, which are no greedy decoding."""
    special = {} if found is None else {"bos_token_id": found.bos_token_id, "eos_token_id": found.eos_token_id}
    return GenerationConfig(**special)  # type: ignore[no-untyped-call]


def _tokenizer_class(folder: Path) -> Any:
    """AutoTokenizer, but where it is too old to know version 5's general class: that of 4.47 reads the same file."""
    config = folder / "tokenizer_config.json"
    if knows_version_5() or not (folder / "tokenizer.json").exists() or not config.exists():
        return AutoTokenizer
    named = read_json_object(config).get("tokenizer_class")
    return PreTrainedTokenizerFast if named == "TokenizersBackend" else AutoTokenizer


def _with_padding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint
) -> tuple[str, ...]:
    """See that a classifier knows its padding token: a decoder finds the last token of a text by it.

    Raises:
        BadInputError: neither it nor its tokenizer has one that no text ends with.
    """
    config: Any = model.config.get_text_config()
    if config.pad_token_id is not None:
        return ()
    padding = tokenizer.pad_token_id
    if padding is None or tokenizer("a")["input_ids"][-1:] == [padding]:
        raise BadInputError(
            "the classifier names no padding token, so several texts cannot be read at once",
            where=f"{checkpoint.folder}/config.json",
            mend="Set pad_token_id, to a token that no text ends with",
        )
    config.pad_token_id = padding
    return (f"{checkpoint.source} names no padding token; its tokenizer's was used",)


def load_tokenizer(
    checkpoint: Checkpoint, stand_in: Checkpoint | None
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """A checkpoint's tokenizer, or its base's, or the stand-in's; and a note where it is not its own.

    Raises:
        BadInputError: there is none, or it cannot be read.
    """
    candidates = [checkpoint, checkpoint.adapter_of, stand_in]
    for candidate in candidates:
        if candidate is None:
            continue
        beside = any((candidate.folder / name).exists() for name in TOKENIZER_FILES)
        if not beside and candidate.gguf is None:
            continue
        file = {} if beside or candidate.gguf is None else {"gguf_file": candidate.gguf.name}
        try:
            with quiet_transformers():
                tokenizer: PreTrainedTokenizerBase = _tokenizer_class(candidate.folder).from_pretrained(
                    candidate.folder, local_files_only=True, trust_remote_code=False, **file
                )
        except Exception as error:  # as in _loading
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BadInputError(f"the tokenizer cannot be read: {lines[0]}", where=str(candidate.folder)) from error
        if candidate is checkpoint:
            return tokenizer, ()
        return tokenizer, (f"{checkpoint.source} has no tokenizer; that of {candidate.source} was used",)
    raise BadInputError(
        "the checkpoint has no tokenizer",
        where=str(checkpoint.folder),
        mend=f"Put one beside the weights: {TOKENIZER_FILES[0]}, or {TOKENIZER_FILES[1]}",
    )
