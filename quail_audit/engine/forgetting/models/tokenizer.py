"""Load a checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.transformers_rules import is_version_5
from quail_audit.engine.checkpoints.weight_files import read_json_object
from quail_audit.engine.forgetting.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


def _tokenizer_class(folder: Path) -> Any:
    """Return AutoTokenizer, or the class of 4.47 that reads the same file if it cannot know version 5's."""
    config = folder / "tokenizer_config.json"
    if is_version_5() or not (folder / "tokenizer.json").exists() or not config.exists():
        return AutoTokenizer
    named = read_json_object(config).get("tokenizer_class")
    return PreTrainedTokenizerFast if named == "TokenizersBackend" else AutoTokenizer


def load_tokenizer(
    checkpoint: Checkpoint, stand_in: Checkpoint | None
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """Return a checkpoint's tokenizer, or its base's, or the stand-in's; and a note if it is not its own.

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
