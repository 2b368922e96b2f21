"""Writes a trained checkpoint: the source's own files, with the trained tensors in the place of theirs.

Every tensor that was not trained is copied from the source's files, so it is the same to the last bit; trained ones
are written in the type they had. Not here: the model card (card.py).
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.errors import EnvironmentProblemError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from quail_audit.checkpoints.checkpoint import Checkpoint

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # where the source's own files cannot tell; transformers' default
_UNFINISHED = ".unfinished"


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", where=f"--out {folder}", mend="Name a folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise UsageError(
            "the folder is not empty", where=f"--out {folder}", mend="Name a new folder, or give --overwrite"
        )


def write_checkpoint(
    folder: Path, source: Checkpoint, trained: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase
) -> int:
    """Write a folder that AutoModelForCausalLM loads.

    Every file is there whole or not at all. Memory: one file of weights at a time.

    Args:
        folder: made if absent; files of the same names are replaced.
        source: the checkpoint that training began with; of an adapter, merged.
        trained: stored tensor -> its new values, in any type and on any device, shaped as stored.
        tokenizer: that belongs to it.

    Returns:
        How many of the trained weights are as they were: training did not move them, or not by as much as their type
        can tell.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    unmoved = 0
    with _writable(folder):
        unfinished = folder / _UNFINISHED
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            shards = _shards(source)
            for name, tensors in shards.items():
                contents = {}
                for tensor in tensors:
                    contents[tensor] = old = source.read(tensor)
                    if tensor in trained:
                        contents[tensor] = new = trained[tensor].detach().to("cpu", old.dtype).contiguous()
                        unmoved += int((new == old).sum())
                save_file(contents, unfinished / name, metadata={"format": "pt"})
            if list(shards) != [SINGLE]:
                (unfinished / INDEX).write_text(_index(source, shards), encoding="utf-8")
            base = source.adapter_of or source
            (unfinished / "config.json").write_text(json.dumps(dict(base.config), indent=2) + "\n", encoding="utf-8")
            if (base.folder / "generation_config.json").exists():
                shutil.copyfile(base.folder / "generation_config.json", unfinished / "generation_config.json")
            tokenizer.save_pretrained(unfinished)
            for path in sorted(unfinished.iterdir()):
                path.replace(folder / path.name)
        finally:
            with suppress(OSError):
                shutil.rmtree(unfinished)
    return unmoved


def _shards(source: Checkpoint) -> dict[str, list[str]]:
    """File name -> the tensors in it: as the source has them, or filled up to SHARD_BYTES."""
    from quail_audit.checkpoints.weight_files import WeightFiles

    if isinstance(source.files, WeightFiles) and source.files.format == "safetensors":
        shards: dict[str, list[str]] = {}
        for tensor in source.names:
            shards.setdefault(source.files.file_of[tensor].name, []).append(tensor)
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
    if len(filled) == 1:
        return {SINGLE: filled[0]}
    return {f"model-{i:05d}-of-{len(filled):05d}.safetensors": names for i, names in enumerate(filled, start=1)}


def _index(source: Checkpoint, shards: Mapping[str, list[str]]) -> str:
    total = sum(_bytes_of(source, tensor) for tensors in shards.values() for tensor in tensors)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def _bytes_of(source: Checkpoint, tensor: str) -> int:
    import math

    info = source.info(tensor)
    return math.prod(info.shape) * info.dtype.itemsize


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error
    except SafetensorError as error:  # it hides the operating system's error in its text
        full = f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
        raise cannot_write(folder, OSError(errno.ENOSPC if full else errno.EIO, str(error))) from error


def cannot_write(folder: Path, error: OSError) -> EnvironmentProblemError:
    """The operating system's refusal to write here."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblemError(
            "the disk is full", where=str(folder), mend="Free some space, or name a folder on another disk with --out"
        )
    return EnvironmentProblemError(
        f"cannot write the checkpoint: {error.strerror or error}", where=str(folder), mend="Name a writable folder"
    )
