"""Run a transformers language model for the metrics: text in, text or probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.metrics.interface import Chat, PromptFormat
from quail_audit.engine.forgetting.models.base import EvaluatedModel, refuse_unknown_tokens
from quail_audit.engine.forgetting.models.chat_templates import make_chats, refuse_unmade
from quail_audit.engine.forgetting.models.end_tokens import find_end_ids
from quail_audit.engine.forgetting.models.forward import vocabulary_of
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.log_probabilities import log_probabilities
from quail_audit.engine.forgetting.models.nonfinite import generate_finite
from quail_audit.engine.forgetting.models.prompts import Encoded, Prompts, Rendered
from quail_audit.engine.forgetting.models.windows import window_of_language_model
from quail_audit.runs.journal import Journal


class TransformersModel(EvaluatedModel):
    """Implements interface.LanguageModel. Remembers the probabilities of texts, as several metrics read the same.

    Args:
        model: as in EvaluatedModel.
        tokenizer: its tokenizer, which need not have a padding token.
        batch_size, journal: as in EvaluatedModel.
        prompt_format: see interface.LanguageModel.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | None = None,
        journal: Journal | None = None,
        prompt_format: PromptFormat = "auto",
    ) -> None:
        window = window_of_language_model(read_model_config(model.config), tokenizer)
        super().__init__(model, tokenizer, window=window, batch_size=batch_size, journal=journal)
        self.prompt_format: PromptFormat = prompt_format
        self.prompts = Prompts(tokenizer)
        self._turn_ends: tuple[int, ...] = ()
        self.end_ids, notes = find_end_ids(model.generation_config, model.config, vocabulary_of(model), tokenizer)
        for note in notes:
            self.note(note)
        self._read: dict[str, npt.NDArray[np.float32]] = {}

    def chat_prompts(self, chats: Sequence[Chat]) -> Sequence[str | None]:
        """See interface.LanguageModel."""
        if self.prompt_format == "raw":
            return [None] * len(chats)
        found = make_chats(self.tokenizer, chats)
        if self.prompt_format == "chat":
            refuse_unmade(found)
        for note in found.notes():
            self.note(note)
        self._turn_ends = found.turn_ends
        return found.prompts

    def continuations(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop_words: Sequence[str] = ()
    ) -> Iterator[tuple[int, str]]:
        """See interface.LanguageModel."""
        new = max_new_tokens if self.window is None else max(1, min(max_new_tokens, self.window // 2))
        encoded = self._encode(prompts, "prompts")
        if self.window is not None:
            encoded = self._cut_prompts(encoded, max(1, self.window - new))

        chats = any(isinstance(prompt, Rendered) for prompt in prompts)

        def is_over(ids: Sequence[int]) -> bool:
            text = self.prompts.decode(ids)
            text = text.lstrip() if chats else text
            return any(word in text for word in stop_words)

        rows = [each.ids for each in encoded]
        found = generate(
            self.model,
            rows,
            max_new_tokens=new,
            end_ids=self.end_ids,
            size=self.size,
            is_over=is_over if stop_words else None,
        )
        for index, ids in generate_finite(self.model, found, rows):
            if isinstance(prompts[index], Rendered):
                # an answer ends with its turn, and may begin with line breaks that say nothing
                ends = next((place for place, token in enumerate(ids) if token in self._turn_ends), len(ids))
                text = self.prompts.decode(ids[:ends], prompt=encoded[index].ids).lstrip()
            else:
                text = self.prompts.decode(ids, prompt=encoded[index].ids)
            for word in stop_words:
                text = text.split(word)[0]
            yield index, text
        self.note_ways()

    def log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """See interface.LanguageModel."""
        known = [index for index, text in enumerate(texts) if text in self._read]
        unread = [index for index, text in enumerate(texts) if text not in self._read]
        for index in known:
            yield index, self._read[texts[index]]
        encoded = [self._with_start(each.ids) for each in self._encode([texts[index] for index in unread], "texts")]
        if self.window is not None:
            self.note_cut(sum(len(ids) > self.window for ids in encoded), "texts", "were cut to it")
            encoded = [ids[: self.window] for ids in encoded]
        for place, found in log_probabilities(self.model, encoded, size=self.size):
            index = unread[place]
            self._read[texts[index]] = self.replace_nonfinite(found, "tokens", encoded[place])
            yield index, self._read[texts[index]]
        self.note_ways()

    def cut(self, text: str, tokens: int) -> str:
        """See interface.LanguageModel."""
        return self.prompts.decode(self.prompts.encode(text).ids[:tokens])

    def _encode(self, texts: Sequence[str], what: str) -> list[Encoded]:
        """Encode texts, at least a token each, and note what was done with special tokens."""
        encoded = [self.prompts.encode(text) for text in texts]
        for each in encoded:
            refuse_unknown_tokens(each.ids, self.model)
        for note in self.prompts.notes(encoded, texts, what):
            self.note(note)
        # some tokenizers give no token for some texts; a model needs one to start from
        return [each if each.ids else replace(each, ids=[self._start_id() or 0]) for each in encoded]

    def _cut_prompts(self, encoded: Sequence[Encoded], most: int) -> list[Encoded]:
        """Cut prompts to so many tokens: the special ones that each begins with, and its end."""
        longer = [each for each in encoded if len(each.ids) > most]
        kept = next((self.prompts.name_first(each) for each in longer if each.first), "")
        how = f"lost their beginning but for its first token, {kept}" if kept else "lost their beginning"
        self.note_cut(len(longer), "prompts", how)
        return [replace(each, ids=each.end(most)) for each in encoded]

    def _with_start(self, ids: list[int]) -> list[int]:
        """Put a start before a lone token, so that it has a probability."""
        start = self._start_id()
        return [start, *ids] if len(ids) == 1 and start is not None and ids != [start] else ids

    def _start_id(self) -> int | None:
        start: int | None = self.tokenizer.bos_token_id
        is_known = start is not None and start < vocabulary_of(self.model)
        return start if is_known else next(iter(self.end_ids), None)
