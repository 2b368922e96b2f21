"""What asking a model has in common, whatever it is asked: its batches, its window, and what happened on the way.

Not here: the questions (language_model.py, classifier.py), and loading (arms.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models.batches import batch_size_for
from quail_audit.runs.journal import Journal

# What a probability that is no finite number counts as: the logarithm of float32's smallest normal number.
LEAST_LOG_PROBABILITY = float(np.log(np.finfo(np.float32).tiny))
LARGEST_WINDOW = 10**9  # tokenizers write a far larger number where they know of no window


class EvaluatedModel:
    """A model and its tokenizer.

    Args:
        model: on its device; put into eval mode.
        tokenizer: its own.
        window: how many tokens of a text it reads; None: unknown.
        batch_size: rows at once; None: by the memory there is.
        journal: where the results of batches are kept, and found again; None: nowhere.

    Attributes:
        size: of the batches.
        notes: what happened that the reader of the report should know, each said once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        window: int | None,
        batch_size: int | None,
        journal: Journal | None,
    ) -> None:
        self.model: PreTrainedModel = model.eval()  # type: ignore[no-untyped-call]
        self.tokenizer = tokenizer
        self.window = window
        self.size = replace(batch_size_for(model.device, batch_size), journal=journal or Journal())
        self.notes: list[str] = []

    def replace_nonfinite(self, found: npt.NDArray[np.float32], of: str) -> npt.NDArray[np.float32]:
        """Log-probabilities of tokens or labels with a number in every place."""
        finite = np.isfinite(found)
        if not finite.all():
            self.note(f"the model gives some {of} no finite probability; they count as 1e-38")
        return np.where(finite, found, np.float32(LEAST_LOG_PROBABILITY))

    def note_cut(self, count: int, what: str, how: str) -> None:
        """Note how many prompts or texts are longer than the window, where any is."""
        if count:
            self.note(f"{count} {what} are longer than the model's window of {self.window} tokens and {how}")

    def note(self, note: str) -> None:
        """Note it once."""
        if note not in self.notes:
            self.notes.append(note)


def refuse_unknown_tokens(ids: Sequence[int], model: PreTrainedModel) -> None:
    """Raises BadInputError where a model has no embedding for a token."""
    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    if ids and max(ids) >= vocabulary:
        raise BadInputError(
            f"the tokenizer does not belong to this model: it gives token {max(ids)}, the model knows {vocabulary}"
        )
