"""Run a transformers language model for the metrics: text in, text or probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.engine.checkpoints.model_config import LARGEST_WINDOW, read_model_config
from quail_audit.engine.forgetting.models.base import EvaluatedModel, refuse_unknown_tokens
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.log_probabilities import log_probabilities
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.runs.journal import Journal


class TransformersModel(EvaluatedModel):
    """Implements interface.LanguageModel. Remembers the probabilities of texts, as several metrics read the same.

    Args:
        model: as in EvaluatedModel.
        tokenizer: its tokenizer, which need not have a padding token.
        batch_size, journal: as in EvaluatedModel.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__(model, tokenizer, window=_window(model, tokenizer), batch_size=batch_size, journal=journal)
        self.end_ids = _end_ids(model, tokenizer)
        self._read: dict[str, npt.NDArray[np.float32]] = {}

    def continuations(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop_words: Sequence[str] = ()
    ) -> Iterator[tuple[int, str]]:
        """See interface.LanguageModel."""
        new = max_new_tokens if self.window is None else max(1, min(max_new_tokens, self.window // 2))
        encoded = [self._encode(prompt) for prompt in prompts]
        if self.window is not None:
            kept = self.window - new
            self.note_cut(sum(len(ids) > kept for ids in encoded), "prompts", "lost their beginning")
            encoded = [ids[-kept:] for ids in encoded]

        def is_over(ids: Sequence[int]) -> bool:
            text = self._decode(ids)
            return any(word in text for word in stop_words)

        found = generate(
            self.model,
            encoded,
            max_new_tokens=new,
            end_ids=self.end_ids,
            size=self.size,
            is_over=is_over if stop_words else None,
        )
        for index, ids in found:
            text = self._decode(ids)
            for word in stop_words:
                text = text.split(word)[0]
            yield index, text

    def log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """See interface.LanguageModel."""
        known = [index for index, text in enumerate(texts) if text in self._read]
        unread = [index for index, text in enumerate(texts) if text not in self._read]
        for index in known:
            yield index, self._read[texts[index]]
        encoded = [self._encode_with_start(texts[index]) for index in unread]
        if self.window is not None:
            self.note_cut(sum(len(ids) > self.window for ids in encoded), "texts", "were cut to it")
            encoded = [ids[: self.window] for ids in encoded]
        for place, found in log_probabilities(self.model, encoded, size=self.size):
            index = unread[place]
            self._read[texts[index]] = self.replace_nonfinite(found, "tokens")
            yield index, self._read[texts[index]]

    def cut(self, text: str, tokens: int) -> str:
        """See interface.LanguageModel."""
        return self._decode(self._encode(text)[:tokens])

    def _encode(self, text: str) -> list[int]:
        with quiet_transformers():  # it warns of long texts, which are cut here
            ids: list[int] = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        refuse_unknown_tokens(ids, self.model)
        # some tokenizers give no token for some texts; a model needs one to start from
        return ids or [self._start_id() or 0]

    def _encode_with_start(self, text: str) -> list[int]:
        """Encode a text, with a start before a lone token so that it has a probability."""
        ids = self._encode(text)
        start = self._start_id()
        return [start, *ids] if len(ids) == 1 and start is not None and ids != [start] else ids

    def _start_id(self) -> int | None:
        start: int | None = self.tokenizer.bos_token_id
        return start if start is not None else next(iter(self.end_ids), None)

    def _decode(self, ids: Sequence[int]) -> str:
        """Return text as MUSE's code decodes it: without special tokens, and without the spaces some tokenizers leave.

        The cleaning up is asked for by itself, because transformers now skips it for some tokenizers.
        """
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.tokenizer.clean_up_tokenization(str(text))


def _window(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the number of tokens that the model was made for; None if nothing tells."""
    window = read_model_config(model.config).window
    if window is None and 0 < tokenizer.model_max_length < LARGEST_WINDOW:
        window = int(tokenizer.model_max_length)
    return window


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end a text: the model's own, else the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)
