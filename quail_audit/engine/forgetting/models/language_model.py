"""Run a transformers language model for the metrics: text in, text or probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.metrics.interface import Chat, TokenScores, Truth
from quail_audit.engine.forgetting.models.base import EvaluatedModel, refuse_unknown_tokens
from quail_audit.engine.forgetting.models.chat_templates import make_chats, refuse_unmade
from quail_audit.engine.forgetting.models.end_tokens import find_end_ids
from quail_audit.engine.forgetting.models.forward import vocabulary_of
from quail_audit.engine.forgetting.models.generation import generate
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow, read_tokens
from quail_audit.engine.forgetting.models.nonfinite import generate_finite
from quail_audit.engine.forgetting.models.prompts import Encoded, Prompts, Rendered, excerpt
from quail_audit.engine.forgetting.models.quiet import quiet_transformers
from quail_audit.engine.forgetting.models.truths import TruthRow, join_truth
from quail_audit.engine.forgetting.models.windows import window_of_language_model
from quail_audit.runs.journal import Journal
from quail_audit.schema.requests import PromptFormat


class TransformersModel(EvaluatedModel):
    """Implements interface.LanguageModel. Remembers the scores of tokens, as several metrics read the same.

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
        self._truth_rows: dict[tuple[Truth, bool, int | None], TruthRow] = {}
        self._read: dict[tuple[int, ...], tuple[int, TokenScores]] = {}  # ids -> the first that is scored, scores

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
        for index, found in self.token_scores(texts):
            yield index, found.log_probabilities

    def token_scores(self, texts: Sequence[str], *, spread: bool = False) -> Iterator[tuple[int, TokenScores]]:
        """See interface.LanguageModel."""
        whole = [self._with_start(each.ids) for each in self._encode(texts, "texts")]
        rows = [TokenRow(ids[: self.window]) for ids in whole]
        is_cut = [len(row.ids) < len(ids) for row, ids in zip(rows, whole, strict=True)]
        self.note_cut(sum(is_cut), "texts", "were cut to it")
        read = [
            self.prompts.decode(row.ids) if cut else text for row, text, cut in zip(rows, texts, is_cut, strict=True)
        ]
        yield from self._score(rows, read, spread=spread)

    def truth_scores(
        self, truths: Sequence[Truth], *, most_tokens: int | None = None
    ) -> Iterator[tuple[int, TokenScores]]:
        """See interface.LanguageModel."""
        with quiet_transformers():
            rows = [self._truth_row(truth, most_tokens) for truth in truths]
        for note in self.prompts.notes([row.prompt for row in rows], [truth.prompt for truth in truths], "prompts"):
            self.note(note)
        self.note_cut(sum(row.lost > 0 for row in rows), "prompts with their truths", "lost the prompt's beginning")
        self.note_cut(sum(row.is_cut for row in rows), "truths", "were cut to it")
        if empty := [truth.prompt for row, truth in zip(rows, truths, strict=True) if len(row.ids) <= row.first]:
            self.note(
                f"{len(empty)} of {len(rows)} truths have no token of their own, so there is nothing to score: they "
                f"count as 0 in every arm, such as that of the prompt {excerpt(empty[0])}"
            )
        yield from self._score(rows, [row.text for row in rows], spread=False)

    def cut(self, text: str, tokens: int) -> str:
        """See interface.LanguageModel."""
        return self.prompts.decode(self.prompts.encode(text).ids[:tokens])

    def _truth_row(self, truth: Truth, most_tokens: int | None) -> TruthRow:
        key = truth, isinstance(truth.prompt, Rendered), most_tokens
        if key not in self._truth_rows:
            row = join_truth(
                self.prompts,
                truth,
                most_tokens=most_tokens,
                window=self.window,
                start=self._start_id(),
                ends=self.end_ids,
            )
            refuse_unknown_tokens(row.whole.ids, self.model)
            self._truth_rows[key] = row
        return self._truth_rows[key]

    def _score(
        self, rows: Sequence[TokenRow], texts: Sequence[str], *, spread: bool
    ) -> Iterator[tuple[int, TokenScores]]:
        """Yield the scores of rows, each read once however many metrics ask for it."""
        unread: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, row in enumerate(rows):
            found = self._find(row, texts[index], spread=spread)
            if found is None:
                unread.setdefault((tuple(row.ids), row.first), []).append(index)
            else:
                yield index, found
        alike = list(unread.values())
        to_read = [rows[indices[0]] for indices in alike]
        for place, columns in read_tokens(self.model, to_read, size=self.size, spread=spread):
            ids = to_read[place].ids
            nats = self.replace_nonfinite(columns[0], "tokens", ids)
            for index in alike[place]:
                scores = TokenScores(texts[index], nats, columns[1] == 1.0, *columns[2:])
                self._read[tuple(ids)] = rows[index].first, scores
                yield index, scores
        self.note_ways()

    def _find(self, row: TokenRow, text: str, *, spread: bool) -> TokenScores | None:
        """Return what is known of a row: that it has no token to score, or what was read of it, or of more of it."""
        if len(row.ids) <= row.first:
            nothing = np.zeros(0, dtype=np.float32)
            return TokenScores(text, nothing, nothing == 1.0, nothing, nothing)
        longer = [row.whole.ids[: self.window]] if isinstance(row, TruthRow) else []
        for ids in (row.ids, *longer):
            first, found = self._read.get(tuple(ids), (0, None))
            is_part = first <= row.first and ids[: len(row.ids)] == row.ids
            if found is not None and is_part and (found.means is not None or not spread):
                is_all = first == row.first and len(ids) == len(row.ids) and found.text == text
                return found if is_all else replace(found.part(row.first - first, len(row.ids) - first), text=text)
        return None

    def _encode(self, texts: Sequence[str], what: str) -> list[Encoded]:
        """Encode texts, at least a token each, and note what was done with special tokens."""
        with quiet_transformers():
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
