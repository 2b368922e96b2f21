"""Make token ids of texts as a language model was trained to see them, and texts of its ids.

The special tokens that a tokenizer puts in front come once: a text that brings them, such as a rendered chat template,
gets no second ones. Those that it puts behind a text are left out: a prompt is to be continued, and the probability of
a text is that of its own tokens, so that a tokenizer saved with another ending changes neither. A prompt that is too
long keeps the special tokens that it begins with. Truncation and padding saved with a tokenizer are switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.models.quiet import quiet_transformers

CONTEXT_TOKENS = 8  # of a prompt, decoded with its answer: a decoder looks no further back
EXAMPLE_CHARACTERS = 40
_PROBES = ("a", "the", "1", ".")  # texts without special tokens; a small vocabulary may lack the first


@dataclass(frozen=True)
class Encoded:
    """A text's token ids.

    Attributes:
        ids: all of them; there may be none.
        first: how many special tokens they begin with.
        brought: how many of these the text brought itself.
        left_out: how many that the tokenizer puts behind a text were left out.
    """

    ids: list[int]
    first: int = 0
    brought: int = 0
    left_out: int = 0

    def end(self, most: int) -> list[int]:
        """Return at most so many ids: the special ones that the text begins with, then its end."""
        if len(self.ids) <= most:
            return self.ids
        first = min(self.first, most - 1)
        return [*self.ids[:first], *self.ids[len(self.ids) - most + first :]]


class Rendered(str):
    """A prompt that a chat template made: its special tokens are in it, and a tokenizer adds none.

    What is put behind it, such as an answer, is of the same kind.
    """

    __slots__ = ()

    def __add__(self, other: str) -> Rendered:
        return Rendered(str.__add__(self, other))


class Prompts:
    """Encodes and decodes a tokenizer's texts. Remembers what it encoded, as several metrics ask the same.

    Attributes:
        before, after: the special tokens that the tokenizer puts before and behind every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        self.before, self.after = _around(tokenizer)
        self._encoded: dict[tuple[str, bool], Encoded] = {}

    def encode(self, text: str) -> Encoded:
        """Return a text's ids, as a prompt or as a text whose probability is read."""
        key = text, isinstance(text, Rendered)
        if key not in self._encoded:
            self._encoded[key] = self._encode(text)
        return self._encoded[key]

    def _encode(self, text: str) -> Encoded:
        start = self.tokenizer.bos_token_id
        if isinstance(text, Rendered):
            ids = token_ids(self.tokenizer, text, special=False)
            return Encoded(ids, int(start is not None and ids[:1] == [start]))
        ids = token_ids(self.tokenizer, text)
        before, after = self.before, self.after
        if ids[: len(before)] != before or ids[len(ids) - len(after) :] != after or len(ids) < len(before + after):
            before, after = [], []  # a tokenizer may leave out what the text brings
        own = ids[len(before) : len(ids) - len(after)]
        brought = next((n for n in range(min(len(before), len(own)), 0, -1) if before[-n:] == own[:n]), 0)
        first = len(before) if before else int(start is not None and own[:1] == [start])
        return Encoded([*before[: len(before) - brought], *own], first, brought, len(after))

    def decode(self, ids: Sequence[int], *, prompt: Sequence[int] = ()) -> str:
        """Return text as MUSE's code decodes it: without special tokens, and without spaces before punctuation.

        The cleaning up is asked for by itself, because transformers now skips it for some tokenizers.

        Args:
            ids: the ids.
            prompt: the ids before them, as some decoders take the space from the first word that they see, or leave
                its mark of a word's middle.
        """
        context = list(prompt)[-CONTEXT_TOKENS:]
        text, known = self.text([*context, *ids]), self.text(context)
        if not context or not text.startswith(known):
            text, known = self.text(ids), ""
        cleaned: str = self.tokenizer.clean_up_tokenization(text[len(known) :])
        return cleaned

    def text(self, ids: Sequence[int]) -> str:
        """Return what ids decode to without special tokens, nothing cleaned up."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def notes(self, encoded: Sequence[Encoded], texts: Sequence[str], what: str) -> list[str]:
        """Return what was done with the special tokens of prompts or texts, with an example each."""
        notes = []
        if brought := [text for each, text in zip(encoded, texts, strict=True) if each.brought]:
            notes.append(
                f"{len(brought)} of {len(texts)} {what} begin with {self._names(self.before)} themselves and got no "
                f"second one, such as {excerpt(brought[0])}"
            )
        if left_out := [text for each, text in zip(encoded, texts, strict=True) if each.left_out]:
            notes.append(
                f"the tokenizer puts {self._names(self.after)} behind every text; it was left out of {what}, such as "
                f"{excerpt(left_out[0])}"
            )
        return notes

    def name_first(self, encoded: Encoded) -> str:
        """Return the special tokens that a text begins with, as they are written."""
        return self._names(encoded.ids[: encoded.first])

    def _names(self, ids: Sequence[int]) -> str:
        return printable("".join(map(str, self.tokenizer.convert_ids_to_tokens(list(ids)))), limit=EXAMPLE_CHARACTERS)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> list[int]:
    """Return a whole text's ids, with or without the tokenizer's special ones."""
    untyped: Any = tokenizer
    with quiet_transformers():  # it warns of long texts, which are cut elsewhere
        return list(untyped(text, add_special_tokens=special, truncation=False, padding=False)["input_ids"])


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and behind a text; none if it changes the text's own."""
    for text in _PROBES:
        own, whole = (token_ids(tokenizer, text, special=special) for special in (False, True))
        for place in range(len(whole) - len(own) + 1 if own else 0):
            if whole[place : place + len(own)] == own:
                return whole[:place], whole[place + len(own) :]
    return [], []


def excerpt(text: str) -> str:
    """Return the beginning of a text, quoted, for a note."""
    return repr(printable(text, limit=EXAMPLE_CHARACTERS))
