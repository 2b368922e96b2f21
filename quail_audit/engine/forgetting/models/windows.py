"""Tell how many tokens of a text a model reads."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from quail_audit.engine.checkpoints.model.model_config import LARGEST_WINDOW, ModelConfig


def window_of_language_model(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the number of tokens that the model was made for, else its tokenizer's limit; None if neither tells."""
    return model.window if model.window is not None else _limit_of(tokenizer)


def window_of_classifier(model: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens of a text a deployed classifier reads; None if nothing tells.

    This is the tokenizer's limit, if it has one, and no more than the model has positions for.
    """
    limits = [limit for limit in (model.window, _limit_of(tokenizer)) if limit is not None]
    return min(limits) if limits else None


def _limit_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the limit that a tokenizer was saved with; None if it has none, which it writes as a huge number."""
    limit = tokenizer.model_max_length
    return int(limit) if 0 < limit < LARGEST_WINDOW else None
