"""Find the tokens that end a model's answer.

They are those of generation_config.json, else of config.json, and the tokenizer's own: a chat model's answer ends with
either its turn or its text, and whoever deploys it stops at both.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids that end a text, those that the model has; and a note if it names others."""
    named = listed_ids(getattr(model.generation_config, "eos_token_id", None))
    for config in (model.config, model.config.get_text_config(decoder=True)):
        named = named or listed_ids(getattr(config, "eos_token_id", None))
    named = tuple(dict.fromkeys((*named, *listed_ids(tokenizer.eos_token_id))))
    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    outside = [token for token in named if not 0 <= token < vocabulary]
    if not outside:
        return named, ()
    listed = ", ".join(map(str, outside[:3])) + (", …" if len(outside) > 3 else "")
    note = f"end tokens outside the model's vocabulary of {vocabulary} tokens were ignored: {listed}"
    return tuple(token for token in named if token not in outside), (note,)


def listed_ids(found: object) -> tuple[int, ...]:
    """Return the ids that a configuration names: one, several or none."""
    ids = found if isinstance(found, list | tuple) else (found,)
    return tuple(token for token in ids if isinstance(token, int) and not isinstance(token, bool))
