"""Write a checkpoint: the source's tensors, with the trained ones in place of theirs.

A tensor that was not trained is copied, so it is the same to the last bit; a trained one is written in the dtype it
had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from quail_audit.core.errors import QuailError, UsageError
from quail_audit.core.writing import explain_write_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # if the source's files are not safetensors; transformers' default
_UNFINISHED = ".unfinished"
_DTYPES = {  # torch's names -> safetensors'
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def check_free(folder: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Refuse a folder that is not empty.

    Raises:
        UsageError: it holds something, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=f"{option} {folder}", mend="Name a folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise UsageError(
            "the folder is not empty", where=f"{option} {folder}", mend="Name a new folder, or give --overwrite"
        )


def write_checkpoint(
    folder: Path, source: Checkpoint, trained: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase | None
) -> int:
    """Write a folder that transformers loads as it loads the source.

    Every file is there whole or not at all. Memory: one tensor at a time, besides what `trained` holds.

    Args:
        folder: made if absent; files of the same names are replaced.
        source: the checkpoint that training began with; an adapter is merged.
        trained: stored tensor -> its new values, in any dtype and on any device, shaped as stored. Each is read once,
            when it is written.
        tokenizer: tokenizer to write; None if there is none.

    Returns:
        The number of trained weights that are as before: training did not move them, or by less than their dtype can
        hold.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    unmoved = 0
    with replace_together(folder) as unfinished:
        shards = _shards(source)
        for name, tensors in shards.items():
            unmoved += _write_shard(unfinished / name, source, tensors, trained)
        write_index(unfinished, shards, sum(_bytes_of(source, name) for tensors in shards.values() for name in tensors))
        write_description(unfinished, source, {}, tokenizer)
    return unmoved


@contextmanager
def replace_together(folder: Path) -> Iterator[Path]:
    """Make a folder to write into; its files move to `folder` when all are written, or are removed if one fails.

    Older weight files in `folder` are removed: transformers would read them beside the new ones, or instead.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    with checkpoint_writable(folder):
        unfinished = folder / _UNFINISHED
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            made = {path.name for path in unfinished.iterdir()}
            for name in sorted(made):
                (unfinished / name).replace(folder / name)
            for path in (*folder.glob("model*.safetensors"), folder / INDEX):
                if path.name not in made:
                    path.unlink(missing_ok=True)
        finally:
            with suppress(OSError):
                shutil.rmtree(unfinished)


def name_shards(shards: Sequence[list[str]]) -> dict[str, list[str]]:
    """Return file name -> the tensors in it, as transformers names files."""
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, start=1)}


def write_index(folder: Path, shards: Mapping[str, Sequence[str]], total_bytes: int) -> None:
    """Write the index of which file holds each tensor; a single file needs none."""
    if list(shards) != [SINGLE]:
        weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_description(
    folder: Path, source: Checkpoint, added: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Write the files beside the weights: the source's configuration with additions, and the tokenizer."""
    base = source.adapter_of or source
    (folder / "config.json").write_text(json.dumps({**base.config, **added}, indent=2) + "\n", encoding="utf-8")
    if (base.folder / "generation_config.json").exists():
        shutil.copyfile(base.folder / "generation_config.json", folder / "generation_config.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _write_shard(path: Path, source: Checkpoint, tensors: Sequence[str], trained: Mapping[str, torch.Tensor]) -> int:
    """Write a safetensors file tensor by tensor; its library needs all in memory. Return how many weights are unmoved.

    The format (huggingface.co/docs/safetensors): the header's length in 8 bytes, the header as JSON, the tensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + _bytes_of(source, tensor)
        info = source.info(tensor)
        header[tensor] = {"dtype": _DTYPES[str(info.dtype)], "shape": list(info.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors, as the library does
    unmoved = 0
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            values = old = source.read(tensor)
            if tensor in trained:
                values = trained[tensor].detach().to("cpu", old.dtype)
                unmoved += int((values == old).sum())
            _write_bytes(file, values)
    return unmoved


def _write_bytes(file: BinaryIO, values: torch.Tensor) -> None:
    import torch

    # Not numpy's tofile: its error does not say that the disk is full.
    file.write(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _shards(source: Checkpoint) -> dict[str, list[str]]:
    """Return file name -> the tensors in it: the source's files, or files filled up to SHARD_BYTES."""
    from quail_audit.engine.checkpoints.loaded_weights import LoadedWeights

    files = (source.adapter_of or source).files
    if isinstance(files, LoadedWeights) and files.is_as_transformers_reads_it:
        file_of = files.file_of
        shards: dict[str, list[str]] = {}
        for tensor in source.names:
            shards.setdefault(file_of[tensor].name, []).append(tensor)
        return shards
    filled: list[list[str]] = [[]]
    size_bytes = 0
    for tensor in source.names:
        bytes_of_this = _bytes_of(source, tensor)
        if filled[-1] and size_bytes + bytes_of_this > SHARD_BYTES:
            filled.append([])
            size_bytes = 0
        filled[-1].append(tensor)
        size_bytes += bytes_of_this
    return name_shards(filled)


def _bytes_of(source: Checkpoint, tensor: str) -> int:
    import math

    info = source.info(tensor)
    return math.prod(info.shape) * info.dtype.itemsize


@contextmanager
def checkpoint_writable(folder: Path) -> Iterator[None]:
    """Turn an error of writing a checkpoint here into one that the user can act on.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    with explain_write_errors(folder):
        try:
            yield
        except Exception as error:
            # safetensors and tokenizers put the operating system's error into the text of their own exceptions.
            found = None if isinstance(error, QuailError | OSError) else re.search(r"\(os error (\d+)\)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
