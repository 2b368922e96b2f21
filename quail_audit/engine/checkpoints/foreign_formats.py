"""Refuse checkpoints in formats that only their trainer or exporter reads, with what converts them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.weight_files import short_list

_DESCRIBE = "then copy config.json and the tokenizer's files beside the result"


class _Format(NamedTuple):
    """A format that Quail does not read.

    Attributes:
        patterns: files that tell it, as globs from the folder.
        words: what it is.
        mend: what converts it; {folder} is the folder, {path} as well but not quoted for a shell, {parent}
            the folder of the file that told.
    """

    patterns: tuple[str, ...]
    words: str
    mend: str


_DISTRIBUTED = (
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} OUT/pytorch_model.bin, " + _DESCRIBE
)
_FORMATS = (
    _Format(
        ("pytorch_model_fsdp_*/*.distcp", "pytorch_model_fsdp_*/.metadata"),
        "FSDP's shards of a model",
        "Merge them: accelerate merge-weights {parent} OUT, " + _DESCRIBE,
    ),
    _Format(
        ("global_step*", "zero_pp_rank_*_states.pt", "bf16_zero_pp_rank_*", "*_zero_pp_rank_*_optim_states.pt"),
        "a DeepSpeed checkpoint",
        "Gather its weights: python {folder}/zero_to_fp32.py {folder} OUT --safe_serialization (or "
        "python -m deepspeed.utils.zero_to_fp32 {folder} OUT --safe_serialization), " + _DESCRIBE,
    ),
    _Format(
        ("iter_*/*", "mp_rank_*/model_optim_rng.pt", "latest_checkpointed_iteration.txt", "mp_rank_*/*.pt"),
        "a Megatron checkpoint",
        "Convert it with Megatron Bridge: AutoBridge.from_hf_pretrained(ORIGINAL)"
        ".export_ckpt(megatron_path={path!r}, hf_path=OUT)",
    ),
    _Format(("*.nemo",), "a NeMo archive", "Convert it with NeMo's own exporter to Hugging Face's format"),
    _Format(("*.distcp", ".metadata"), "a distributed checkpoint of torch", "Merge it: " + _DISTRIBUTED),
    _Format(
        ("*/*.distcp", "*/.metadata"),
        "a distributed checkpoint of torch",
        "Merge it; python -m torch.distributed.checkpoint.format_utils dcp_to_torch wants the folder that holds "
        ".distcp files, and OUT/pytorch_model.bin; " + _DESCRIBE,
    ),
    _Format(
        ("consolidated*.pth", "original/consolidated*.pth"),
        "a checkpoint in Meta's own format",
        "Convert it: python -m transformers.models.llama.convert_llama_weights_to_hf --input_dir {folder} "
        "--model_size SIZE --output_dir OUT",
    ),
    _Format(
        ("consolidated*.safetensors", "params.json"),
        "a checkpoint in Mistral's own format",
        "Give the same model in Hugging Face's format, or convert it: python -m "
        "transformers.models.mistral.convert_mistral_weights_to_hf --input_dir {folder} --output_dir OUT",
    ),
    _Format(
        ("flax_model*.msgpack", "flax_model*.index.json"),
        "a Flax model",
        "Convert it with transformers 4: AutoModelForCausalLM.from_pretrained({path!r}, from_flax=True)"
        ".save_pretrained(OUT)",
    ),
    _Format(
        ("tf_model*.h5", "tf_model*.index.json", "model.ckpt*"),
        "a TensorFlow model",
        "Convert it with transformers 4: AutoModelForCausalLM.from_pretrained({path!r}, from_tf=True)"
        ".save_pretrained(OUT)",
    ),
    _Format(
        ("*.onnx", "onnx/*.onnx", "openvino_model.*", "*.mlmodel", "*.engine", "*.tflite", "rust_model.ot"),
        "an exported model, which is not converted back",
        "Give the PyTorch checkpoint that it was exported from",
    ),
    _Format(
        ("weights*.npz", "*.npz"), "an MLX or NumPy archive", "Save it as safetensors under the names of transformers"
    ),
)
_PARTIAL = (
    ".cache/huggingface/download/*.incomplete",
    "*.incomplete",
    "*.part",
    "*.crdownload",
    "*.aria2",
    "*.partial",
)


def refuse_foreign_format(folder: Path) -> None:
    """Refuse a folder without weights that transformers reads, if it holds those of a format that is known.

    Raises:
        BadInputError: names the format, and the command that converts it.
    """
    for format_ in _FORMATS:
        found = next((path for pattern in format_.patterns for path in sorted(folder.glob(pattern))), None)
        if found is not None:
            raise BadInputError(
                f"holds {format_.words}, which transformers does not read: "
                f"{short_list([str(found.relative_to(folder))])}",
                where=str(folder),
                mend=format_.mend.format(
                    folder=shlex.quote(str(folder)), path=str(folder), parent=shlex.quote(str(found.parent))
                ),
            )


def is_split_gguf(path: Path) -> bool:
    """Tell whether a GGUF file is one part of several, by its name."""
    return re.search(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", path.name) is not None


def refuse_split_gguf(path: Path) -> None:
    """Refuse a part of a GGUF file that was split.

    Raises:
        BadInputError: says how to merge the parts.
    """
    if is_split_gguf(path):
        first = path.with_name(re.sub(r"-\d{5}-of-", "-00001-of-", path.name))
        raise BadInputError(
            "is one part of a GGUF file that was split",
            where=str(path),
            mend=f"Merge the parts: llama-gguf-split --merge {shlex.quote(str(first))} OUT.gguf",
        )


def no_weights_error(folder: Path) -> BadInputError:
    """Return the refusal of a folder in which no weights were found."""
    found = sorted(path.name for path in folder.iterdir())
    return BadInputError(
        "holds no weights: expected model.safetensors or pytorch_model.bin, single or with an index; "
        f"found {short_list(found)}",
        where=str(folder),
        mend=unfinished_download(folder) or "Name the folder that the model was saved to: save_pretrained(folder)",
    )


def unfinished_download(folder: Path) -> str:
    """Return how to go on with a download of which a part lies in the folder; "" if there is none."""
    part = next((path for pattern in _PARTIAL for path in sorted(folder.glob(pattern))), None)
    if part is None:
        return ""
    return (
        f"A download is not finished ({short_list([part.name])}): go on with hf download ORG/NAME --local-dir "
        f"{shlex.quote(str(folder))}"
    )
