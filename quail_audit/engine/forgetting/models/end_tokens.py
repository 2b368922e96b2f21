"""Find the tokens that end a model's answer.

They are those of generation_config.json, else of config.json, and the tokenizer's own: a chat model's answer ends with
either its turn or its text, and whoever deploys it stops at both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.core.errors import first_line
from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.models.forward import vocabulary_of

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint

_NOTE_CHARACTERS = 200


def find_end_ids(
    settings: GenerationConfig | None, config: Any, vocabulary: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids that end a text, those that the model has; and a note if others are named.

    Args:
        settings: the model's generation settings.
        config: its configuration.
        vocabulary: how many tokens it has an embedding for.
        tokenizer: its tokenizer.
    """
    named = _listed_ids(getattr(settings, "eos_token_id", None))
    for part in (config, config.get_text_config(decoder=True)):
        named = named or _listed_ids(getattr(part, "eos_token_id", None))
    named = tuple(dict.fromkeys((*named, *_listed_ids(tokenizer.eos_token_id))))
    outside = [token for token in named if not 0 <= token < vocabulary]
    if not outside:
        return named, ()
    listed = ", ".join(map(str, outside[:3])) + (", …" if len(outside) > 3 else "")
    note = f"end tokens outside the model's vocabulary of {vocabulary} tokens were ignored: {listed}"
    return tuple(token for token in named if token not in outside), (note,)


def end_ids_of_checkpoint(
    checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return what find_end_ids() returns for a checkpoint that is not loaded.

    Args:
        checkpoint: a whole model's.
        model: its model without weights.
        tokenizer: what it is asked with.
    """
    untyped: Any = model  # transformers types this by halves
    settings = untyped.generation_config
    unread: tuple[str, ...] = ()
    if (checkpoint.folder / "generation_config.json").exists():
        try:
            settings = GenerationConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        except Exception as error:  # the file is untrusted, and transformers may fail on it in any way
            why = printable(first_line(error), limit=_NOTE_CHARACTERS)
            unread = (f"generation_config.json cannot be read: {why}",)
    found, notes = find_end_ids(settings, model.config, vocabulary_of(model), tokenizer)
    return found, (*unread, *notes)


def _listed_ids(found: object) -> tuple[int, ...]:
    """Return the ids that a configuration names: one, several or none."""
    ids = found if isinstance(found, list | tuple) else (found,)
    return tuple(token for token in ids if isinstance(token, int) and not isinstance(token, bool))
