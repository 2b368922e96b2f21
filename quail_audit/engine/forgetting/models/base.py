"""Define the base class of models under evaluation: batching, context window, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.models.batches import batch_size_for
from quail_audit.engine.forgetting.models.forward import vocabulary_of
from quail_audit.engine.forgetting.models.nonfinite import refuse_nonfinite
from quail_audit.engine.forgetting.models.ways import ways_of
from quail_audit.runs.journal import Journal

# A probability that is not finite counts as this: the logarithm of float32's smallest normal number.
LEAST_LOG_PROBABILITY = float(np.log(np.finfo(np.float32).tiny))


class EvaluatedModel:
    """A model and its tokenizer.

    Args:
        model: the model, on its device; put into eval mode.
        tokenizer: its own tokenizer.
        window: how many tokens of a text it reads; None: unknown.
        batch_size: rows at once; None: by the free memory.
        journal: keeps the results of batches, and has those of a stopped audit; None: nothing is kept.

    Attributes:
        size: size of the batches.
        notes: what a reader of the report should know, each once.
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

    def replace_nonfinite(self, found: npt.NDArray[np.float32], of: str, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return log-probabilities with a finite number for each token or label that the model masks; note that.

        Args:
            found: minus infinity if the model masks it, NaN if its logits are not finite.
            of: "tokens" or "labels".
            ids: of the text.

        Raises:
            NonfiniteLogitsError: the logits are not finite; says from which layer on.
        """
        if np.isnan(found).any():
            refuse_nonfinite(self.model, [ids])
        finite = np.isfinite(found)
        if not finite.all():
            self.note(f"the model gives some {of} no finite probability; they count as 1e-38")
        return np.where(finite, found, np.float32(LEAST_LOG_PROBABILITY))

    def note_cut(self, count: int, what: str, how: str) -> None:
        """Note how many prompts or texts are longer than the window, if any."""
        if count:
            self.note(f"{count} {what} are longer than the model's window of {self.window} tokens and {how}")

    def note_ways(self) -> None:
        """Note in which ways the model could not be asked, as far as they were found out."""
        for note in ways_of(self.model).notes:
            self.note(note)

    def note(self, note: str) -> None:
        """Add a note, once."""
        if note not in self.notes:
            self.notes.append(note)


def refuse_unknown_tokens(ids: Sequence[int], model: PreTrainedModel) -> None:
    """Raise BadInputError if a model has no embedding for a token."""
    vocabulary = vocabulary_of(model)
    if ids and max(ids) >= vocabulary:
        raise BadInputError(
            f"the tokenizer does not belong to this model: it gives token {max(ids)}, the model knows {vocabulary}"
        )
