"""Write a checkpoint as a plain folder that a backend can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.config_file import without_foreign_attention
from quail_audit.engine.checkpoints.loaded_weights import LoadedWeights
from quail_audit.engine.checkpoints.model.transformers_rules import config_for_this_version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint


def write_model_folder(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that a backend can load a checkpoint from: safetensors, config.json and a tokenizer.

    Safetensors files are linked, not copied; an adapter is merged, which takes the memory
    and the disk of a whole model.

    Raises:
        BadInputError: the checkpoint has no config.json.
    """
    if not checkpoint.config:
        raise BadInputError("has no config.json, which a backend needs", where=checkpoint.source)
    folder.mkdir()
    files = checkpoint.files
    as_stored = isinstance(files, LoadedWeights) and files.is_as_transformers_reads_it
    weights = sorted({*checkpoint.weight_files}) if as_stored else []
    if checkpoint.adapter is not None or not weights:
        from quail_audit.engine.forgetting.models.load import load_arm

        model = load_arm(checkpoint, None, layers=(), device="cpu", dtype=_own_dtype(checkpoint)).model
        model.save_pretrained(folder)
    else:
        for file in (*weights, *checkpoint.folder.glob("*.safetensors.index.json")):
            (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").write_text(
        json.dumps(config_for_this_version(without_foreign_attention(checkpoint.config)))
    )
    tokenizer.save_pretrained(str(folder))


def _own_dtype(checkpoint: Checkpoint) -> str:
    return checkpoint.facts.dtypes[0]
