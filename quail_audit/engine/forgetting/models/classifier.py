"""Run a sequence classifier of transformers: texts in, probabilities of labels out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models.base import EvaluatedModel, refuse_unknown_tokens
from quail_audit.engine.forgetting.models.batches import run_in_batches, token_bytes
from quail_audit.engine.forgetting.models.forward import asking
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.engine.forgetting.models.windows import window_of_classifier
from quail_audit.runs.journal import Journal

F32 = npt.NDArray[np.float32]


class TransformersClassifier(EvaluatedModel):
    """Implements interface.Classifier. Remembers its answers, as several metrics ask of the same texts.

    Args: as in EvaluatedModel.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        window = window_of_classifier(read_model_config(model.config), tokenizer)
        super().__init__(model, tokenizer, window=window, batch_size=batch_size, journal=journal)
        self._answered: dict[str, F32] = {}

    def label_log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, F32]]:
        """See interface.Classifier."""
        for index, text in enumerate(texts):
            if text in self._answered:
                yield index, self._answered[text]
        places: dict[str, list[int]] = {}
        for index, text in enumerate(texts):
            if text not in self._answered:
                places.setdefault(text, []).append(index)
        unread = list(places)
        whole = [token_ids_of(text, self.model, self.tokenizer, None) for text in unread]
        longer = sum(self.window is not None and len(ids) > self.window for ids in whole)
        self.note_cut(longer, "texts", "were cut to it")
        encoded = [
            ids
            if self.window is None or len(ids) <= self.window
            else token_ids_of(text, self.model, self.tokenizer, self.window)
            for text, ids in zip(unread, whole, strict=True)
        ]

        def run(batch: Sequence[int]) -> list[F32]:
            ids, mask = pad_right([encoded[place] for place in batch], padding_id(self.model))
            with asking(self.model, f"a text of {ids.shape[1]} tokens"), torch.inference_mode():
                model: Any = self.model
                logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            return list(torch.log_softmax(logits.float(), dim=-1).cpu().numpy())

        token = token_bytes(self.model)
        for place, found in run_in_batches([len(ids) for ids in encoded], lambda n: n * token, self.size, run):
            self._answered[unread[place]] = answered = self.replace_nonfinite(found, "labels", encoded[place])
            for index in places[unread[place]]:
                yield index, answered


def token_ids_of(text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int | None) -> list[int]:
    """Return a text's tokens with the special ones, at least one, cut to `most` as the tokenizer cuts.

    Raises:
        BadInputError: the tokenizer gives tokens that the model does not know.
    """
    with quiet_transformers():  # it warns of long texts
        cut: dict[str, Any] = {} if most is None else {"truncation": True, "max_length": most}
        ids: list[int] = tokenizer(text, add_special_tokens=True, **cut)["input_ids"]
    refuse_unknown_tokens(ids, model)
    # an empty text may have no token at all; a model needs one
    return ids or [next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)]


def pad_right(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids padded on the right, and the mask of what is not padding: int64 [rows, longest] each."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def padding_id(model: PreTrainedModel) -> int:
    """Return the padding token: a decoder finds a text's last token by it (see load.py), RoBERTa its positions."""
    return read_model_config(model.config).padding_id or 0
